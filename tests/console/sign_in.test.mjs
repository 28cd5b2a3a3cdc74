// People sign in to the console at a real OpenID provider, in a real browser.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'

import { AxeBuilder } from '@axe-core/playwright'
import { HtmlValidate } from 'html-validate'
import * as jose from 'jose'
import { Provider } from 'oidc-provider'
import { chromium } from 'playwright-core'

import { Server } from '../interop/server.mjs'

const MAIL = 'https://mail.example.com'
const CLIENT = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
const GROUPS = { ada: ['staff', 'ops'], max: ['audit'] }

let server, browser, idp, issuer

/** An OpenID provider: a name is enough. */
async function startProvider(callback, logout) {
  const listener = createServer()
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  issuer = `http://127.0.0.1:${listener.address().port}`
  const key = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).privateKey)
  const provider = new Provider(issuer, {
    clients: [{
      ...CLIENT,
      redirect_uris: [callback(issuer)],
      post_logout_redirect_uris: [`${server.issuer}/console/sign-in`],
      backchannel_logout_uri: logout(issuer),
      backchannel_logout_session_required: true,
      id_token_signed_response_alg: 'ES256',
    }],
    jwks: { keys: [{ ...key, kid: 'idp', alg: 'ES256', use: 'sig' }] },
    claims: { openid: ['sub'], groups: ['groups'], email: ['email'] },
    conformIdTokenClaims: false,
    cookies: { keys: ['a-key-for-cookies'] },
    // Without its guard against requests to loopback: the server under test is there.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      // The default pages request fonts from elsewhere.
      rpInitiatedLogout: {
        logoutSource: (ctx, form) => (ctx.body = `<!doctype html><title>Provider</title>${form}<button form="op.logoutForm" name="logout" value="yes">Yes</button>`),
        postLogoutSuccessSource: ctx => (ctx.body = '<!doctype html><title>Provider</title><p>Signed out'),
      },
    },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: GROUPS[id] ?? [], email: `${id}@example.com` }) }),
    // There is no consent: the console and the provider belong together.
    async loadExistingGrant(ctx) {
      const { provider, session, client } = ctx.oidc
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope('openid groups email')
      await grant.save()
      return grant
    },
  })
  provider.on('backchannel.error', (_, error) => console.error(error))
  const serve = provider.callback()
  listener.on('request', async (request, response) => {
    if (!request.url.startsWith('/interaction/')) return serve(request, response)
    if (request.method === 'GET') {
      response.setHeader('content-type', 'text/html')
      return response.end('<!doctype html><title>Provider</title><form method="post"><label>Name <input name="name"></label><button>Sign in here</button></form>')
    }
    let body = ''
    for await (const piece of request) body += piece
    await provider.interactionFinished(request, response, { login: { accountId: new URLSearchParams(body).get('name') } })
  })
  return listener
}

function request(delegator, ...args) {
  const env = { ...server.environment, ACTCHAIN_ISSUER: server.issuer }
  const all = ['delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', issuer, '--delegator', delegator, ...args, '--json']
  return JSON.parse(execFileSync(server.program, all, { env, stdio: ['ignore', 'pipe', 'ignore'] })).id
}

before(async () => {
  server = await Server.start({})
  const name = iss => createHash('sha256').update(iss).digest('hex').slice(0, 16)
  idp = await startProvider(iss => `${server.issuer}/console/callback/${name(iss)}`, iss => `${server.issuer}/console/backchannel-logout/${name(iss)}`)
  await server.apply({
    issuers: [{
      iss: issuer,
      discover: true,
      audiences: ['actchain'],
      sign_in: {
        ...CLIENT,
        scopes: ['openid', 'groups', 'email'],
        label: 'email',
        roles: [{ role: 'admin', claim: 'groups', value: 'ops' }, { role: 'auditor', claim: 'groups', value: 'audit' }],
      },
    }],
    resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'] }],
    clients: [{
      id: 'travel-bot', kind: 'agent', name: 'Travel bot', auth: 'client_secret_basic', secret: 'travel-bot-secret-0123456789',
      scopes: ['mail.read', 'mail.send'], audiences: [MAIL], grant_types: ['token-exchange'],
    }],
  })
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] })
})

