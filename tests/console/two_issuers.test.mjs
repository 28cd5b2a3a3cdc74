// Cookies do not know ports: two servers on one host in one browser, and one server at which people of two providers sign in.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'

import { Server } from '../interop/server.mjs'
import { command, enter, launch, main, newPage, shows } from './browser.mjs'
import { nameOf, startProvider, typeName } from './provider.mjs'

const CLIENT = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const MAIL = 'https://mail.example.com'

let servers, browser, idps, elsewhere

before(async () => {
  servers = [await Server.start({}), await Server.start({})]
  const configuration = issuer => ({
    clients: [{
      ...CLIENT,
      redirect_uris: servers.map(server => `${server.issuer}/console/callback/${nameOf(issuer)}`),
      id_token_signed_response_alg: 'ES256',
    }],
    claims: { openid: ['sub'], groups: ['groups'] },
    conformIdTokenClaims: false,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: id === 'ada' ? ['ops'] : [] }) }),
  })
  idps = [await startProvider('openid groups', configuration), await startProvider('openid groups', configuration)]
  const [first, second] = idps.map(({ issuer }) => ({
    iss: issuer, discover: true, audiences: ['actchain'], sign_in: { ...CLIENT, scopes: ['openid', 'groups'], roles: [] },
  }))
  first.sign_in.roles = [{ role: 'admin', claim: 'groups', value: 'ops' }]
  const manifest = {
    // The names of both providers' users are the same.
    issuers: [first, { ...second, alias: 'second' }],
    resources: [{ id: MAIL, scopes: ['mail.read'] }],
    clients: [{ id: 'travel-bot', kind: 'agent', auth: 'client_secret_basic', secret: 'travel-bot-secret-0123456789', scopes: ['mail.read'], audiences: [MAIL], grant_types: ['token-exchange'] }],
  }
  await Promise.all(servers.map(server => server.apply(manifest)))
  // Another application on the same host: the same site, another origin.
  elsewhere = createServer((request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>Elsewhere</title><p>Another application')).listen(0, '127.0.0.1')
  await once(elsewhere, 'listening')
  browser = await launch()
})

after(async () => {
  await browser?.close()
  elsewhere?.close()
  for (const idp of idps ?? []) idp.stop()
  for (const server of servers ?? []) await server.stop()
})

const origins = () => [...servers.map(server => server.issuer), ...idps.map(idp => idp.issuer), `http://127.0.0.1:${elsewhere.address().port}`]
const visit = () => newPage(browser, servers[0], { others: origins() })
const who = page => page.locator('.who').innerText()

/** Whether a server knows the session that the browser has. */
async function isIn(page, server) {
  await page.goto(`${server.issuer}/console`)
  return !new URL(page.url()).pathname.startsWith('/console/sign-in')
}

/** The session cookie that a server has set. */
async function sessionOf(context, server, before = []) {
  const cookies = await context.cookies(server.issuer)
  const sessions = cookies.filter(({ name }) => /^actchain-[0-9a-f]{8}$/.test(name) && !before.some(one => one.name === name))
  assert.equal(sessions.length, 1)
  return sessions[0]
}

/** Signs in at one of the providers, on the way to a page or from the list of providers. */
async function signInAt(page, server, idp, name, path) {
  await page.goto(`${server.issuer}${path ?? '/console/sign-in'}`)
  await page.locator('ul.issuers').getByRole('link', { name: idp.issuer }).click()
  await typeName(page, name)
  await page.waitForURL(server.issuer + (path ?? '/console'))
}

const formToken = (page, action) => page.locator(`form[action$="${action}"] input[name=form_token]`).first().inputValue()

/** Sends a form as a script of the page, and returns the status and the text of the answer. */
const post = (page, path, fields) =>
  page.evaluate(async ([path, fields]) => {
    const answer = await fetch(path, { method: 'POST', body: new URLSearchParams(fields) })
    return [answer.status, await answer.text()]
  }, [path, fields])

