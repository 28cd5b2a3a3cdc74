// Pages that follow the log: restarts of the server, bursts of changes, hidden tabs, and more tabs than streams.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { after, before, test } from 'node:test'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { command, enter, launch, newPage } from './browser.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'
/** Streams of one person. */
const STREAMS = 4

let server, browser, key

before(async () => {
  key = await jose.generateKeyPair('ES256', { extractable: true })
  // One user makes thousands of requests.
  server = await Server.start({ LIMITS_REQUESTS_PER_SECOND_PER_CLIENT: '0', AUDIT_HEARTBEAT: '2' })
  await server.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...(await jose.exportJWK(key.publicKey)), kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'] }],
    resources: [{ id: MAIL, scopes: ['mail.read'] }],
    clients: [{ id: 'travel-bot', kind: 'agent', auth: 'client_secret_basic', secret: 'travel-bot-secret-0123456789', scopes: ['mail.read'], audiences: [MAIL], grant_types: ['token-exchange'] }],
  })
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

const address = path => `${server.issuer}/console${path}`

/** The id of a new request to a user. Works without the server, too. */
const request = sub =>
  command(server, 'delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', IDP, '--delegator', sub, '--scope', 'mail.read').id

/** Gives the agent this many delegations of a user, and returns their ids, newest first. */
async function give(sub, number) {
  const claims = new jose.SignJWT({ sub }).setProtectedHeader({ alg: 'ES256', kid: 'idp' }).setIssuer(IDP).setAudience('actchain')
  const token = await claims.setIssuedAt().setExpirationTime('1h').sign(key.privateKey)
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ delegate: 'travel-bot', scopes: ['mail.read'], expires_in: 600 })
  const made = []
  let left = number
  const work = async () => {
    while (left > 0) {
      left -= 1
      const answer = await fetch(`${server.issuer}/delegate`, { method: 'POST', headers, body })
      assert.equal(answer.status, 201)
      const { id, requested_at } = await answer.json()
      made.push(`${requested_at} ${id}`)
    }
  }
  await Promise.all(Array.from({ length: Math.min(number, 16) }, work))
  return made.sort().reverse().map(line => line.split(' ')[1])
}

/** Gives the agent this many delegations of a user at once, in one transaction, and returns their ids, newest first. */
async function giveAtOnce(sub, number) {
  const ids = Array.from({ length: number }, (_, place) => `${sub}-${String(place).padStart(6, '0')}`)
  const terms = { delegator: { iss: IDP, sub }, delegate: 'travel-bot', scopes: ['mail.read'], expires_in: 600 }
  await server.apply({ delegations: ids.map(id => ({ id, ...terms })) })
  return ids.reverse()
}

/** Keeps what a page has shown: the states of its stream, the rows, and the numbers of newer rows. */
function keep() {
  const seen = (window.seen = { said: [], mostRows: 0, repeated: [], lists: [], counts: [] })
  const add = (list, value) => value !== list.at(-1) && list.push(value)
  const read = () => {
    const rows = [...document.querySelectorAll('[data-state-of]')].map(row => row.dataset.stateOf)
    seen.mostRows = Math.max(seen.mostRows, rows.length)
    seen.repeated.push(...rows.filter((id, place) => rows.indexOf(id) !== place))
    add(seen.lists, rows.join())
    add(seen.counts, Number(document.querySelector('#newer a')?.dataset.newer ?? 0))
    const said = document.querySelector('#live-state')?.textContent
    if (said) add(seen.said, said)
  }
  addEventListener('DOMContentLoaded', () => {
    read()
    new MutationObserver(read).observe(document, { childList: true, subtree: true, characterData: true, attributes: true })
  })
}

const seen = page => page.evaluate(() => window.seen)
const says = (page, text) => page.locator('#live-state', { hasText: text }).waitFor()
const isLive = page => says(page, 'live ●')
/** How many of these tabs say that they are live. */
const countLive = async tabs => (await Promise.all(tabs.map(tab => tab.locator('#live-state').innerText()))).filter(text => text === 'live ●').length
const rows = page => page.locator('[data-state-of]').evaluateAll(all => all.map(row => row.dataset.stateOf))
const stateOf = (page, id, state) => page.locator(`[data-state-of="${id}"]`, { hasText: state }).waitFor()

/** Waits until a page shows these rows, in this order. */
const showsRows = (page, ids) =>
  page.waitForFunction(ids => [...document.querySelectorAll('[data-state-of]')].map(row => row.dataset.stateOf).join() === ids, ids.join())

/** A browser in which an operator has entered. */
async function visit() {
  const visitor = await newPage(browser, server)
  await visitor.context.addInitScript(keep)
  await enter(visitor.page, server)
  return visitor
}

/** One more tab of a browser. */
async function openTab(context, path) {
  const page = await context.newPage()
  await page.goto(address(path))
  await page.evaluate(() => { window.kept = true })
  return page
}

/** What the browser says to a page of a tab to which a person turns, or from which a person turns away. */
const turn = (page, hidden) =>
  page.evaluate(hidden => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => (hidden ? 'hidden' : 'visible') })
    document.dispatchEvent(new Event('visibilitychange'))
  }, hidden)