after(async () => {
  await browser?.close()
  idp?.closeAllConnections()
  idp?.close()
  await server?.stop()
})

/** A page that reaches the console and the provider alone; what the console complains of is a failure. */
async function visit(options = {}) {
  const context = await browser.newContext(options)
  const complaints = []
  await context.route('**/*', route => {
    const known = [server.issuer, issuer].includes(new URL(route.request().url()).origin)
    if (!known) complaints.push(`a request to ${route.request().url()}`)
    return known ? route.continue() : route.abort()
  })
  const page = await context.newPage()
  page.on('pageerror', error => complaints.push(error.message))
  page.on('console', message => {
    const harmless = message.text().includes('favicon') || /status of (4\d\d)/.test(message.text())
    const ours = message.location().url.startsWith(server.issuer)
    if (ours && ['error', 'warning'].includes(message.type()) && !harmless) complaints.push(message.text())
  })
  return { page, context, complaints }
}

async function typeName(page, name) {
  await page.getByLabel('Name').fill(name)
  await page.getByRole('button', { name: 'Sign in here' }).click()
}

async function signIn(page, name, path = '/console') {
  await page.goto(server.issuer + path)
  await typeName(page, name)
  await page.waitForURL(server.issuer + path)
}

const main = page => page.locator('[role=main]').innerText()

for (const javaScriptEnabled of [true, false]) {
  test(`a user signs in on the way to a request and decides it, ${javaScriptEnabled ? 'with' : 'without'} scripts`, async () => {
    const id = request('alice', '--scope', 'mail.read', '--expires-in', '1h')
    const others = request('bob', '--scope', 'mail.read')
    const { page, context, complaints } = await visit({ javaScriptEnabled })
    await signIn(page, 'alice', `/console/approvals/${id}`)
    assert.match(await page.locator('.who').innerText(), /alice@example\.com · alice · .* as user/)
    assert.equal(await page.locator('#signed-in-again').isVisible(), false)
    const names = await page.locator('nav a').allInnerTexts()
    assert(names.some(name => name.startsWith('Approvals')) && !names.includes('Registry'), names.join())
    for (const address of await page.locator('nav a').evaluateAll(links => links.map(link => link.href))) {
      assert.equal((await page.goto(address)).status(), 200, address)
    }
    assert.equal((await page.goto(`${server.issuer}/console/approvals/${others}`)).status(), 404)
    await page.goto(`${server.issuer}/console/approvals/${id}`)
    await page.getByRole('button', { name: 'Deny' }).click()
    await page.locator('[role=main]').getByText('revoked').first().waitFor()
    assert.deepEqual(complaints, [])
    await context.close()
  })
}

