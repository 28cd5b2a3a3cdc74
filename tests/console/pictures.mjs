// Pictures of pages, kept in docs/console. Times, ids and ports are replaced before a picture is taken, so that two runs
// differ only where the page does.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import pixelmatch from 'pixelmatch'
import { PNG } from 'pngjs'

const FOLDER = fileURLToPath(new URL('../../docs/console/', import.meta.url))
const FONTS = `${FOLDER}fonts.txt`
/** How Chromium draws pictures that are the same everywhere. */
export const PICTURE_FLAGS = ['--force-device-scale-factor=1', '--font-render-hinting=none', '--disable-lcd-text']
const PICTURES = [
  { suffix: '', colorScheme: 'light', width: 1440 },
  { suffix: '-320', colorScheme: 'light', width: 320 },
  { suffix: '-dark', colorScheme: 'dark', width: 1440 },
]
/** The share of pixels that may differ. */
const TOLERANCE = 0.001

/** Whether this run keeps pictures; else it compares with those that are kept. */
export const keeps = Boolean(process.env.SHOTS)

/** What draws the pictures: Chromium, and the fonts that it takes for the two families of the style sheet. */
function fonts() {
  try {
    const run = (program, ...args) => execFileSync(program, args, { encoding: 'utf8' }).trim()
    const of = family => run('fc-match', family, 'file', 'family', 'fontversion')
    return `${of('system-ui')}\n${of('monospace')}\n${run('chromium', '--version')}\n`
  } catch {
    return 'no fontconfig\n'
  }
}

/** Why pictures are not compared here; undefined where they are. */
export function incomparable() {
  if (!existsSync(FONTS)) return 'no pictures are kept'
  return readFileSync(FONTS, 'utf8') === fonts() ? undefined : 'Chromium or the fonts are others than those of the pictures'
}

/** Takes the pictures of a page, and answers what differs from those that are kept. */
export async function differences(page, name) {
  if (!keeps && incomparable()) return []
  await standStill(page)
  const found = []
  for (const { suffix, colorScheme, width } of PICTURES) {
    await page.emulateMedia({ colorScheme })
    await page.setViewportSize({ width, height: 900 })
    const picture = await page.screenshot({ fullPage: width === 1440, animations: 'disabled', caret: 'hide' })
    found.push(keepOrCompare(`${name}${suffix}`, picture))
  }
  return found.filter(Boolean)
}

/** Replaces in the page what differs from run to run, by texts of the same length. */
async function standStill(page) {
  await page.evaluate(() => {
    const rules = [
      [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, '01a20300-0000-7000-8000-000000000000'],
      [/[0-9a-f]{8}…[0-9a-f]{4}/g, '01a20300…0000'],
      [/\/[a-z/]+\/actchain-interop-\w+/g, '/tmp/actchain-interop-000000'],
      [/\d{4}-\d\d-\d\d(T| )\d\d:\d\d:\d\d(\.\d+)?Z/g, '2026-11-28 14:23:02Z'],
      [/\(in \d+ (s|min|h|days)\)/g, '(in 47 min)'],
      [/\(\d+ (s|min|h|days) ago\)/g, '(2 min ago)'],
      [/ends in \d+ (s|min|h|days)/g, 'ends in 47 min'],
      [/for \d+ (s|min|h|days)/g, 'for 8 h'],
      [/up to \d+ events/g, 'up to 6 events'],
      [/127\.0\.0\.1:\d+/g, '127.0.0.1:8080'],
      [/http:\/\/1…\d+/g, 'http://1…8080'],
      [/process \d+/g, 'process 4711'],
      [/\/tmp\/[A-Za-z0-9._/-]+/g, '/var/lib/actchain'],
      [/[A-Za-z0-9_-]{43}/g, 'Qx1c'.padEnd(43, '0')],
      [/\d+(\.\d+)? (ms|µs)/g, '4 ms'],
      [/[A-Za-z0-9_-]{8}…[A-Za-z0-9_-]{4}/g, 'Qx1cTyhw…0000'],
    ]
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) {
      const node = walker.currentNode
      const text = rules.reduce((text, [from, to]) => text.replace(from, to), node.data)
      if (text !== node.data) node.data = text
    }
    for (const field of document.querySelectorAll('input, textarea')) field.blur()
  })
}

/** Keeps a picture, or compares it with the one that is kept. Answers what differs, or undefined. */
function keepOrCompare(name, picture) {
  const file = `${FOLDER}${name}.png`
  if (keeps) {
    mkdirSync(FOLDER, { recursive: true })
    writeFileSync(file, picture)
    writeFileSync(FONTS, fonts())
    return undefined
  }
  if (!existsSync(file)) return `${name}: no picture is kept; SHOTS=1 tests/console/run.sh keeps one`
  const [kept, now] = [PNG.sync.read(readFileSync(file)), PNG.sync.read(picture)]
  if (kept.width !== now.width || kept.height !== now.height) {
    return `${name}: ${now.width} × ${now.height} instead of ${kept.width} × ${kept.height}`
  }
  const differing = pixelmatch(kept.data, now.data, undefined, kept.width, kept.height, { threshold: 0.1 })
  const share = differing / (kept.width * kept.height)
  return share > TOLERANCE ? `${name}: ${(share * 100).toFixed(2)} % of the pixels differ` : undefined
}