/** Nothing was loaded again, no row was there twice, and there were never more rows than a page follows. */
async function assertSteady(page, name) {
  const { repeated, mostRows } = await seen(page)
  assert.equal(await page.evaluate(() => window.kept), true, `${name} was loaded again`)
  assert.deepEqual(repeated, [], name)
  assert(mostRows <= 200, `${name}: ${mostRows} rows`)
}

/** The number of nodes that a page keeps, also those that are no longer shown. */
async function used(page) {
  const session = await page.context().newCDPSession(page)
  await session.send('HeapProfiler.collectGarbage')
  const { nodes } = await session.send('Memory.getDOMCounters')
  await session.detach()
  return nodes
}

test('a page outlives a crash of the server, and shows once what happened meanwhile', async () => {
  const old = request('ann')
  const { page: overview, context } = await visit()
  const list = await openTab(context, '/delegations?delegator_sub=ann')
  const approvals = await openTab(context, '/approvals?tab=all')
  await overview.evaluate(() => { window.kept = true })
  const pages = { overview, list, approvals }
  for (const page of Object.values(pages)) await isLive(page)
  await server.kill()
  for (const page of Object.values(pages)) await says(page, /connecting since \d\d:\d\d:\d\dZ$/)
  command(server, 'delegation', 'revoke', old)
  const [first, second] = [request('ann'), request('ann')]
  await server.startAgain()
  for (const page of Object.values(pages)) await isLive(page)
  await showsRows(list, [second, first, old])
  await stateOf(list, old, 'revoked')
  await stateOf(list, first, 'requested')
  for (const page of [overview, list, approvals]) await page.locator('#waiting', { hasText: '(2)' }).waitFor()
  await approvals.waitForFunction(() => document.title.startsWith('(2) Approvals') && document.querySelectorAll('tr[data-row]').length === 2)
  // Back in the list, changes arrive as before.
  const third = request('ann')
  await showsRows(list, [third, second, first, old])
  for (const [name, page] of Object.entries(pages)) {
    await assertSteady(page, name)
    const { said } = await seen(page)
    assert.match(said.join(), /^live ●,reconnecting since \d\d:\d\d:\d\dZ,live ●$/, name)
  }
  assert.equal((await seen(list)).lists.filter(shown => shown.includes(second) && !shown.includes(third)).length, 1, 'the rows came once')
  for (const id of [first, second, third]) command(server, 'delegation', 'deny', id)
  await context.close()
})

test('in a burst only the number of newer rows moves, and afterwards no row is missing and none is there twice', async () => {
  const old = await give('bea', 25)
  const { context } = await visit()
  const list = await openTab(context, '/delegations?delegator_sub=bea')
  const tree = await openTab(context, '/delegations?delegator_sub=bea&view=tree')
  const pages = { list, tree }
  for (const page of Object.values(pages)) await isLive(page)
  const before = await used(list)
  const made = await giveAtOnce('bea', 2_000)
  for (const [name, page] of Object.entries(pages)) {
    await page.waitForFunction(() => Number(document.querySelector('#newer a')?.dataset.newer) > 20)
    const { counts, lists } = await seen(page)
    assert.equal(lists.length, 1, `${name}: the rows moved: ${counts.join()}`)
    await page.bringToFront()
    await page.locator('#newer a').click()
    await showsRows(page, made.slice(0, 20))
    await page.locator('#newer a').waitFor({ state: 'detached' })
    await assertSteady(page, name)
  }
  // Older pages have the other rows, each once.
  await list.bringToFront()
  const all = []
  for (let more = true; more; ) {
    const shown = await rows(list)
    all.push(...shown)
    const older = list.locator('a[rel=next]')
    more = (await older.count()) > 0
    if (more) await Promise.all([list.waitForFunction(first => document.querySelector('[data-state-of]')?.dataset.stateOf !== first, shown[0]), older.click()])
  }
  assert.deepEqual(all, [...made, ...old])
  await list.goto(address('/delegations?delegator_sub=bea'))
  assert((await used(list)) < before * 1.5, `${before} nodes before, ${await used(list)} after`)
  await context.close()
})

test('a list that follows changes keeps its size, and uses no more memory', async () => {
  await give('cho', 25)
  const { context } = await visit()
  const list = await openTab(context, '/delegations?delegator_sub=cho')
  await isLive(list)
  const follow = async times => {
    for (let time = 0; time < times; time += 1) {
      const made = await give('cho', 3)
      await list.waitForFunction(first => document.querySelector('[data-state-of]')?.dataset.stateOf === first, made[0])
      await isLive(list)
    }
    return used(list)
  }
  const before = await follow(2)
  const entries = await list.evaluate(() => history.length)
  const later = await follow(10)
  assert.equal(await list.evaluate(() => history.length), entries, 'the way back is as long as before')
  assert(later < before + 500, `${before} nodes before, ${later} after ten lists more`)
  await assertSteady(list, 'the list')
  await context.close()
})

