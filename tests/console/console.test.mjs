// People in the console: a real browser, the real server, and data as hostile as an agent can make it.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { AxeBuilder } from '@axe-core/playwright'
import { HtmlValidate } from 'html-validate'
import * as jose from 'jose'
import { chromium } from 'playwright-core'

import { Server } from '../interop/server.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'
const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
const HOSTILE = '<script>window.hacked = 1</script>"><img src=x onerror="window.hacked = 2"> \u202Eevil https://evil.example/ ' + 'long'.repeat(60)
const SHOTS = process.env.SHOTS ? fileURLToPath(new URL('../../docs/console/', import.meta.url)) : undefined

let server, browser, waiting

/** A command of an operator beside the server. */
function command(...args) {
  const env = { ...server.environment, ACTCHAIN_ISSUER: server.issuer }
  return JSON.parse(execFileSync(server.program, [...args, '--json'], { env, stdio: ['ignore', 'pipe', 'ignore'] }))
}

const request = (...args) =>
  command('delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', IDP, '--delegator', 'alice', ...args).id

/** A page whose every complaint is a failure, and which reaches no other host. */
async function visit(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const complaints = []
  await context.route('**/*', route => {
    const own = new URL(route.request().url()).origin === new URL(server.issuer).origin
    if (!own) complaints.push(`a request to ${route.request().url()}`)
    return own ? route.continue() : route.abort()
  })
  const page = await context.newPage()
  page.on('pageerror', error => complaints.push(error.message))
  page.on('console', message => {
    const harmless = message.text().includes('favicon') || /status of (4\d\d)/.test(message.text())
    if (['error', 'warning'].includes(message.type()) && !harmless) complaints.push(message.text())
  })
  const { url } = command('console')
  await page.goto(url)
  await page.getByRole('button', { name: 'Enter' }).click()
  await page.waitForURL('**/console')
  return { page, context, complaints }
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
  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] })
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

const PAGES = {
  overview: () => '',
  approvals: () => '/approvals',
  approval: () => `/approvals/${waiting}`,
  delegations: () => '/delegations',
  delegation: () => '/delegations/assistant-of-alice',
  cut: () => '/delegations/assistant-of-alice/cut',
  agents: () => '/agents',
  agent: () => '/agents/summarizer',
  check: () => '/check',
  connections: () => '/connections',
  registry: () => '/registry/clients',
  me: () => '/me',
  help: () => '/help',
  tree: () => '/delegations?view=tree',
  filtered: () => '/delegations?state=active&delegator_sub=no-such-user',
  missing: () => '/delegations/none',
}

describe('every page', () => {
  for (const [name, path] of Object.entries(PAGES)) {
    test(`${name} is accessible, valid, and fits, in light and dark`, async () => {
      const validator = new HtmlValidate({ extends: ['html-validate:standard'], rules: { 'doctype-style': 'off', 'no-inline-style': 'error', 'long-title': 'off', 'void-style': 'off', 'attribute-boolean-style': 'off', 'no-implicit-button-type': 'error', 'attr-quotes': 'off', 'no-trailing-whitespace': 'off', 'prefer-native-element': 'off' } })
      for (const colorScheme of ['light', 'dark']) {
        const { page, context, complaints } = await visit({ colorScheme })
        for (const width of [1440, 900, 320]) {
          await page.setViewportSize({ width, height: 900 })
          const answer = await page.goto(`${server.issuer}/console${path()}`)
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
          assert(wide <= 0, `${name} at ${width}: ${wide} px too wide`)
          if (width === 1440 && SHOTS && colorScheme === 'light') {
            mkdirSync(SHOTS, { recursive: true })
            await page.screenshot({ path: `${SHOTS}${name}.png` })
          }
          if (colorScheme === 'light' && width === 1440) {
            const report = await validator.validateString(await answer.text())
            const found = report.results.flatMap(result => result.messages.map(one => `${one.ruleId}: ${one.message}`))
            assert.deepEqual(found, [], name)
          }
        }
        assert.deepEqual(complaints, [], `${name} in ${colorScheme}`)
        const axe = await new AxeBuilder({ page }).withTags(WCAG).analyze()
        const found = axe.violations.map(one => `${one.id}: ${one.nodes.map(node => `${node.target} ${node.failureSummary}`)}`)
        assert.deepEqual(found, [], `${name} in ${colorScheme}`)
        await context.close()
      }
    })
  }
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
