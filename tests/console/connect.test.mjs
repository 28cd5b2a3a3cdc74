// A person connects an account at a real provider, in a real browser, from the page to the page.

import assert from 'node:assert/strict'
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

const CONSOLE = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const VAULT = { client_id: 'actchain-vault', client_secret: 'vault-secret-0123456789' }
const SCOPES = 'openid offline_access mail.read mail.send'
const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
const RULES = { 'doctype-style': 'off', 'no-inline-style': 'error', 'long-title': 'off', 'void-style': 'off', 'attribute-boolean-style': 'off', 'no-implicit-button-type': 'error', 'attr-quotes': 'off', 'no-trailing-whitespace': 'off', 'prefer-native-element': 'off' }

let server, browser, idp, issuer
/** The tokens that the provider has issued, and how often it revoked. */
const issued = new Set()
let revocations = 0

/** An OpenID provider at which people sign in, and at which they have an account that the vault keeps. */
async function startProvider(callback) {
  const listener = createServer()
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  issuer = `http://127.0.0.1:${listener.address().port}`
  const key = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).privateKey)
  const provider = new Provider(issuer, {
    clients: [
      { ...CONSOLE, redirect_uris: [callback(issuer)], id_token_signed_response_alg: 'ES256' },
      {
        ...VAULT,
        redirect_uris: [`${server.issuer}/vault/callback/accounts`],
        grant_types: ['authorization_code', 'refresh_token'],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    scopes: SCOPES.split(' '),
    jwks: { keys: [{ ...key, kid: 'idp', alg: 'ES256', use: 'sig' }] },
    cookies: { keys: ['a-key-for-cookies'] },
    features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    async loadExistingGrant(ctx) {
      const { provider, session, client } = ctx.oidc
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope(SCOPES)
      await grant.save()
      return grant
    },
  })
  for (const kind of ['access_token', 'refresh_token', 'authorization_code']) {
    provider.on(`${kind}.saved`, token => issued.add(token.jti))
  }
  const serve = provider.callback()
  listener.on('request', async (request, response) => {
    if (request.url.startsWith('/token/revocation')) revocations += 1
    if (!request.url.startsWith('/interaction/')) return serve(request, response)
    if (request.method === 'GET') {
      response.setHeader('content-type', 'text/html')
      return response.end('<!doctype html><title>Provider</title><form method="post"><label>Name <input name="name"></label><button>Sign in here</button></form>')
    }
    let body = ''
    for await (const piece of request) body += piece
    const login = { accountId: new URLSearchParams(body).get('name') }
    await provider.interactionFinished(request, response, { login, consent: {} })
  })
  return listener
}

before(async () => {
  server = await Server.start({})
  const name = iss => createHash('sha256').update(iss).digest('hex').slice(0, 16)
  idp = await startProvider(iss => `${server.issuer}/console/callback/${name(iss)}`)
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

async function signIn(page, name, path) {
  await page.goto(server.issuer + path)
  await typeName(page, name)
  await page.waitForURL(server.issuer + path)
}

const main = page => page.locator('[role=main]').innerText()
const list = () => `${server.issuer}/console/connections`

/** A page that fits, is valid, and has no finding of axe. */
async function check(page, name) {
  for (const width of [1440, 320]) {
    await page.setViewportSize({ width, height: 900 })
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
    assert(wide <= 0, `${name} at ${width}: ${wide} px too wide`)
  }
  await page.setViewportSize({ width: 1440, height: 900 })
  const report = await new HtmlValidate({ extends: ['html-validate:standard'], rules: RULES }).validateString(await page.content())
  assert.deepEqual(report.results.flatMap(result => result.messages.map(one => `${one.ruleId}: ${one.message}`)), [], name)
  const axe = await new AxeBuilder({ page }).withTags(WCAG).analyze()
  assert.deepEqual(axe.violations.map(one => `${one.id}: ${one.nodes.map(node => `${node.target} ${node.failureSummary}`)}`), [], name)
}

test('an account is connected and disconnected by keys alone, and no page has a credential', async () => {
  const { page, context, complaints } = await visit()
  const seen = []
  page.on('response', async response => {
    if (response.url().startsWith(server.issuer)) seen.push(await response.text().catch(() => ''))
  })
  await signIn(page, 'alice', '/console')
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
  await signIn(page, 'bob', '/console/connections')
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
  assert.match(await main(page), /This code does not fit/)
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
  await signIn(page, 'carol', '/console/connections/new?provider=accounts')
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
