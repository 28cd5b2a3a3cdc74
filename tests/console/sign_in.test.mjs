// People sign in to the console at a real OpenID provider, in a real browser.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { Server } from '../interop/server.mjs'
import { assertAccessible, assertFits, assertValid, command, launch, main, newPage } from './browser.mjs'
import { nameOf, signIn, startProvider, typeName } from './provider.mjs'

const MAIL = 'https://mail.example.com'
const CLIENT = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const GROUPS = { ada: ['staff', 'ops'], max: ['audit'] }

let server, browser, idp, issuer

const configuration = issuer => ({
  clients: [{
    ...CLIENT,
    redirect_uris: [`${server.issuer}/console/callback/${nameOf(issuer)}`],
    post_logout_redirect_uris: [`${server.issuer}/console/sign-in`],
    backchannel_logout_uri: `${server.issuer}/console/backchannel-logout/${nameOf(issuer)}`,
    backchannel_logout_session_required: true,
    id_token_signed_response_alg: 'ES256',
  }],
  claims: { openid: ['sub'], groups: ['groups'], email: ['email'] },
  conformIdTokenClaims: false,
  // Without its guard against requests to loopback: the server under test is there.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  features: {
    backchannelLogout: { enabled: true },
    // The default pages request fonts from elsewhere.
    rpInitiatedLogout: {
      logoutSource: (ctx, form) => (ctx.body = `<!doctype html><title>Provider</title>${form}<button form="op.logoutForm" name="logout" value="yes">Yes</button>`),
      postLogoutSuccessSource: ctx => (ctx.body = '<!doctype html><title>Provider</title><p>Signed out'),
    },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: GROUPS[id] ?? [], email: `${id}@example.com` }) }),
})

const request = (delegator, ...args) =>
  command(server, 'delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', issuer, '--delegator', delegator, ...args).id

before(async () => {
  server = await Server.start({})
  idp = await startProvider('openid groups email', configuration)
  issuer = idp.issuer
  idp.provider.on('backchannel.error', (_, error) => console.error(error))
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
  browser = await launch()
})

after(async () => {
  await browser?.close()
  idp?.stop()
  await server?.stop()
})

const visit = (options = {}) => newPage(browser, server, { others: [issuer], ...options })

for (const javaScriptEnabled of [true, false]) {
  test(`a user signs in on the way to a request and decides it, ${javaScriptEnabled ? 'with' : 'without'} scripts`, async () => {
    const id = request('alice', '--scope', 'mail.read', '--expires-in', '1h')
    const others = request('bob', '--scope', 'mail.read')
    const { page, context, complaints } = await visit({ javaScriptEnabled })
    await signIn(page, server, 'alice', `/console/approvals/${id}`)
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
  await signIn(page, server, 'ada', path)
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
  await again.waitForURL(`${server.issuer}${path}?chosen=yes&*#signed-in-again`)
  assert.equal(await again.getByLabel('mail.send', { exact: true }).isChecked(), false, 'what was narrowed is still narrow')
  assert.equal(await again.locator('#signed-in-again').isVisible(), true)
  assert.match(await main(again), /Nothing was done yet/)
  await again.getByRole('button', { name: 'Approve' }).click()
  await again.waitForURL(`${server.issuer}/console/delegations/${id}`)
  assert.match(await main(again), /active/)
  assert.doesNotMatch(await main(again), /mail\.send/)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('an auditor reads and decides nothing', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, server, 'max')
  assert.match(await page.locator('.who').innerText(), /as auditor/)
  const names = await page.locator('nav a').allInnerTexts()
  assert(!names.includes('Approvals') && !names.includes('Registry'), names.join())
  assert.equal((await page.goto(`${server.issuer}/console/approvals`)).status(), 404)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a person signs out here and at the provider', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, server, 'alice')
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
  const n = nameOf(issuer)
  const { page, context, complaints } = await visit()
  for (const path of ['/sign-in', `/signed-out/${n}`, `/callback/${n}?error=access_denied`, `/callback/${n}?state=${'A'.repeat(43)}&code=x`]) {
    const answer = await page.goto(`${server.issuer}/console${path}`)
    await assertValid(await answer.text(), path)
    await assertFits(page, path)
    await assertAccessible(page, path)
  }
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a logout at the provider ends the session in the console', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, server, 'bob')
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
