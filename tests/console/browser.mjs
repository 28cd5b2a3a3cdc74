// What the tests of the console share: a real Chromium, pages whose every complaint is a failure, and what all pages have
// in common.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'

import { AxeBuilder } from '@axe-core/playwright'
import { HtmlValidate } from 'html-validate'
import { chromium } from 'playwright-core'

const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
const RULES = {
  'attr-quotes': 'off',
  'attribute-boolean-style': 'off',
  'doctype-style': 'off',
  'long-title': 'off',
  'no-implicit-button-type': 'error',
  'no-inline-style': 'error',
  'no-trailing-whitespace': 'off',
  'prefer-native-element': 'off',
  'void-style': 'off',
}

export const launch = (...more) => chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', ...more] })

/** The answer of a command of an operator beside the server. */
export function command(server, ...args) {
  const env = { ...server.environment, ACTCHAIN_ISSUER: server.issuer }
  return JSON.parse(execFileSync(server.program, [...args, '--json'], { env, stdio: ['ignore', 'pipe', 'ignore'] }))
}

/** A page that reaches the console and these other origins alone. What the console complains of is a failure. */
export async function newPage(browser, server, { others = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const complaints = []
  await context.route('**/*', route => {
    const known = [new URL(server.issuer).origin, ...others].includes(new URL(route.request().url()).origin)
    if (!known) complaints.push(`a request to ${route.request().url()}`)
    return known ? route.continue() : route.abort()
  })
  const page = await context.newPage()
  page.on('pageerror', error => complaints.push(error.message))
  page.on('console', message => {
    const harmless = message.text().includes('favicon') || /status (of )?4\d\d/.test(message.text())
    const elsewhere = others.some(origin => message.location().url.startsWith(origin))
    if (['error', 'warning'].includes(message.type()) && !harmless && !elsewhere) complaints.push(message.text())
  })
  return { page, context, complaints }
}

/** Enters the console by an operator's link. */
export async function enter(page, server) {
  await page.goto(command(server, 'console').url)
  await page.getByRole('button', { name: 'Enter' }).click()
  await page.waitForURL('**/console')
}

/** What a page says, without its frame. */
export const main = page => page.locator('[role=main]').innerText()

/** Waits until a page shows a text. After a click, the page before it may still stand. */
export const shows = (page, text) => page.locator('[role=main]', { hasText: text }).waitFor()

/** No page scrolls sideways. Ends at the last of the widths. */
export async function assertFits(page, name, widths = [320, 900, 1440]) {
  for (const width of widths) {
    await page.setViewportSize({ width, height: 900 })
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
    assert(wide <= 0, `${name} at ${width}: ${wide} px too wide`)
  }
}

export async function assertValid(text, name) {
  const report = await new HtmlValidate({ extends: ['html-validate:standard'], rules: RULES }).validateString(text)
  assert.deepEqual(report.results.flatMap(result => result.messages.map(one => `${one.ruleId}: ${one.message}`)), [], name)
}

/** The page has no finding of axe. Needs scripts. */
export async function assertAccessible(page, name) {
  const axe = await new AxeBuilder({ page }).withTags(WCAG).analyze()
  assert.deepEqual(axe.violations.map(one => `${one.id}: ${one.nodes.map(node => `${node.target} ${node.failureSummary}`)}`), [], name)
}
