// What people and agents choose, as hostile as the server accepts them: nothing runs, nothing is requested, letters
// that turn the direction of writing are visible, and no page scrolls sideways.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { assertFits, launch, main, newPage } from './browser.mjs'
import { Filled, IDP } from './filled.mjs'
import { nameOf, signIn } from './provider.mjs'

const MARKUP = `"><img src=/hacked onerror="window.hacked=1"><b hx-get="/hacked" hx-trigger=load>javascript:window.hacked=2 '`
/** A text of a length that begins with its name, without a place to break after the markup. */
const text = (name, length, markup = MARKUP, filler = 'x') => `\u202E${name}${markup}${filler.repeat(length)}`.slice(0, length)
/** The same in short words: names of users and providers break between words alone. */
const words = (name, length) => text(name, length, MARKUP.replaceAll(/[>.:]/g, '$& '), ' long')

const TEXTS = {
  name: text('name', 100),
  provider: words('provider', 10_000),
  reason: text('reason', 500),
  description: text('description', 100),
  user: words('user', 255),
  label: words('label', 10_000),
  group: text('group', 255),
  connection: text('connection', 100),
  scope: `<img/src=/hacked/onerror=window.hacked=1>javascript:window.hacked=2${'x'.repeat(10_000)}`.slice(0, 10_000),
  details: text('details', 10_000),
  task: text('task', 100).replaceAll('/', '-'),
  session: text('session', 128),
  text: text('text', 10_000),
}
/** How pages show the beginning of a text. */
const beginning = name => (name === 'scope' ? TEXTS.scope.slice(0, 80) : `U+202E${name}`)

let filled, browser

before(async () => {
  filled = await Filled.start(TEXTS)
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await filled?.stop()
})

/** A page that keeps what runs, what is requested, and what is violated. */
async function visit() {
  const visitor = await newPage(browser, filled.server, { others: [filled.idp.issuer], userAgent: `agent ${MARKUP}` })
  const { page, complaints } = visitor
  page.on('dialog', dialog => complaints.push(`a dialog: ${dialog.message()}`) && dialog.dismiss())
  page.on('request', request => new URL(request.url()).pathname.includes('hacked') && request.resourceType() !== 'document' && complaints.push(request.url()))
  await page.exposeFunction('violated', what => complaints.push(what))
  await page.addInitScript(() => addEventListener('securitypolicyviolation', event => window.violated(`${event.violatedDirective} ${event.blockedURI}`)))
  return visitor
}

/** What a page has that comes from no template: elements, attributes that act, and letters that turn the direction. */
const injected = page =>
  page.evaluate(() => {
    const found = [...document.querySelectorAll('img, b, [onerror], [hx-get="/hacked"], [href^="javascript:" i]')].map(element => element.outerHTML.slice(0, 80))
    const turns = /[\u202A-\u202E\u2066-\u2069]/
    const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT)
    while (walker.nextNode()) {
      const node = walker.currentNode
      // What a person has typed, and what a button copies, stays as it is.
      const shown = node.nodeType === Node.TEXT_NODE ? (node.parentElement.closest('textarea') ? [] : [node.data]) : [...node.attributes].filter(one => !['value', 'data-copy'].includes(one.name)).map(one => one.value)
      found.push(...shown.filter(one => turns.test(one)).map(one => `a letter in ${one.slice(0, 80)}`))
    }
    if (window.hacked) found.push('a script ran')
    return found
  })

async function examine(page, name) {
  assert.deepEqual(await injected(page), [], name)
  await assertFits(page, name, [320, 1440])
}

test('on every page, hostile texts are shown as texts', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, filled.server, 'ada')
  let shown = ''
  for (const [name, path] of Object.entries(filled.pages)) {
    const answer = await page.goto(`${filled.server.issuer}/console${path}`)
    assert.equal(answer.status(), 200, name)
    shown += await page.locator('body').innerText()
    await examine(page, name)
  }
  for (const name of Object.keys(TEXTS)) assert(shown.includes(beginning(name)), `${name} is on no page`)
  assert(shown.includes(`agent ${MARKUP.slice(0, 40)}`), 'the program of the browser is on no page')
  assert.deepEqual(complaints, [])
  await context.close()
})

const long = encodeURIComponent(text('filter', 10_000))
const short = encodeURIComponent(text('filter', 500))
const ADDRESSES = {
  'filters of approvals': `/approvals?tab=all&delegate=${long}&delegator_sub=${long}`,
  'filters of delegations': `/delegations?delegator_sub=${short}&delegate=${short}`,
  'a long filter of delegations': `/delegations?delegator_sub=${long}`,
  'filters of sessions': `/sessions?subject_sub=${short}&actor=${short}&rule=${short}`,
  'filters of events': `/events?action=${short}&reason=${short}&target=${short}&session=${short}`,
  'an unknown outcome': `/events?outcome=${long}`,
  'filters of agents': `/agents?q=${long}&task=${long}`,
  'a filter of connections': `/connections?provider=${long}`,
  'a filter of the registry': `/registry/clients?q=${long}`,
  'a question': `/check?client=assistant&subject=${long}&subject_iss=${encodeURIComponent(IDP)}&delegation=${short}`,
  'a cursor': `/events?cursor=${long}`,
  'an agent': `/agents/${long}`,
  'a delegation': `/delegations/${long}`,
  'a session': `/sessions/${long}`,
  'an event': `/events/${long}`,
  'an entry': `/registry/clients/${long}`,
  'a link of an operator': `/enter/${long}`,
}

test('in addresses, hostile texts are shown as texts', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, filled.server, 'ada')
  const callback = `/callback/${nameOf(filled.idp.issuer)}?error=${short}&error_description=${long}&state=${short}&iss=${short}`
  for (const [name, path] of Object.entries({ ...ADDRESSES, 'a refused sign-in': callback })) {
    const answer = await page.goto(`${filled.server.issuer}/console${path}`)
    assert(answer.status() < 500, name)
    if (path.includes(`subject_sub=${short}`)) assert.match(await main(page), /subject_sub: U\+202Efilter"><img/)
    await examine(page, name)
  }
  assert.deepEqual(complaints, [])
  await context.close()
})

test('in forms, hostile texts are shown as texts', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, filled.server, 'ada')
  await page.keyboard.press('/')
  await page.keyboard.insertText(text('jump', 10_000))
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Nothing found' }).waitFor()
  await examine(page, 'the jump box')
  await page.goto(`${filled.server.issuer}/console/agents/new`)
  await page.getByLabel('id', { exact: true }).fill('planner')
  await page.getByLabel('name for people').fill(text('name', 100))
  await page.getByLabel('scopes').fill(text('scope', 10_000))
  await page.getByRole('button', { name: 'Write the manifest' }).click()
  await page.getByRole('heading', { name: 'Plan' }).waitFor()
  assert.match(await main(page), /U\+202Ename"><img[\s\S]*U\+202Escope[\s\S]*cannot be applied/)
  await examine(page, 'a manifest')
  assert.deepEqual(complaints, [])
  await context.close()
})