test('events arrive in their list, and never move under the pointer', async () => {
  const { context } = await visit()
  const events = await openTab(context, '/events?window=all')
  await isLive(events)
  const first = page => page.locator('tr[data-row] a').first().getAttribute('href')
  const moves = (page, before) => page.waitForFunction(before => document.querySelector('tr[data-row] a')?.getAttribute('href') !== before, before)
  const before = await first(events)
  // A person reads: the number moves, and the rows stay.
  await events.bringToFront()
  await events.hover('[data-live] tbody')
  const asked = []
  for (const number of [1, 2]) {
    asked.push(request('gus'))
    await events.locator(`#newer a[data-newer="${number}"]`).waitFor()
  }
  assert.equal(await first(events), before)
  await events.locator('#newer a').click()
  await moves(events, before)
  await events.mouse.move(0, 0)
  const shown = await first(events)
  asked.push(request('gus'))
  await moves(events, shown)
  assert.equal(await events.evaluate(() => window.kept), true, 'without a reload')
  for (const id of asked) command(server, 'delegation', 'deny', id)
  await context.close()
})

test('a page that waits for a checkpoint shows the proof by itself', async () => {
  const { context, page } = await visit()
  // The server makes a checkpoint in each minute: the page may come too late for it.
  for (let waits = 0; waits === 0; waits = await page.locator('#uncovered').count()) {
    const id = request('hal')
    await page.goto(address(`/events?delegation=${id}`))
    command(server, 'delegation', 'deny', id)
    const href = await page.locator('tr[data-row] a[href*="/console/events/"]').first().getAttribute('href')
    await page.goto(new URL(`${href}?tab=forensics`, page.url()).href)
  }
  await isLive(page)
  execFileSync(server.program, ['audit', 'checkpoint'], { env: { ...server.environment, ACTCHAIN_ISSUER: server.issuer }, stdio: 'ignore' })
  await page.locator('text=This server verified').waitFor()
  await page.locator('#uncovered').waitFor({ state: 'detached' })
  // The check in the browser runs on the page that came.
  await page.locator('#proof-check li').first().waitFor()
  await context.close()
})

test('of seven tabs four are live, the others say that they wait, and a closed tab makes room', async () => {
  const { page, context, complaints } = await visit()
  await page.goto(address('/help'))
  await isLive(page)
  const tabs = [page]
  while (tabs.length < 7) {
    const tab = await openTab(context, ['/delegations', '/approvals?tab=all', '/connections'][tabs.length % 3])
    await says(tab, tabs.length < STREAMS ? /^live ●$/ : /^waits to connect since \d\d:\d\d:\d\dZ$/)
    tabs.push(tab)
  }
  const [live, waiting] = [tabs.slice(0, STREAMS), tabs.slice(STREAMS)]
  // A tab that waits is a page like any other, and says what is now after each click.
  const id = request('dan')
  // The list of approvals connects again where it has a new row, and can lose its place to a page that opens. Help does not.
  await page.locator('#waiting', { hasText: '(1)' }).waitFor()
  const [tab] = waiting
  await tab.locator('nav a', { hasText: 'Approvals' }).click()
  await tab.waitForURL('**/console/approvals')
  await tab.goto(address(`/approvals/${id}`))
  await tab.getByRole('button', { name: 'Deny' }).click()
  await tab.locator('[role=main]').getByText('revoked').first().waitFor()
  await page.locator('#waiting', { hasText: '(1)' }).waitFor({ state: 'detached' })
  // Each closed tab makes room for one. A tab that connects again can lose its place to another that waits.
  const open = [...tabs]
  for (const closed of live.slice(0, waiting.length)) {
    await closed.close()
    open.splice(open.indexOf(closed), 1)
    while ((await countLive(open)) !== STREAMS) continue
  }
  for (const tab of open) await isLive(tab)
  assert.deepEqual(complaints, [])
  await context.close()
})

test('a hidden tab says that it is paused, gives its stream away, and shows once what happened meanwhile', async () => {
  const old = request('eve')
  const { page, context } = await visit()
  const list = await openTab(context, '/delegations?delegator_sub=eve')
  await isLive(page)
  await isLive(list)
  for (let tabs = 2; tabs < STREAMS; tabs += 1) await isLive(await openTab(context, '/help'))
  const other = await openTab(context, '/help')
  await says(other, /^waits to connect/)
  await turn(list, true)
  await says(list, /^paused since \d\d:\d\d:\d\dZ$/)
  await isLive(other)
  command(server, 'delegation', 'revoke', old)
  const [first, second] = [request('eve'), request('eve')]
  await other.locator('#waiting', { hasText: '(2)' }).waitFor()
  assert.deepEqual(await rows(list), [old], 'nothing moves in a hidden tab')
  await stateOf(list, old, 'requested')
  await other.close()
  await turn(list, false)
  await isLive(list)
  await showsRows(list, [second, first, old])
  await stateOf(list, old, 'revoked')
  await assertSteady(list, 'the list')
  assert.equal((await seen(list)).lists.length, 2, 'the rows came once')
  for (const id of [first, second]) command(server, 'delegation', 'deny', id)
  await context.close()
})
