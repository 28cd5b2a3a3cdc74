// `examples/verify-log.mjs` and `actchain audit verify` give the same verdicts on the files of a real server: as they were written, and
// with a change in each kind of line.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cp, mkdir, readFile, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { JWT, MAIL, World } from './world.mjs'

const SCRIPT = fileURLToPath(new URL('../../examples/verify-log.mjs', import.meta.url))
// A key of another log (c2sp.org/signed-note).
const OTHER = 'example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k'

let world, key, folder

before(async () => {
  world = await World.make({ settings: {}, alg: 'ES256', rsa: 'RS256' })
  const { server, userProxy } = world
  folder = server.folder
  const subject_token = await world.userToken('alice')
  let token
  for (let times = 0; times < 3; times += 1) token = await world.exchange(userProxy, { subject_token, subject_token_type: JWT, audience: MAIL, scope: 'mail.read' })
  await assert.rejects(world.exchange(userProxy, { subject_token, subject_token_type: JWT, audience: MAIL, scope: 'calendar.read' }))
  key = (await server.run('key', 'show', '--purpose', 'checkpoint')).trim()
  await server.run('audit', 'export', '-o', join(folder, 'half.jsonl'))
  await server.apply({ resources: [{ id: 'https://files.example.com', scopes: ['files.read'] }] })
  // The first export is as long as the log was, so that its checkpoint covers less than all.
  const half = JSON.parse((await lines('half.jsonl')).at(-1)).checkpoint.split('\n')[1]
  await server.run('audit', 'export', '-o', join(folder, 'whole.jsonl'))
  await server.run('audit', 'export', '--from', half, '-o', join(folder, 'later.jsonl'))
  await server.run('audit', 'export', '--filter', 'action=oauth.token.exchanged', '-o', join(folder, 'selection.jsonl'))
  const { txn } = JSON.parse(Buffer.from(token.access_token.split('.')[1], 'base64url'))
  await download(`chains/${txn}/evidence`, subject_token, 'chain')
  await download(`${(await lines('selection.jsonl')).map(line => JSON.parse(line).event?.seq).find(Number)}/evidence`, subject_token, 'event')
  await server.run('audit', 'evidence', '--subject', 'alice', '--from', '2000-01-01', '--to', '2999-01-01', '-o', join(folder, 'evidence'))
})

after(() => world?.stop())

/** Downloads evidence as the user, and unpacks it into a folder of this name. */
async function download(path, token, name) {
  const answer = await fetch(`${world.server.issuer}/api/v1/audit-logs/${path}`, { headers: { authorization: `Bearer ${token}` } })
  assert.equal(answer.status, 200, path)
  const archive = join(folder, `${name}.tar.gz`)
  await writeFile(archive, Buffer.from(await answer.arrayBuffer()))
  const [, own] = /filename="(.*)\.tar\.gz"/.exec(answer.headers.get('content-disposition'))
  execFileSync('tar', ['xzf', archive, '-C', folder])
  await rename(join(folder, own), join(folder, name))
}

