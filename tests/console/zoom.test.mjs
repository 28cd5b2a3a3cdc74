// Pages with text of twice the size, and at four times the size in a window of 1280 pixels, which is one of 320: no page
// scrolls sideways, and nothing is cut (WCAG 1.4.4, 1.4.10).

import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'

import { assertFits, launch, newPage } from './browser.mjs'
import { Filled } from './filled.mjs'
import { signIn } from './provider.mjs'

let filled, browser

before(async () => {
  filled = await Filled.start()
})

afterEach(() => browser?.close())

after(() => filled?.stop())

/** Elements that do not show all that they contain, except texts for screen readers alone and documents that scroll. */
const cut = page =>
  page.evaluate(() => {
    const found = []
    for (const element of document.querySelectorAll('body *')) {
      if (!element.checkVisibility() || element.closest('.visually-hidden, table.rows thead')) continue
      const { overflowX, overflowY } = getComputedStyle(element)
      const more = { x: element.scrollWidth - element.clientWidth, y: element.scrollHeight - element.clientHeight }
      if (element.matches('pre') && overflowX === 'auto') more.x = 0
      if (overflowX !== 'visible' && more.x > 1) found.push(`${element.outerHTML.slice(0, 80)}: ${more.x} px sideways`)
      if (overflowY !== 'visible' && more.y > 1) found.push(`${element.outerHTML.slice(0, 80)}: ${more.y} px below`)
    }
    return found
  })

const SIZES = {
  'text at 200 %': { flags: ['--blink-settings=defaultFontSize=32,defaultFixedFontSize=26'], viewport: { width: 1440, height: 900 }, letters: '26px' },
  'a page at 400 %': { flags: [], viewport: { width: 320, height: 256 }, letters: '13px' },
}

for (const [size, { flags, viewport, letters }] of Object.entries(SIZES)) {
  test(`${size} fits, and nothing is cut`, async () => {
    browser = await launch(...flags)
    const { page, complaints } = await newPage(browser, filled.server, { others: [filled.idp.issuer], viewport })
    await signIn(page, filled.server, 'ada')
    assert.equal(await page.evaluate(() => getComputedStyle(document.body).fontSize), letters)
    for (const [name, path] of Object.entries(filled.pages)) {
      const answer = await page.goto(`${filled.server.issuer}/console${path}`)
      assert.equal(answer.status(), 200, name)
      await assertFits(page, name, [viewport.width])
      assert.deepEqual(await cut(page), [], name)
    }
    assert.deepEqual(complaints, [])
  })
}
