// People in the console: a real browser, the real server, and data as hostile as an agent can make it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { command, enter, launch, newPage } from './browser.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'
const HOSTILE = '<script>window.hacked = 1</script>"><img src=x onerror="window.hacked = 2"> \u202Eevil https://evil.example/ ' + 'long'.repeat(60)

let server, browser, waiting

const request = (...args) =>
  command(server, 'delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', IDP, '--delegator', 'alice', ...args).id

/** A page in which an operator has entered. */
async function visit(options = {}) {
  const visitor = await newPage(browser, server, options)
  await enter(visitor.page, server)
  return visitor
}

before(async () => {
  const idp = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).publicKey)
  server = await Server.start({})
  await server.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...idp, kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'], algorithms: ['ES256'] }],
    resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'] }],
    clients: ['assistant', 'summarizer', 'archiver', 'travel-bot'].map(id => ({
      id,
      kind: 'agent',
      name: `Agent ${id}`,
      auth: 'client_secret_basic',
      secret: `${id}-secret-0123456789`,
      scopes: ['mail.read', 'mail.send'],
      audiences: [MAIL],
      grant_types: ['client_credentials', 'token-exchange'],
    })),
    delegations: [
      { id: 'assistant-of-alice', delegator: { iss: IDP, sub: 'alice' }, delegate: 'assistant', scopes: ['mail.read', 'mail.send'], max_uses: 20, max_depth: 3, expires_in: 3600 },
      { id: 'summaries', parent: 'assistant-of-alice', delegate: 'summarizer', scopes: ['mail.read'], max_uses: 5, expires_in: 1800 },
      { id: 'archive', parent: 'summaries', delegate: 'archiver', scopes: ['mail.read'], expires_in: 900 },
    ],
  })
  waiting = request('--scope', 'mail.read', '--scope', 'mail.send', '--expires-in', '8h', '--reason', 'to book the trip and to tell your team')
  request('--scope', 'mail.read', '--reason', HOSTILE)
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

test('what an agent says is text: nothing runs, nothing is requested', async () => {
  const { page, context, complaints } = await visit()
  await page.goto(`${server.issuer}/console/approvals`)
  for (const link of await page.locator('tr[data-row] a').evaluateAll(links => links.map(link => link.href))) {
    await page.goto(link)
    assert.equal(await page.evaluate(() => window.hacked), undefined)
  }
  await page.goto(`${server.issuer}/console/delegations?delegator_sub=${encodeURIComponent(HOSTILE)}`)
  assert.equal(await page.evaluate(() => window.hacked), undefined)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a chain is cut by keys alone', async () => {
  const { page, context, complaints } = await visit()
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key)
  }
  await press('g', 'd')
  await page.waitForURL('**/console/delegations')
  await page.locator('tr[data-row]', { hasText: 'archiver' }).locator('a').first().focus()
  await press('Enter')
  await page.waitForURL('**/console/delegations/archive')
  await press('x', 'Enter')
  await page.waitForURL('**/archive/cut')
  assert.match(await page.locator('[role=main]').innerText(), /Ends 1 delegation of 1 agent and 0 tokens/)
  await press('x', 'Enter')
  await page.getByRole('heading', { name: 'archiver is cut' }).waitFor()
  assert.match(await page.locator('[role=main]').innerText(), /Ended 1 delegation and 0 tokens/)
  await press('Escape')
  await page.waitForURL('**/console/delegations/archive')
  assert.match(await page.locator('[role=main]').innerText(), /revoked/)
  await press('Escape')
  await page.waitForURL('**/console/delegations')
  assert.deepEqual(complaints, [])
  await context.close()
})

test('without scripts, a request is narrowed and approved, and Back shows the list as it was', async () => {
  const id = request('--scope', 'mail.read', '--scope', 'mail.send', '--expires-in', '2h', '--reason', 'without scripts')
  const { page, context } = await visit({ javaScriptEnabled: false })
  await page.goto(`${server.issuer}/console/delegations?state=requested`)
  await page.goto(`${server.issuer}/console/approvals/${id}`)
  await page.getByLabel('mail.send', { exact: true }).uncheck()
  await page.getByLabel('15 min').check()
  await page.getByRole('button', { name: 'Approve' }).click()
  await page.waitForURL(`**/console/delegations/${id}`)
  const text = await page.locator('[role=main]').innerText()
  assert.match(text, /active/)
  assert.match(text, /May use mail\.read at .* for 14 min|May use mail\.read at .* for 15 min/)
  await page.goBack()
  await page.goBack()
  assert.equal(page.url(), `${server.issuer}/console/delegations?state=requested`)
  assert(!(await page.content()).includes(id), 'Back asks the server again')
  await context.close()
})

test('of two browsers that decide one request, the second learns what the first decided', async () => {
  const id = request('--scope', 'mail.read', '--reason', 'two at once')
  const [one, other] = [await visit(), await visit()]
  for (const { page } of [one, other]) await page.goto(`${server.issuer}/console/approvals/${id}`)
  await one.page.getByRole('button', { name: 'Deny' }).click()
  await one.page.waitForURL(`**/console/approvals/${id}`)
  await other.page.getByRole('button', { name: 'Approve' }).click()
  await other.page.getByRole('alert').getByText('It is revoked now').waitFor()
  assert(other.page.url().endsWith(id), 'the form stays where it is')
  await one.context.close()
  await other.context.close()
})

test('a page of another site can neither frame the console nor send its forms', async () => {
  const { page, context } = await visit()
  const denied = await page.evaluate(async address => {
    const form = new URLSearchParams({ reason: 'x' })
    const answer = await fetch(address, { method: 'POST', body: form })
    return answer.status
  }, `${server.issuer}/console/approvals/${waiting}/deny`)
  assert.equal(denied, 403, 'without the token of its form')
  const answer = await page.goto(`${server.issuer}/console`)
  assert.match(answer.headers()['content-security-policy'], /frame-ancestors 'none'/)
  await context.close()
})