const lines = async name => (await readFile(join(folder, name), 'utf8')).trimEnd().split('\n')
/** What a line of an export is; all that begin otherwise are documents. */
const kind = line => /^\{"(checkpoint|leaves|from|extract|event)"/.exec(line)?.[1] ?? 'document'

/** The exit codes of the script and of the command. */
function verdicts(path, ...keys) {
  const script = spawnSync(process.execPath, [SCRIPT, path, ...keys], { encoding: 'utf8' })
  const command = spawnSync(world.server.program, ['audit', 'verify', path, ...keys.flatMap(key => ['--key', key])], { encoding: 'utf8', env: { PATH: process.env.PATH } })
  assert.match(script.stdout, [/^valid: /, /^CHANGED: /, /^not checked: /][script.status], script.stdout + script.stderr)
  return [script.status, command.status]
}

/** Replaces one character of a text after a pattern by another one of its alphabet. */
const flip = (text, pattern) => text.replace(pattern, (whole, before, character) => before + (character === 'A' ? 'B' : 'A'))

/** What a change does to the lines of a file: each is a name, the kind of line to change, and the change. */
const CHANGES = {
  'a document': ['document', line => line.replace(/"at":"2/, '"at":"3')],
  'the order of members': ['document', line => line.replace(/^\{(.*),("[a-z_]+":"[^"]*")\}$/, '{$2,$1}')],
  'a space in a document': ['document', line => line.replace(',', ', ')],
  'a selected document': ['event', line => line.replace(/"at":"2/, '"at":"3')],
  'a proof': ['event', line => flip(line, /("proof":\[")(.)/)],
  'a shorter proof': ['event', line => line.replace(/,"[^"]*"\]\}$/, ']}')],
  'a longer proof': ['event', line => line.replace(/\]\}$/, `,"${'A'.repeat(43)}="]}`)],
  'a proof that is none': ['event', line => line.replace(/"proof":.*$/, '"proof":7}')],
  'the root of the checkpoint': ['checkpoint', line => flip(line, /(audit\\n\d+\\n)(.)/)],
  'the size of the checkpoint': ['checkpoint', line => line.replace(/(audit\\n)(\d+)/, (_, before, size) => before + (Number(size) - 1))],
  'the signature of the checkpoint': ['checkpoint', line => flip(line, /(audit [^"]{20})(.)/)],
  'no signature': ['checkpoint', line => line.replace(/\\n\\n.*?\\n"/, '\\n\\n"')],
  'another signer': ['checkpoint', line => line.replace(/\u2014 \S+/, '\u2014 example.com/foo')],
  'a subtree': ['from', line => flip(line, /("peaks":\[")(.)/)],
  'a missing subtree': ['from', line => line.replace(/("peaks":\[)"[^"]*",?/, '$1')],
  'the first event of the rest': ['from', line => line.replace(/"from":(\d+)/, (_, from) => `"from":${Number(from) - 1}`)],
  'the size of a selection': ['extract', line => line.replace(/"size":(\d+)/g, (_, size) => `"size":${Number(size) - 1}`)],
  'the first line': ['extract', line => line.replace('{"extract"', '{"excerpt"')],
}

test('unchanged files are valid, under the key of the log alone', async () => {
  for (const name of ['whole.jsonl', 'half.jsonl', 'later.jsonl', 'selection.jsonl', 'evidence', 'chain', 'event']) {
    assert.deepEqual(verdicts(join(folder, name), key), [0, 0], name)
    assert.deepEqual(verdicts(join(folder, name), key, OTHER), [0, 0], `${name} with a second key`)
    assert.deepEqual(verdicts(join(folder, name), OTHER), [1, 1], `${name} under the key of another log`)
    const damaged = flip(key, /(\+[0-9a-f]{8}\+.{9})(.)/)
    assert.deepEqual(verdicts(join(folder, name), damaged), [2, 2], `${name} under a key that is none`)
  }
  assert.deepEqual(new Set((await lines('whole.jsonl')).map(kind)), new Set(['document', 'leaves', 'checkpoint']))
  assert.equal((await lines('later.jsonl'))[0].startsWith('{"from"'), true)
  const { status } = spawnSync(process.execPath, [SCRIPT, join(folder, 'whole.jsonl')])
  assert.equal(status, 2, 'the script trusts no key of a file')
  assert.deepEqual(verdicts(join(folder, 'absent.jsonl'), key), [2, 2])
})

for (const name of ['whole.jsonl', 'later.jsonl', 'selection.jsonl', 'evidence/events.jsonl', 'chain/events.jsonl']) {
  test(`a change in a line of ${name} is found`, async () => {
    const original = await lines(name)
    // The folder with evidence, if it is one.
    const evidence = name.endsWith('/events.jsonl') ? name.split('/')[0] : undefined
    const copy = join(folder, 'changed')
    let tried = 0
    const check = async (text, what, expected) => {
      let path = join(folder, 'changed.jsonl')
      if (evidence) {
        await cp(join(folder, evidence), copy, { recursive: true })
        path = copy
      }
      await writeFile(evidence ? join(copy, 'events.jsonl') : path, text)
      assert.notEqual(text, `${original.join('\n')}\n`, what)
      const [script, command] = verdicts(path, key)
      if (expected) assert.deepEqual([script, command], expected, what)
      assert(script > 0 && script === command || expected, `${what}: ${script}, and actchain says ${command}`)
      tried += 1
    }
    const joined = lines => `${lines.join('\n')}\n`
    for (const [what, [of, change]] of Object.entries(CHANGES)) {
      const places = original.flatMap((line, place) => (kind(line) === of ? [place] : []))
      // The first and the last line of the kind.
      for (const place of new Set([places[0], places.at(-1)].filter(place => place !== undefined))) {
        // Without its first line, the folder is none with evidence; its events are still those of no export.
        const expected = what === 'the first line' && evidence ? [1, 2] : undefined
        await check(joined(original.with(place, change(original[place]))), `${what} in line ${place}`, expected)
      }
    }
    const events = original.flatMap((line, place) => (['document', 'event'].includes(kind(line)) ? [place] : []))
    const [first, second] = events
    await check(joined(original.with(first, original[second]).with(second, original[first])), 'two events in another order')
    await check(joined(original.with(second, original[first])), 'an event twice')
    await check(joined(original.toSpliced(second, 0, '{"seq":1}')), 'a line more')
    await check(joined(original.filter(line => kind(line) !== 'checkpoint')), 'no checkpoint', [2, 2])
    await check(joined(original).replaceAll('\n', '\r\n'), 'CRLF', [2, 2])
    await check(`\ufeff${joined(original)}`, 'a byte order mark', [2, 2])
    const forged = line => line.replace(/"at":"2/, '"at":"3')
    if (kind(original[first]) === 'event') {
      const twice = `${original[first].slice(0, -1)},${forged(original[first]).slice(1, original[first].lastIndexOf(',"proof":'))}}`
      await check(joined(original.with(first, twice)), 'a second event in a line')
      if (!evidence) await check(joined([JSON.stringify({ seq: 0 }), ...original]), 'an event before a selection')
    } else {
      const size = Number(/audit\\n(\d+)/.exec(original.at(-1))[1])
      await check(joined([forged(original[first]), `{"extract":{"size":${size}}}`, original.at(-1)]), 'a selection after an event')
      const again = kind(original[0]) === 'from' ? original[0] : '{"from":0,"peaks":[]}'
      await check(joined([again, forged(original[first]), again, ...original.slice(first)]), 'a first line that comes again')
    }
    if (original.some(line => kind(line) === 'document')) {
      for (const place of [first, second, events.at(-1)]) await check(joined(original.toSpliced(place, 1)), `without line ${place}`)
      await check(joined(original.toSpliced(events.at(-1) + 1, 0, original[events.at(-1)].replace(/"seq":\d+/, `"seq":${events.length}`))), 'an event more')
    } else if (name === 'selection.jsonl') {
      // No file can show what a selection leaves out.
      await check(joined(original.toSpliced(first, 1)), 'without an event', [0, 0])
    }
    assert(tried > 10, `${tried} changes`)
  })
}

test('an export that was interrupted and continued is valid as one file', async () => {
  const [half, later] = [await lines('half.jsonl'), await lines('later.jsonl')]
  const path = join(folder, 'continued.jsonl')
  const write = (...parts) => writeFile(path, `${parts.flat().join('\n')}\n`)
  await write(half.filter(line => kind(line) === 'document'), later)
  assert.deepEqual(verdicts(path, key), [0, 0])
  await write(half.filter(line => kind(line) === 'document').slice(0, -1), later)
  assert.deepEqual(verdicts(path, key), [1, 1])
})

test('lines with leaves vouch for nothing', async () => {
  const original = await lines('whole.jsonl')
  const path = join(folder, 'leaves.jsonl')
  for (const changed of [original.filter(line => kind(line) !== 'leaves'), original.map(line => flip(line, /^(\{"leaves":")(.)/))]) {
    assert.notDeepEqual(changed, original)
    await writeFile(path, `${changed.join('\n')}\n`)
    assert.deepEqual(verdicts(path, key), [0, 0])
  }
})

test('the files of evidence beside the events', async () => {
  const files = async of => (await readdir(join(folder, of))).filter(name => name !== 'events.jsonl').map(name => [of, name])
  for (const [of, name] of [...await files('evidence'), ...await files('chain')]) {
    const copy = join(folder, `${of}-without-${name}`)
    await mkdir(copy)
    await cp(join(folder, of), copy, { recursive: true })
    const text = await readFile(join(copy, name), 'utf8')
    await writeFile(join(copy, name), name === 'checkpoint.note' ? flip(text, /(\n)(.)/) : `${text}x\n`)
    // The script says of itself that it leaves the files that follow from the events to actchain.
    const expected = name === 'checkpoint.note' ? [1, 1] : [0, 1]
    assert.deepEqual(verdicts(copy, key), expected, name)
  }
})
