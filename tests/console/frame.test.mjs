// The frame around every page, in a real Chromium: fragments, live counts, the jump box, keys, and errors in their place.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { command, enter, launch, newPage } from './browser.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'

let server, browser

const request = (sub, ...args) =>
  command(server, 'delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', IDP, '--delegator', sub, '--scope', 'mail.read', ...args).id

/** A page in which an operator has entered, and which keeps what violates its policy. */
async function visit(options = {}) {
  const visitor = await newPage(browser, server, options)
  await visitor.page.addInitScript(() => {
    window.violations = []
    addEventListener('securitypolicyviolation', event => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`))
  })
  await enter(visitor.page, server)
  return visitor
}

/** Ends a visit: nothing was violated, nothing failed. */
async function leave({ page, context, complaints }) {
  if (await page.evaluate(() => Array.isArray(window.violations)).catch(() => false)) {
    assert.deepEqual(await page.evaluate(() => window.violations), [])
  }
  assert.deepEqual(complaints, [])
  await context.close()
}

const live = page => page.locator('#live-state', { hasText: 'live' }).waitFor()

before(async () => {
  const idp = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).publicKey)
  server = await Server.start({})
  await server.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...idp, kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'], algorithms: ['ES256'] }],
    resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'] }],
    clients: ['assistant', 'summarizer', 'travel-bot'].map(id => ({
      id,
      kind: 'agent',
      auth: 'client_secret_basic',
      secret: `${id}-secret-0123456789`,
      scopes: ['mail.read', 'mail.send'],
      audiences: [MAIL],
      grant_types: ['client_credentials', 'token-exchange'],
    })).concat({
      id: 'bearer-bot',
      kind: 'agent',
      auth: 'client_secret_basic',
      secret: 'bearer-bot-secret-0123456789',
      dpop: 'optional',
      scopes: ['mail.read'],
      audiences: [MAIL],
      grant_types: ['client_credentials'],
    }),
    delegations: [
      { id: 'assistant-of-alice', delegator: { iss: IDP, sub: 'alice' }, delegate: 'assistant', scopes: ['mail.read', 'mail.send'], max_depth: 3, expires_in: 3600 },
      { id: 'summaries', parent: 'assistant-of-alice', delegate: 'summarizer', scopes: ['mail.read'], expires_in: 1800 },
    ],
  })
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

test('lists and tabs swap the page, keep the frame, and Back shows what was there', async () => {
  const visitor = await visit()
  const { page } = visitor
  await page.goto(`${server.issuer}/console/delegations`)
  await page.evaluate(() => { window.kept = true })
  await page.locator('.tabs a', { hasText: 'Tree' }).click()
  await page.waitForURL('**/console/delegations?view=tree')
  const tree = await page.locator('.tree').innerText()
  assert.match(tree, /alice[^]*assistant[^]*1 below[^]*summarizer/)
  assert.equal(await page.locator('s.dropped', { hasText: 'mail.send' }).count(), 1, 'what was not passed on is struck through')
  await page.getByLabel('state').selectOption('revoked')
  await page.getByRole('button', { name: 'Show' }).click()
  await page.getByText('Nothing matches.').waitFor()
  assert(await page.evaluate(() => window.kept), 'no page was loaded')
  assert.match(page.url(), /view=tree&state=revoked/)
  await page.getByRole('link', { name: 'state: revoked' }).click()
  await page.locator('.tree').waitFor()
  assert.doesNotMatch(page.url(), /state=/)
  await page.goBack()
  await page.getByText('Nothing matches.').waitFor()
  await leave(visitor)
})

test('no text becomes script, and the policy refuses what a page did not come with', async () => {
  const visitor = await visit()
  const { page, context } = visitor
  const refused = await page.evaluate(async () => {
    const outcomes = []
    try { document.createElement('div').innerHTML = '<b>x</b>'; outcomes.push('a string became HTML') } catch { outcomes.push('refused') }
    try { trustedTypes.createPolicy('other', { createHTML: text => text }); outcomes.push('another policy') } catch { outcomes.push('refused') }
    // The debugger may evaluate what the page may not, so that the page itself tries.
    await new Promise(done => addEventListener('try', () => {
      try { window.eval('1'); outcomes.push('evaluated') } catch { outcomes.push('refused') }
      done()
    }, { once: true }) ?? setTimeout(() => dispatchEvent(new Event('try'))))
    const script = document.createElement('script')
    try { script.text = 'window.hacked = 1'; document.body.append(script) } catch { /* refused */ }
    return [...outcomes, window.hacked ?? 'refused']
  })
  assert.deepEqual(refused, ['refused', 'refused', 'refused', 'refused'])
  const attributes = await page.evaluate(async () => {
    const link = document.createElement('a')
    link.setAttribute('hx-get', 'javascript:window.hacked=2')
    link.href = '#'
    document.querySelector('#page').append(link)
    htmx.process(link)
    link.click()
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)))
    return window.hacked
  })
  assert.equal(attributes, undefined)
  await context.close()
})

test('a request elsewhere moves the number, the title and the list; without scripts a reload does', async () => {
  const visitor = await visit()
  const { page } = visitor
  await page.goto(`${server.issuer}/console/approvals`)
  await live(page)
  const waits = async () => Number((await page.locator('#waiting').innerText()).match(/\d+/)?.[0] ?? 0)
  const old = await waits()
  const id = request('alice')
  await page.locator('#waiting', { hasText: `(${old + 1})` }).waitFor()
  await page.waitForFunction(number => document.title.startsWith(`(${number}) Approvals`), old + 1)
  const plain = await visit({ javaScriptEnabled: false })
  await plain.page.goto(`${server.issuer}/console/approvals/${id}`)
  assert.match(await plain.page.locator('#waiting').innerText(), new RegExp(`\\(${old + 1}\\)`))
  await plain.page.getByRole('button', { name: 'Deny' }).click()
  await page.waitForFunction(number => !document.title.startsWith(`(${number}) `), old + 1)
  assert.equal(await waits(), old)
  await plain.context.close()
  await leave(visitor)
})

test('rows wait behind a count while the list has focus, and states change in place', async () => {
  const visitor = await visit()
  const { page } = visitor
  const id = request('bob')
  await page.goto(`${server.issuer}/console/delegations?delegator_sub=bob`)
  await live(page)
  await page.locator('tr[data-row] a').first().focus()
  request('bob')
  await page.locator('#newer', { hasText: '1 newer' }).waitFor()
  assert.equal(await page.locator('tr[data-row]').count(), 1)
  assert.equal(await page.evaluate(() => document.activeElement.closest('tr') !== null), true, 'the focus stays')
  command(server, 'delegation', 'revoke', id)
  await page.locator(`[data-state-of="${id}"]`, { hasText: 'revoked' }).waitFor()
  await page.locator('#newer a').click()
  await page.locator('tr[data-row]').nth(1).waitFor()
  await page.evaluate(() => document.activeElement.blur())
  await page.mouse.move(0, 0)
  await live(page)
  request('bob')
  await page.locator('tr[data-row]').nth(2).waitFor()
  await leave(visitor)
})

test('the stream says when it is paused, and ends with the session', async () => {
  const { page, context } = await visit()
  await live(page)
  const other = await context.newPage()
  await other.goto(`${server.issuer}/console`)
  await live(other)
  await other.getByRole('button', { name: 'Sign out' }).click()
  await page.locator('#live-state', { hasText: 'signed out since' }).waitFor()
  await context.close()
})

test('a token in the jump box leads to its hop, and is in no URL and no page', async () => {
  const visitor = await visit()
  const { page } = visitor
  const answer = await fetch(`${server.issuer}/oauth/token`, {
    method: 'POST',
    body: new URLSearchParams({ grant_type: 'client_credentials' }),
    headers: { authorization: `Basic ${Buffer.from('bearer-bot:bearer-bot-secret-0123456789').toString('base64')}` },
  })
  const { access_token: token } = await answer.json()
  const signature = token.split('.')[2]
  const forged = token.replace(signature, signature.startsWith('A') ? `B${signature.slice(1)}` : `A${signature.slice(1)}`)
  await page.keyboard.press('/')
  await page.keyboard.insertText(forged)
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
  assert(!(await page.content()).includes(token.split('.')[1]) && page.url().endsWith('/console/find'))
  await page.keyboard.press('/')
  await page.keyboard.insertText(token)
  await page.keyboard.press('Enter')
  await page.waitForURL('**/console/chains/*?hop=*')
  assert(!(await page.content()).includes(signature))
  await page.keyboard.press('/')
  await page.keyboard.insertText(' summaries ')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/console/delegations/summaries')
  await leave(visitor)
})

test('keys go to places, rows, tabs and help; they can be switched off', async () => {
  const visitor = await visit()
  const { page } = visitor
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key)
  }
  await press('?')
  await page.waitForURL('**/console/help')
  await press('g', 'd')
  await page.waitForURL('**/console/delegations')
  await press('j', 'j', 'k')
  assert.equal(await page.evaluate(() => [...document.querySelectorAll('[data-row]')].indexOf(document.activeElement.closest('[data-row]'))), 0)
  await press('f')
  assert.equal(await page.evaluate(() => document.activeElement.name), 'state')
  await press('j')
  assert.equal(await page.evaluate(() => document.activeElement.name), 'state', 'keys are letters where one types')
  await press('Escape', ']')
  await page.waitForURL('**/console/delegations?view=tree')
  await press('[')
  await page.waitForURL('**/console/delegations')
  await page.goto(`${server.issuer}/console/me`)
  await page.getByLabel('keys').selectOption('off')
  await page.getByLabel('times').selectOption('local')
  await page.getByRole('button', { name: 'Keep' }).click()
  await page.locator('html[data-keys=off]').waitFor()
  await press('?', 'g', 'd')
  assert(page.url().endsWith('/console/me'))
  // The script runs after the page has come.
  await page.locator('[role=main] time', { hasText: /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d$/ }).first().waitFor()
  await leave(visitor)
})

test('an id is copied by a click and by a key, and the page says so', async () => {
  const visitor = await visit()
  const { page, context } = visitor
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: server.issuer })
  await page.goto(`${server.issuer}/console/delegations/assistant-of-alice`)
  await page.keyboard.press('y')
  await page.locator('#live', { hasText: 'Copied' }).waitFor()
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), 'assistant-of-alice')
  await page.goto(`${server.issuer}/console/delegations?window=1h`)
  await page.keyboard.press('l')
  await page.locator('#live', { hasText: 'Copied' }).waitFor()
  const link = await page.evaluate(() => navigator.clipboard.readText())
  assert.match(link, /from=20[^&]+&to=20/)
  assert.doesNotMatch(link, /window/)
  await leave(visitor)
})

test('a form of an ended session stays, and can be sent after a sign-in in another tab', async () => {
  const visitor = await visit()
  const { page, context } = visitor
  const id = request('carol')
  await page.goto(`${server.issuer}/console/delegations/${id}/cut`)
  await page.getByLabel('Why').fill('typed before')
  const other = await context.newPage()
  await other.goto(`${server.issuer}/console`)
  await other.getByRole('button', { name: 'Sign out' }).click()
  await other.getByText('Sign in').first().waitFor()
  await page.getByRole('button', { name: 'Cut' }).click()
  const problem = page.getByRole('alert')
  await problem.getByText('You are signed out').waitFor()
  assert.equal(await problem.getByRole('link', { name: 'Sign in again' }).getAttribute('target'), '_blank')
  assert.equal(await page.getByLabel('Why').inputValue(), 'typed before')
  await enter(other, server)
  await page.getByRole('button', { name: 'Cut' }).click()
  await page.getByRole('heading', { name: 'is cut' }).waitFor()
  await other.close()
  await leave(visitor)
})

test('a server that does not answer is said in place, and nothing typed is lost', async () => {
  const { page, context } = await visit()
  const id = request('dave')
  await page.goto(`${server.issuer}/console/delegations/${id}/cut`)
  await page.getByLabel('Why').fill('typed before')
  await context.route('**/cut', route => route.abort())
  await page.getByRole('button', { name: 'Cut' }).click()
  await page.getByRole('alert').getByText('does not answer').waitFor()
  assert.equal(await page.getByLabel('Why').inputValue(), 'typed before')
  await context.unroute('**/cut')
  await page.getByRole('button', { name: 'Cut' }).click()
  await page.getByRole('heading', { name: 'is cut' }).waitFor()
  await context.close()
})

test('no page is wider than a narrow screen, with a hostile reason and a hostile filter', async () => {
  const hostile = 'x'.repeat(300) + ' <img src=x onerror=window.hacked=3> \u202Eevil'
  const visitor = await visit({ viewport: { width: 320, height: 800 } })
  const { page } = visitor
  const id = request('erin', '--reason', hostile)
  for (const path of ['', '/approvals', `/approvals/${id}`, '/delegations', '/delegations?view=tree', `/delegations?delegator_sub=${encodeURIComponent(hostile)}`, `/delegations/${id}`, `/delegations/${id}/cut`, '/help', '/me']) {
    await page.goto(`${server.issuer}/console${path}`)
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
    assert(wide <= 0, `${path}: ${wide} px too wide`)
    assert.equal(await page.evaluate(() => window.hacked), undefined)
  }
  await leave(visitor)
})
