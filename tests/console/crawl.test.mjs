// Links of every kind lead to pages of the console, and a page shows the same after a reload, after Back, and in another browser.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { launch, main, newPage } from './browser.mjs'
import { Filled } from './filled.mjs'
import { signIn } from './provider.mjs'

/** Segments of paths that are no ids. */
const FIXED = new Set(
  `console approvals uses delegations cut again sessions export erase-texts events agents new disable revoke-all end-task keys check registry clients
  issuers resources providers settings connections finish disconnect me help sign-in evidence`.split(/\s+/),
)
/** Parameters whose values make another page; all others are filters. */
const CHOICES = ['tab', 'view', 'format', 'all']

let filled, browser

before(async () => {
  filled = await Filled.start()
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await filled?.stop()
})

/** What pages of the same kind have in common: the address without ids and the values of filters. */
function kindOf(address, nameOfFilter = () => 'filtered') {
  const { pathname, searchParams } = new URL(address)
  const path = pathname.split('/').map(segment => (segment === '' || FIXED.has(segment) ? segment : '*')).join('/')
  const query = [...searchParams].map(([name, value]) => (CHOICES.includes(name) ? `${name}=${value}` : name === 'cursor' ? name : nameOfFilter(name)))
  return `${path}?${[...new Set(query)].sort().join('&')}`
}

/** Says of each link whether it is wanted: filters have more combinations than can be read. */
function chosen() {
  const known = new Set()
  const counts = new Map()
  return link => {
    // Each file of evidence or of events adds an event to the log: one of each kind is enough.
    const isRecorded = /[/]evidence$|[/]events[/]export[?]/.test(link)
    const kind = isRecorded ? kindOf(link).replace(/[?].*/, '') : kindOf(link, name => name)
    const count = counts.get(kind) ?? 0
    if (known.has(link) || count === (isRecorded ? 1 : 4)) return false
    known.add(link)
    counts.set(kind, count + 1)
    return true
  }
}

/** The addresses below the console to which a page links. */
function links(html, from) {
  const found = [...html.matchAll(/\s(?:href|hx-get)="([^"]*)"/g)].map(([, text]) => new URL(text.replaceAll('&amp;', '&').replaceAll('&quot;', '"'), from))
  const inside = found.filter(url => url.href.startsWith(`${filled.server.issuer}/console`) && !url.pathname.includes('/assets/'))
  return inside.map(url => url.href.replace(/#.*/, ''))
}

/** Reads four links of each kind and each combination of filters, a few at a time. */
async function crawl(page) {
  const pages = new Map()
  const isWanted = chosen()
  const known = [`${filled.server.issuer}/console`].filter(isWanted)
  while (pages.size < known.length) {
    const answers = await page.evaluate(
      addresses => Promise.all(addresses.map(async address => {
        const answer = await fetch(address)
        const isFile = answer.headers.has('content-disposition')
        return { address, status: answer.status, url: answer.url, isFile, text: isFile ? '' : await answer.text() }
      })),
      known.slice(pages.size, pages.size + 8),
    )
    for (const { address, ...answer } of answers) pages.set(address, answer)
    known.push(...answers.flatMap(answer => links(answer.text, answer.url)).filter(isWanted))
  }
  return pages
}

/** The address and the text of a page, without what passes while it is read. */
async function shown(page) {
  // The count of a list comes after its rows.
  await page.waitForFunction(() => !document.querySelector('[hx-trigger="load"]'))
  // The browser verifies an event after it has shown the page.
  await page.waitForFunction(() => !document.body.textContent.includes('This browser has checked nothing'))
  const text = await main(page)
  const still = text
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ/g, 'TIME')
    .replace(/\d+ (s|min|h|days)\b/g, 'LENGTH')
    // What is due passes while a slow browser visits every page.
    .replace(/\(in LENGTH\)/g, '(LENGTH ago)')
    // The server examines its log once a minute.
    .replace(/The log of \d+ events continues the newest checkpoint over \d+/, 'The log continues')
  return `${page.url()}\n${await page.title()}\n${still}`
}

/** A page that keeps what it violates. */
async function visit(cookies) {
  const visitor = await newPage(browser, filled.server, { others: [filled.idp.issuer] })
  if (cookies) await visitor.context.addCookies(cookies)
  await visitor.page.exposeFunction('violated', text => visitor.complaints.push(text))
  await visitor.page.addInitScript(() => addEventListener('securitypolicyviolation', event => window.violated(`${event.violatedDirective} ${event.blockedURI}`)))
  return visitor
}

test('every kind of link leads to a page, and the page is the same after a reload, after Back, and in another browser', async () => {
  const { page, context, complaints } = await visit()
  await signIn(page, filled.server, 'ada')
  const pages = [...(await crawl(page))]
  const wrong = pages.filter(([, { status }]) => status !== 200).map(([address, { status }]) => `${status} ${address}`)
  assert.deepEqual(wrong, [])
  // The first page of each kind; files are no pages.
  const kinds = [...new Map(pages.filter(([, { isFile }]) => !isFile).reverse().map(([address]) => [kindOf(address), address]))]
  assert(kinds.length > 50, `${kinds.length} kinds of pages`)
  // From here on, nothing adds an event to the log, and its newest checkpoint stays the same.
  await filled.server.run('audit', 'checkpoint')
  const other = await visit(await context.cookies())
  const seen = []
  const goBack = async () => {
    for (const { kind, there, first } of seen.splice(0).reverse()) {
      // The script replaces the entry of the history when a page is live. Going back must not come before.
      await page.waitForFunction(() => history.state?.htmx)
      await Promise.all([page.waitForURL(url => url.href === there), page.goBack()])
      assert.equal(await shown(page), first, `${kind} after Back`)
    }
  }
  for (const [kind, address] of kinds) {
    await page.goto(address)
    const [there, first] = [page.url(), await shown(page)]
    await Promise.all([page.reload(), other.page.goto(address)])
    assert.equal(await shown(page), first, `${kind} after a reload`)
    assert.equal(await shown(other.page), first, `${kind} in another browser`)
    seen.push({ kind, there, first })
    // A browser keeps fifty entries of its history.
    if (seen.length < 40 && kind !== kinds.at(-1)[0]) continue
    await page.goto(`${filled.server.issuer}/console/help?`)
    await goBack()
  }
  assert.deepEqual([...complaints, ...other.complaints], [])
  await other.context.close()
  await context.close()
})
