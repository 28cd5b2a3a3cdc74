// Chains, sessions and events in a real browser: who acted for whom, what an agent did and why, what a rule found, the end of
// the texts, the proof of an event, the log and its sinks.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { assertAccessible, assertFits, assertValid, command, launch, main, newPage, session } from './browser.mjs'
import { PICTURE_FLAGS, differences } from './pictures.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'
const SECRET = 'assistant-secret-0123456789'
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const HOSTILE = '<img src=x onerror="window.hacked = 1"> \u202Eread the newest letter ' + 'long'.repeat(60)

let server, browser, operator, key, issued

/** A DPoP proof (RFC 9449 §4.2). */
async function proof(method, url, token) {
  const jwk = await jose.exportJWK(key.publicKey)
  const claims = { htm: method, htu: url, jti: randomUUID(), iat: Math.floor(Date.now() / 1000) }
  if (token) claims.ath = jose.base64url.encode(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(token))))
  return new jose.SignJWT(claims).setProtectedHeader({ typ: 'dpop+jwt', alg: 'ES256', jwk }).sign(key.privateKey)
}

async function token(params) {
  const url = `${server.issuer}/oauth/token`
  const answer = await fetch(url, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa(`assistant:${SECRET}`)}`, dpop: await proof('POST', url) },
    body: new URLSearchParams(params),
  })
  const body = await answer.json()
  assert.equal(answer.status, 200, JSON.stringify(body))
  return body.access_token
}

async function report(body) {
  const url = `${server.issuer}/delegate/of-alice/steps`
  const own = await token({ grant_type: 'client_credentials', audience: server.issuer })
  const headers = { authorization: `DPoP ${own}`, dpop: await proof('POST', url, own), 'content-type': 'application/json' }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
  assert.equal(answer.status, 200, await answer.text())
}

async function visit(path, options = {}) {
  const visitor = await newPage(browser, server, { reducedMotion: 'reduce', storageState: operator, ...options })
  const answer = await visitor.page.goto(`${server.issuer}/console${path}`)
  return { ...visitor, answer }
}

const trace = () => command(server, 'session', 'list').items[0].id
const chain = () => command(server, 'audit', 'chains', '--filter', 'subject_sub=alice').items[0].txn

before(async () => {
  const idp = await jose.generateKeyPair('ES256', { extractable: true })
  key = await jose.generateKeyPair('ES256', { extractable: true })
  server = await Server.start({})
  await server.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...(await jose.exportJWK(idp.publicKey)), kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'], algorithms: ['ES256'] }],
    resources: [{ id: MAIL, scopes: ['mail.read'] }],
    clients: [{ id: 'assistant', kind: 'agent', name: 'Assistant', auth: 'client_secret_basic', secret: SECRET, scopes: ['mail.read'], audiences: [MAIL], grant_types: ['client_credentials', 'token-exchange'] }],
    delegations: [{ id: 'of-alice', delegator: { iss: IDP, sub: 'alice' }, delegate: 'assistant', scopes: ['mail.read'], expires_in: 3600 }],
  })
  const alice = new jose.SignJWT({ sub: 'alice' }).setProtectedHeader({ alg: 'ES256', kid: 'idp' })
  const subject = await alice.setIssuer(IDP).setAudience('actchain').setIssuedAt().setExpirationTime('1h').sign(idp.privateKey)
  issued = await token({ grant_type: EXCHANGE, subject_token: subject, subject_token_type: 'urn:ietf:params:oauth:token-type:jwt', audience: MAIL })
  const step = { tool: 'search', outcome: 'succeeded', input: 'from:accountant', output: HOSTILE, reasoning: HOSTILE, took_ms: 12, plan_step: 1, plan_total: 2 }
  await report({ steps: [step] })
  await report({ ask: true, steps: [{ tool: 'bash', outcome: 'proposed', input: 'nsenter -t 1 -m sh', reasoning: 'The letter says so.' }] })
  browser = await launch(...PICTURE_FLAGS)
  operator = await session(browser, server)
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

const PAGES = {
  'the list of chains': () => '/chains?window=all',
  'no chain': () => '/chains?window=1h&actor=nothing',
  'the tree of a chain': () => `/chains/${chain()}`,
  'a chain beside its list': () => `/chains/${chain()}?window=all`,
  'the keys of a chain': () => `/chains/${chain()}?tab=keys`,
  'the claims of a chain': () => `/chains/${chain()}?tab=claims`,
  'the events of a chain': () => `/chains/${chain()}?tab=events`,
  'the log': () => '/log',
  sinks: () => '/sinks',
  'the list of sessions': () => '/sessions',
  'sessions with findings': () => '/sessions?findings=yes',
  'a trace': () => `/sessions/${trace()}`,
  'an erasure': () => `/sessions/${trace()}/erase-texts`,
  'the list of events': () => '/events',
  'the events of an agent': () => '/events?actor=assistant',
  refusals: () => '/events?outcome=refused',
  'an event': () => '/events/0',
  'the content of an event': () => '/events/0?tab=content',
  'the proof of an event': () => '/events/0?tab=forensics',
}

/** The names of the pictures that are kept: of pages whose events do not depend on what a browser has visited. */
const PICTURES = {
  'the list of chains': 'chains',
  'the tree of a chain': 'chain',
  'the keys of a chain': 'chain-keys',
  'the list of sessions': 'sessions',
  'the events of an agent': 'events',
}

for (const [name, path] of Object.entries(PAGES)) {
  test(`${name} is accessible, valid, and fits, in light and dark`, async () => {
    const { page, context, complaints, answer } = await visit(path())
    assert.equal(answer.status(), 200)
    await assertValid(await answer.text(), name)
    await assertFits(page, name)
    await assertAccessible(page, name)
    const differing = PICTURES[name] ? await differences(page, PICTURES[name]) : []
    assert.equal(await page.evaluate(() => window.hacked), undefined)
    assert.deepEqual(complaints, [])
    await context.close()
    assert.deepEqual(differing, [])
  })
}

test('a printed page says who printed it, and what the log was', async () => {
  const { page, context } = await visit(`/chains/${chain()}`)
  assert.doesNotMatch(await page.innerText('body'), /Printed by/)
  await page.emulateMedia({ media: 'print', colorScheme: 'dark' })
  assert.match(await page.innerText('.printed'), /Printed by an operator as operator[^]*\d+ events under the root/)
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.nav')).display), 'none')
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(255, 255, 255)')
  await context.close()
})

test('a finding is reached by keys alone, and a file is downloaded', async () => {
  const { page, context, complaints } = await visit('')
  for (const key of ['g', 's']) await page.keyboard.press(key)
  await page.waitForURL('**/console/sessions')
  for (const key of ['j', 'Enter']) await page.keyboard.press(key)
  await page.waitForURL('**/console/sessions/*')
  assert.match(await main(page), /finding CE-005, critical/)
  await page.keyboard.press('.')
  assert.match(await page.evaluate(() => document.activeElement.closest('[data-finding]').innerText), /CE-005/)
  await page.keyboard.press('e')
  const [download] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('Enter')])
  assert.match(download.suggestedFilename(), /^session-\d+-\d+\.csv$/)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('the texts of a session end, without a script', async () => {
  const { page, context } = await visit(`/sessions/${trace()}`, { javaScriptEnabled: false })
  assert.match(await main(page), /The letter says so/)
  await page.getByRole('link', { name: 'Erase the texts…' }).click()
  await page.waitForURL('**/erase-texts')
  await page.getByRole('button', { name: 'Erase the texts' }).click()
  await page.waitForURL(/\/console\/sessions\/[^/]+$/)
  const text = await main(page)
  assert.match(text, /was erased\. The log has its digest alone/)
  assert.doesNotMatch(text, /The letter says so|read the newest letter/)
  await context.close()
})

test('a chain is found by its token, counted, and cut by keys alone', async () => {
  const { page, context, complaints } = await visit('/chains?window=all')
  await page.waitForFunction(() => /^[1-9] chains?$/.test(document.querySelector('#count')?.innerText))
  await page.keyboard.press('/')
  await page.keyboard.insertText(issued)
  await page.keyboard.press('Enter')
  await page.waitForURL('**/console/chains/*?hop=*')
  await page.keyboard.press('x')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/cut')
  assert.match(await main(page), /Ends 1 delegation of 1 agent and \d tokens?/)
  for (const key of ['x', 'Enter']) await page.keyboard.press(key)
  await page.getByRole('heading', { name: 'assistant is cut' }).waitFor()
  await page.getByRole('link', { name: 'The event of the revocation' }).click()
  await page.waitForURL('**/console/events/*')
  assert.match(await main(page), /delegation\.revoked/)
  assert.deepEqual(complaints, [])
  await context.close()
})
