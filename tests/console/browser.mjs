// What the tests of the console share: a real Chromium, pages whose every complaint is a failure, and what all pages have
// in common.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'

import { AxeBuilder } from '@axe-core/playwright'
import { HtmlValidate } from 'html-validate'
import { chromium } from 'playwright-core'

const WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
/** What depends on the colour scheme. */
const COLOURS = ['color-contrast', 'link-in-text-block']
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

const HTML = new HtmlValidate({ extends: ['html-validate:standard'], rules: RULES })

/** A browser that knows no host but this machine. */
export const launch = (...more) =>
  chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost', ...more],
  })

/** The answer of a command of an operator beside the server. */
export function command(server, ...args) {
  const env = { ...server.environment, ACTCHAIN_ISSUER: server.issuer }
  return JSON.parse(execFileSync(server.program, [...args, '--json'], { env, stdio: ['ignore', 'pipe', 'ignore'] }))
}

/**
 * A page that asks for the console and these other origins alone. All else, and what the console complains of, is a failure.
 * Requests are observed and not held: Chromium never closes a context in which one is held.
 */
export async function newPage(browser, server, { others = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const complaints = []
  context.on('request', request => {
    const known = [new URL(server.issuer).origin, ...others].includes(new URL(request.url()).origin)
    if (!known) complaints.push(`a request to ${request.url()}`)
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

/** What a browser keeps of an operator's session: pages of it need not enter once more. */
export async function session(browser, server) {
  const { page, context } = await newPage(browser, server)
  await enter(page, server)
  const kept = await context.storageState()
  await context.close()
  return kept
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
  const report = await HTML.validateString(text)
  assert.deepEqual(report.results.flatMap(result => result.messages.map(one => `${one.ruleId}: ${one.message}`)), [], name)
}

/** The page has no finding of axe in light, nor of its rules about colours in dark. Needs scripts. Ends in light. */
export async function assertAccessible(page, name) {
  await assertNoFinding(builder => builder.withTags(WCAG), page, name)
  await page.emulateMedia({ colorScheme: 'dark' })
  await assertNoFinding(builder => builder.withRules(COLOURS), page, `${name} in dark`)
  await page.emulateMedia({ colorScheme: 'light' })
}

async function assertNoFinding(rules, page, name) {
  // No page has frames, whose findings would be put together in another tab.
  const axe = await rules(new AxeBuilder({ page })).setLegacyMode().analyze()
  assert.deepEqual(axe.violations.map(one => `${one.id}: ${one.nodes.map(node => `${node.target} ${node.failureSummary}`)}`), [], name)
}