test('an administrator signs in once more to approve for a user, and comes back to the page', async () => {
  const id = request('alice', '--scope', 'mail.read', '--scope', 'mail.send', '--expires-in', '1h')
  const { page, context, complaints } = await visit()
  const path = `/console/approvals/${id}`
  await signIn(page, 'ada', path)
  assert.match(await page.locator('.who').innerText(), /as administrator/)
  for (const address of await page.locator('nav a').evaluateAll(links => links.map(link => link.href))) {
    assert.equal((await page.goto(address)).status(), 200, address)
  }
  await page.goto(server.issuer + path)
  await page.getByLabel('mail.send', { exact: true }).uncheck()
  await page.getByRole('button', { name: 'Approve' }).click()
  await page.locator('[role=main]').getByText(/Nothing was done\. Sign in once more/).first().waitFor()
  // The form stays, and the sign-in is in a tab of its own.
  const [again] = await Promise.all([context.waitForEvent('page'), page.getByRole('link', { name: 'Sign in once more' }).click()])
  await typeName(again, 'ada')
  await again.waitForURL(`${server.issuer}${path}#signed-in-again`)
  assert.equal(await again.locator('#signed-in-again').isVisible(), true)
  assert.match(await main(again), /Nothing was done yet/)
  await again.getByRole('button', { name: 'Approve' }).click()
  await again.waitForURL(`${server.issuer}/console/delegations/${id}`)
  assert.match(await main(again), /active/)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('an auditor reads and decides nothing', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, 'max')
  assert.match(await page.locator('.who').innerText(), /as auditor/)
  const names = await page.locator('nav a').allInnerTexts()
  assert(!names.includes('Approvals') && !names.includes('Registry'), names.join())
  assert.equal((await page.goto(`${server.issuer}/console/approvals`)).status(), 404)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a person signs out here and at the provider', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, 'alice')
  const kept = await context.cookies(server.issuer)
  await page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await page.waitForURL('**/console/signed-out/*')
  assert.match(await main(page), /You may still be signed in at/)
  await context.addCookies(kept)
  await page.goto(`${server.issuer}/console`)
  // The provider still knows her, and sends her back without a question.
  await page.waitForURL(`${server.issuer}/console`)
  await page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await page.getByRole('link', { name: 'Sign out there, too' }).click()
  await page.getByRole('button', { name: 'Yes' }).click()
  await page.waitForURL(`${server.issuer}/console/sign-in`)
  await page.goto(`${server.issuer}/console`)
  assert.equal(new URL(page.url()).origin, issuer, 'the provider asks for the name again')
  assert.deepEqual(complaints, [])
  await context.close()
})

test('the pages before a session are accessible, valid, and fit, in light and dark', async () => {
  const n = createHash('sha256').update(issuer).digest('hex').slice(0, 16)
  const rules = { 'doctype-style': 'off', 'no-inline-style': 'error', 'long-title': 'off', 'void-style': 'off', 'attribute-boolean-style': 'off', 'no-implicit-button-type': 'error', 'attr-quotes': 'off', 'no-trailing-whitespace': 'off', 'prefer-native-element': 'off' }
  const validator = new HtmlValidate({ extends: ['html-validate:standard'], rules })
  for (const colorScheme of ['light', 'dark']) {
    const { page, context, complaints } = await visit({ colorScheme })
    for (const path of ['/sign-in', `/signed-out/${n}`, `/callback/${n}?error=access_denied`, `/callback/${n}?state=${'A'.repeat(43)}&code=x`]) {
      for (const width of [1440, 320]) {
        await page.setViewportSize({ width, height: 900 })
        const answer = await page.goto(`${server.issuer}/console${path}`)
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
        assert(wide <= 0, `${path} at ${width}: ${wide} px too wide`)
        const report = await validator.validateString(await answer.text())
        assert.deepEqual(report.results.flatMap(result => result.messages.map(one => `${one.ruleId}: ${one.message}`)), [], path)
      }
      const axe = await new AxeBuilder({ page }).withTags(WCAG).analyze()
      assert.deepEqual(axe.violations.map(one => `${one.id}: ${one.nodes.map(node => node.target)}`), [], `${path} in ${colorScheme}`)
    }
    assert.deepEqual(complaints, [])
    await context.close()
  }
})

test('a logout at the provider ends the session in the console', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, 'bob')
  await page.goto(`${issuer}/session/end`)
  await page.getByRole('button', { name: 'Yes' }).click()
  await page.getByText('Signed out').waitFor()
  await page.goto(`${server.issuer}/console`)
  assert.equal(new URL(page.url()).origin, issuer)
  assert.deepEqual(complaints, [])
  const events = await server.run('audit', 'export')
  assert(events.includes('"console.session_ended"') && events.includes('"console.signed_in"'))
  await context.close()
})