test('of two servers on one host, a session at one neither enters nor ends one at the other', async () => {
  const [one, other] = servers
  const { page, context, complaints } = await visit()
  await enter(page, one)
  assert.equal(await isIn(page, other), false)
  const first = await sessionOf(context, one)
  await enter(page, other)
  const second = await sessionOf(context, other, [first])
  assert.equal(await isIn(page, one), true)
  // The value of one server's cookie is no session at the other, under any name.
  const put = (...cookies) => context.clearCookies().then(() => context.addCookies(cookies))
  for (const [from, to, server] of [[first, second, other], [second, first, one]]) {
    await put({ ...to, value: from.value })
    assert.equal(await isIn(page, server), false)
    await put(from)
    assert.equal(await isIn(page, server), false)
  }
  await put(first, second)
  assert.equal(await isIn(page, one) && await isIn(page, other), true, 'refused cookies ended nothing')
  await page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await page.getByText('Sign in').first().waitFor()
  assert.equal(await isIn(page, other), false)
  assert.equal(await isIn(page, one), true)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a form token of one server is refused by the other, and so is a form of another application on the host', async () => {
  const [one, other] = servers
  const { page, context } = await visit()
  const tokens = []
  for (const server of servers) {
    await enter(page, server)
    tokens.push(await formToken(page, '/console/sign-out'))
  }
  for (const [place, server] of servers.entries()) {
    await page.goto(`${server.issuer}/console`)
    const [status, text] = await post(page, '/console/sign-out', { form_token: tokens[1 - place] })
    assert.equal(status, 403)
    assert.match(text, /The form is not one of your session/)
    assert.equal(await isIn(page, server), true)
  }
  // A stolen token is of no use in another application: the browser sends the cookie, and says where the form comes from.
  for (const [place, server] of servers.entries()) {
    const action = `${server.issuer}/console/sign-out`
    await page.goto(`http://127.0.0.1:${elsewhere.address().port}/`)
    const answer = page.waitForResponse(answer => answer.url() === action)
    await page.evaluate(([action, form_token]) => {
      const form = document.body.appendChild(Object.assign(document.createElement('form'), { method: 'post', action }))
      form.append(Object.assign(document.createElement('input'), { name: 'form_token', value: form_token }))
      form.submit()
    }, [action, tokens[place]])
    assert.equal((await answer).status(), 403)
    await shows(page, 'The request did not come from a page of this console')
    await page.getByRole('button', { name: 'Sign out', exact: true }).waitFor()
    assert.equal(await isIn(page, server), true)
  }
  // Each token is good at its own server.
  await page.goto(`${one.issuer}/console`)
  assert.equal((await post(page, '/console/sign-out', { form_token: tokens[0] }))[0], 200)
  assert.equal(await isIn(page, one), false)
  assert.equal(await isIn(page, other), true)
  await context.close()
})

test('sign-ins that begin at two servers at once end at their own servers', async () => {
  const [one, other] = servers
  const [idp] = idps
  const { page, context, complaints } = await visit()
  const begun = page.waitForRequest(request => request.url().startsWith(`${idp.issuer}/auth?`))
  await page.goto(`${one.issuer}/console/sign-in`)
  await page.getByRole('link', { name: idp.issuer }).click()
  const state = new URL((await begun).url()).searchParams.get('state')
  await page.getByLabel('Name').waitFor()
  const tab = await context.newPage()
  // The state of the one server is unknown to the other, and stays good at the one.
  const answer = await tab.goto(`${other.issuer}/console/callback/${nameOf(idp.issuer)}?${new URLSearchParams({ state, code: 'x', iss: idp.issuer })}`)
  assert.equal(answer.status(), 410)
  await signInAt(tab, other, idp, 'alice')
  await typeName(page, 'bob')
  await page.waitForURL(`${one.issuer}/console`)
  assert.match(await who(page), /^bob · /)
  await tab.reload()
  assert.match(await who(tab), /^alice · /)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('people of two providers with the same name are different people with roles of their own', async () => {
  const [server] = servers
  const [first, second] = idps
  const request = iss => command(server, 'delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', iss, '--delegator', 'alice', '--scope', 'mail.read').id
  const [ofFirst, ofSecond] = [request(first.issuer), request(second.issuer)]
  for (const [idp, own, others] of [[first, ofFirst, ofSecond], [second, ofSecond, ofFirst]]) {
    const { page, context, complaints } = await visit()
    // From a link, the page offers both providers, and the person returns to the page of the link.
    await signInAt(page, server, idp, 'alice', `/console/approvals/${own}`)
    assert.match(await who(page), new RegExp(`^alice · ${idp.issuer} as user$`))
    assert.equal((await page.goto(`${server.issuer}/console/approvals/${others}`)).status(), 404)
    assert.equal((await page.goto(`${server.issuer}/console/delegations/${others}`)).status(), 404)
    await page.goto(`${server.issuer}/console/approvals/${own}`)
    await page.getByRole('button', { name: 'Deny' }).click()
    await page.locator('[role=main]').getByText('revoked').first().waitFor()
    assert.deepEqual(complaints, [])
    await context.close()
  }
  const { page, context, complaints } = await visit()
  await signInAt(page, server, second, 'ada')
  assert.match(await who(page), /^ada · .* as user$/, 'the groups of the second provider give no role')
  const old = await sessionOf(context, server)
  await signInAt(page, server, first, 'ada')
  assert.match(await who(page), new RegExp(`^ada · ${first.issuer} as administrator$`))
  assert.notEqual((await sessionOf(context, server)).value, old.value)
  await context.addCookies([old])
  assert.equal(await isIn(page, server), false, 'the session before has ended')
  assert.deepEqual(complaints, [])
  await context.close()
})

test('an answer at the redirect URI of the other provider is refused', async () => {
  const [server] = servers
  const [first, second] = idps
  const { page, context } = await visit()
  for (const [asked, at] of [[first, second], [second, first]]) {
    const begun = page.waitForRequest(request => request.url().startsWith(`${asked.issuer}/auth?`))
    await page.goto(`${server.issuer}/console/sign-in`)
    await page.getByRole('link', { name: asked.issuer }).click()
    const state = new URL((await begun).url()).searchParams.get('state')
    for (const iss of [asked.issuer, at.issuer]) {
      const answer = await page.goto(`${server.issuer}/console/callback/${nameOf(at.issuer)}?${new URLSearchParams({ state, code: 'x', iss })}`)
      assert(answer.status() === 403 || answer.status() === 410, `${answer.status()}`)
      assert.match(await main(page), /Sign in/)
      assert.equal(await isIn(page, server), false)
    }
  }
  await context.close()
})
