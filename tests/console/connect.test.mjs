// A person connects an account at a real provider, in a real browser, from the page to the page.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { Server } from '../interop/server.mjs'
import { assertAccessible, assertFits, assertValid, launch, main, newPage, shows } from './browser.mjs'
import { nameOf, signIn, startProvider, typeName } from './provider.mjs'

const CONSOLE = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const VAULT = { client_id: 'actchain-vault', client_secret: 'vault-secret-0123456789' }
const SCOPES = 'openid offline_access mail.read mail.send'

let server, browser, idp
/** The tokens that the provider has issued, and how often it revoked. */
const issued = new Set()
let revocations = 0

before(async () => {
  server = await Server.start({})
  // People sign in at this provider, and have an account there that the vault keeps.
  idp = await startProvider(SCOPES, issuer => ({
    clients: [
      { ...CONSOLE, redirect_uris: [`${server.issuer}/console/callback/${nameOf(issuer)}`], id_token_signed_response_alg: 'ES256' },
      {
        ...VAULT,
        redirect_uris: [`${server.issuer}/vault/callback/accounts`],
        grant_types: ['authorization_code', 'refresh_token'],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    scopes: SCOPES.split(' '),
    features: { revocation: { enabled: true } },
  }))
  const { issuer, provider, listener } = idp
  for (const kind of ['access_token', 'refresh_token', 'authorization_code']) {
    provider.on(`${kind}.saved`, token => issued.add(token.jti))
  }
  listener.on('request', request => {
    if (request.url.startsWith('/token/revocation')) revocations += 1
  })
  await server.apply({
    issuers: [{ iss: issuer, discover: true, audiences: ['actchain'], sign_in: { ...CONSOLE, scopes: ['openid'], roles: [] } }],
    providers: [{
      id: 'accounts',
      name: 'Accounts & Mail',
      ...VAULT,
      authorization_endpoint: `${issuer}/auth`,
      token_endpoint: `${issuer}/token`,
      revocation_endpoint: `${issuer}/token/revocation`,
      scopes: ['mail.read', 'mail.send'],
      always_scopes: ['openid', 'offline_access'],
      authorization_params: { prompt: 'login consent' },
    }],
  })
  browser = await launch()
})

after(async () => {
  await browser?.close()
  idp?.stop()
  await server?.stop()
})

const visit = (options = {}) => newPage(browser, server, { others: [idp.issuer], ...options })
const list = () => `${server.issuer}/console/connections`

async function check(page, name) {
  await assertFits(page, name)
  await assertValid(await page.content(), name)
  await assertAccessible(page, name)
}

test('an account is connected and disconnected by keys alone, and no page has a credential', async () => {
  const { page, context, complaints } = await visit()
  const seen = []
  page.on('response', async response => {
    if (response.url().startsWith(server.issuer)) seen.push(await response.text().catch(() => ''))
  })
  await signIn(page, server, 'alice', '/console')
  await page.keyboard.press('g')
  await page.keyboard.press('v')
  await page.waitForURL(list())
  await check(page, 'an empty list')
  await page.keyboard.press('c')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/connections/new?provider=accounts')
  assert.match(await main(page), /Always asked: offline_access, openid/)
  await check(page, 'the form')
  await page.getByRole('button', { name: 'Begin' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'You are leaving for 127.0.0.1' }).waitFor()
  assert.match(await main(page), /give this server: mail\.read, mail\.send, offline_access, openid/)
  await check(page, 'the page that leaves')
  await page.getByRole('link', { name: 'Continue to 127.0.0.1' }).focus()
  await page.keyboard.press('Enter')
  await typeName(page, 'alice-at-accounts')
  await page.waitForURL(/\/console\/connections\/[0-9a-f-]{36}$/)
  assert.match(await main(page), /Connection to accounts[\s\S]*active/)
  await check(page, 'a connection')
  const connection = page.url()
  await page.keyboard.press('Escape')
  await page.waitForURL(list())
  assert.match(await main(page), /mail\.read/)
  await check(page, 'the list')
  await page.goBack()
  await page.waitForURL(connection)
  await page.keyboard.press('x')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/disconnect')
  await check(page, 'the page before the end')
  await page.keyboard.press('x')
  await page.keyboard.press('Enter')
  await page.waitForURL(connection)
  assert.match(await main(page), /disconnected[\s\S]*The provider was informed/)
  assert.equal(revocations, 1)
  await check(page, 'a disconnected connection')
  assert(issued.size >= 3, `${issued.size} tokens and codes`)
  const events = await server.run('audit', 'export')
  for (const secret of issued) {
    for (const text of [...seen, events]) assert(!text.includes(secret), secret)
  }
  assert.deepEqual(complaints, [])
  await context.close()
})

test('without scripts, an account is connected in another browser by the code that it shows', async () => {
  const { page, context, complaints } = await visit({ javaScriptEnabled: false })
  await signIn(page, server, 'bob', '/console/connections')
  await page.getByRole('link', { name: 'Connect Accounts & Mail' }).click()
  await page.getByLabel('mail.send').uncheck()
  await page.getByRole('button', { name: 'Begin' }).click()
  const link = await page.getByRole('link', { name: 'Continue to 127.0.0.1' }).getAttribute('href')
  assert.match(link, /scope=mail\.read(\+|%20)offline_access(\+|%20)openid/)
  const other = await visit()
  await other.page.goto(link)
  await typeName(other.page, 'bob-at-accounts')
  await other.page.waitForURL('**/vault/callback/accounts?**')
  const code = await other.page.locator('code').innerText()
  assert.match(await other.page.locator('body').innerText(), /Do not give this code to others/)
  await page.getByRole('link', { name: 'type the code here' }).click()
  await page.getByLabel('Code').fill('0000-0000-0000')
  await page.getByRole('button', { name: 'Finish' }).click()
  await shows(page, /This code does not fit/)
  await page.getByLabel('Code').fill(code)
  await page.getByRole('button', { name: 'Finish' }).click()
  await page.waitForURL(/\/console\/connections\/[0-9a-f-]{36}$/)
  assert.match(await main(page), /active/)
  assert.deepEqual([...complaints, ...other.complaints], [])
  await other.context.close()
  await context.close()
})

test('a provider that declines leads back to the console', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, server, 'carol', '/console/connections/new?provider=accounts')
  await page.getByRole('button', { name: 'Begin' }).click()
  const link = await page.getByRole('link', { name: 'Continue to 127.0.0.1' }).getAttribute('href')
  const state = new URL(link).searchParams.get('state')
  await page.goto(`${server.issuer}/vault/callback/accounts?error=access_denied&state=${state}`)
  assert.match(await page.locator('body').innerText(), /did not give access/)
  await page.getByRole('link', { name: 'See your connections' }).click()
  await page.waitForURL(list())
  assert.match(await main(page), /No account is connected/)
  assert.deepEqual(complaints, [])
  await context.close()
})
