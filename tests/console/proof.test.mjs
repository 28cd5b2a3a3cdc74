// The check of an event's proof in the browser: what is valid, which step fails where the answer was changed on its way or the row
// in the database, and what the page says without scripts, without WebCrypto and without Ed25519.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'

import { Server } from '../interop/server.mjs'
import { assertAccessible, assertFits, assertValid, launch, main, newPage, session, shows } from './browser.mjs'

/** An event with events before and after it. */
const SEQ = 2
const PATH = `/events/${SEQ}?tab=forensics`
const VALID = '✓ This browser verified that the document is an event of the log, in a signed checkpoint.'

let server, browser, operator, logKey

before(async () => {
  server = await Server.start({})
  const agent = id => ({ id, kind: 'agent', auth: 'client_secret_basic', secret: `${id}-secret-0123456789`, grant_types: ['client_credentials'] })
  await server.apply({ clients: ['a', 'b', 'c', 'd', 'e', 'f'].map(agent) })
  await server.run('audit', 'checkpoint')
  logKey = (await (await fetch(`${server.issuer}/audit/keys`)).text()).trim()
  browser = await launch()
  operator = await session(browser, server)
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

const base64 = bytes => Buffer.from(bytes).toString('base64')
const bytes = text => Buffer.from(text, 'base64')
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts.map(part => Buffer.from(part)))).digest()
const leafOf = document => sha256([0], document)
const nodeOf = (left, right) => sha256([1], left, right)
/** The largest power of two below a size. */
const split = size => 2 ** Math.floor(Math.log2(size - 1))

/** MTH of RFC 9162 §2.1.1, as the RFC defines it. */
const rootOf = leaves => (leaves.length === 1 ? leaves[0] : nodeOf(rootOf(leaves.slice(0, split(leaves.length))), rootOf(leaves.slice(split(leaves.length)))))

/** PATH of RFC 9162 §2.1.3.1, as the RFC defines it. */
function pathOf(seq, leaves) {
  if (leaves.length === 1) return []
  const [left, right] = [leaves.slice(0, split(leaves.length)), leaves.slice(split(leaves.length))]
  return seq < left.length ? [...pathOf(seq, left), rootOf(right)] : [...pathOf(seq - left.length, right), rootOf(left)]
}

/** A key that signs checkpoints under the name of the log, and its text. */
function newLogKey() {
  const [name] = logKey.split('+')
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const key = Buffer.concat([Buffer.from([1]), bytes(publicKey.export({ format: 'jwk' }).x)])
  const id = sha256(`${name}\n`, key).subarray(0, 4)
  const note = (size, root) => {
    const text = `${name}\n${size}\n${base64(root)}\n`
    return `${text}\n— ${name} ${base64(Buffer.concat([id, sign(null, Buffer.from(text), privateKey)]))}\n`
  }
  return { text: `${name}+${id.toString('hex')}+${base64(key)}`, note }
}

/** What the page carries for an event of a log of one's own. */
function forged(seq, documents, key) {
  const leaves = documents.map(leafOf)
  const proof = { seq, size: leaves.length, leaf: base64(leaves[seq]), path: pathOf(seq, leaves).map(base64), root: '', checkpoint: key.note(leaves.length, rootOf(leaves)) }
  return { document: base64(documents[seq]), proof, keys: `${key.text}\n` }
}

const escaped = text => text.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
const plain = text => text.replaceAll('&quot;', '"').replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')

/** An answer of the server, with other data than the server sent. */
function rewrite(html, change) {
  const attribute = name => plain(new RegExp(` data-${name}="([^"]*)"`).exec(html)[1])
  const sent = { document: attribute('document'), proof: JSON.parse(attribute('proof')), keys: attribute('keys') }
  const changed = { ...sent, ...change(structuredClone(sent)) }
  assert.notDeepEqual(changed, sent)
  const put = (text, name, value) => text.replace(new RegExp(` data-${name}="[^"]*"`), () => ` data-${name}="${escaped(value)}"`)
  return put(put(put(html, 'document', changed.document), 'proof', JSON.stringify(changed.proof)), 'keys', changed.keys)
}

/** A page of the console in a browser in which an operator has entered; `change` changes its data on their way. */
async function visit(path, { change, script, ...options } = {}) {
  const visitor = await newPage(browser, server, { reducedMotion: 'reduce', storageState: operator, ...options })
  const { page } = visitor
  if (script) await page.addInitScript(script)
  if (change) {
    await page.route('**/*tab=forensics', async route => {
      const response = await route.fetch()
      await route.fulfill({ response, body: rewrite(await response.text(), change) })
    })
  }
  const answer = await page.goto(`${server.issuer}/console${path}`)
  return { ...visitor, answer }
}

const verdict = page => page.locator('#proof-check [role=status]')
const says = (page, text) => verdict(page).filter({ hasText: text }).waitFor()
const sent = async page => JSON.parse(await page.locator('#proof-check').getAttribute('data-proof'))
const steps = page => page.locator('#proof-check li').allInnerTexts()
const keptKey = page => page.getByLabel('the key of the log that you kept')

async function leave({ context, complaints }) {
  assert.deepEqual(complaints, [])
  await context.close()
}

test('the browser verifies each event of the log by itself', async () => {
  const visitor = await visit(PATH)
  const { page } = visitor
  await says(page, VALID)
  const { size: events } = await sent(page)
  assert(events >= 6, `${events} events`)
  for (let seq = 0; seq < events; seq += 1) {
    await page.goto(`${server.issuer}/console/events/${seq}?tab=forensics`)
    await says(page, VALID)
    // The server signs a new checkpoint from time to time.
    const { size } = await sent(page)
    const [document, path, root, signature] = await steps(page)
    assert.match(document, new RegExp(`^✓ document: The document of \\d+ bytes says that it is event ${seq}\\. Its leaf is \\S+=\\.$`))
    assert.match(path, new RegExp(`^✓ path: The path of \\d hashes leads from the leaf to a root of ${size} events\\.$`))
    assert.match(root, /^✓ root: The root is that of the checkpoint: \S+=\.$/)
    assert.equal(signature, `✓ signature: The key ${logKey.split('+').slice(0, 2).join('+')} has signed the checkpoint. The server names this key: paste the one that you kept.`)
    assert.match(await main(page), /✓ This server verified at/)
  }
  await leave(visitor)
})

test('the browser follows the paths of RFC 9162 in trees of all shapes', async () => {
  const visitor = await visit(PATH)
  const { page } = visitor
  await says(page, VALID)
  const key = newLogKey()
  const check = async ({ document, proof }, expected) => {
    await page.locator('#proof-check').evaluate((section, data) => Object.assign(section.dataset, data), { document, proof: JSON.stringify(proof), keys: key.text })
    await verdict(page).evaluate(element => element.replaceChildren())
    await keptKey(page).dispatchEvent('input')
    await says(page, expected)
  }
  for (let size = 1; size <= 9; size += 1) {
    const documents = Array.from({ length: size }, (_, seq) => JSON.stringify({ seq, size }))
    for (let seq = 0; seq < size; seq += 1) {
      const event = forged(seq, documents, key)
      await check(event, VALID)
      // The same hashes at another place lead elsewhere.
      const moved = { seq: (seq + 1) % size }
      const document = JSON.stringify({ ...moved, size })
      if (size > 1) await check({ document: base64(document), proof: { ...event.proof, ...moved, leaf: base64(leafOf(document)) } }, /What failed: (path|root)\./)
    }
  }
  await leave(visitor)
})

const changed = (hash, place = 0) => {
  const other = bytes(hash)
  other[place] ^= 1
  return base64(other)
}
const withDocument = (document, change) => {
  const other = change(bytes(document).toString())
  return { document: base64(other), leaf: base64(leafOf(other)) }
}

/** What is changed in an answer, which steps fail, and what the first of these says. */
const CHANGES = {
  'a document of another text': {
    change: ({ document }) => ({ document: withDocument(document, text => text.replace('success', 'succesS')).document }),
    failed: 'document',
    reason: /the document is not that of the log/,
  },
  'a document of another text with its leaf': {
    change: ({ document, proof }) => {
      const { leaf, ...other } = withDocument(document, text => text.replace('success', 'succesS'))
      return { ...other, proof: { ...proof, leaf } }
    },
    failed: 'root',
    reason: /The path leads to the root \S+ The checkpoint has the root/,
  },
  'the place of another event': { change: ({ proof }) => ({ proof: { ...proof, seq: SEQ + 1 } }), failed: 'document', reason: /says that it is event 2\. The proof is of event 3/ },
  'a document that is not JSON': {
    change: ({ document, proof }) => {
      const { leaf, ...other } = withDocument(document, () => '<script>')
      return { ...other, proof: { ...proof, leaf } }
    },
    failed: 'document',
    reason: /no valid data/,
  },
  'another hash of the path': { change: ({ proof }) => ({ proof: { ...proof, path: proof.path.with(1, changed(proof.path[1])) } }), failed: 'root', reason: /The path leads to the root/ },
  'a path without its last hash': { change: ({ proof }) => ({ proof: { ...proof, path: proof.path.slice(0, -1) } }), failed: 'path', reason: /does not fit event 2 of \d+ events/ },
  'a path with a hash more': { change: ({ proof }) => ({ proof: { ...proof, path: [...proof.path, proof.path[0]] } }), failed: 'path', reason: /does not fit event 2/ },
  'a hash of another length': { change: ({ proof }) => ({ proof: { ...proof, path: proof.path.with(0, 'AAAA') } }), failed: 'path', reason: /does not fit event 2/ },
  'another root': {
    change: ({ proof }) => ({ proof: { ...proof, checkpoint: proof.checkpoint.replace(proof.root, changed(proof.root)) } }),
    failed: 'root, signature',
    reason: /The path leads to the root/,
  },
  'another size': { change: ({ proof }) => ({ proof: { ...proof, checkpoint: proof.checkpoint.replace(`\n${proof.size}\n`, '\n3\n') } }), failed: 'path, signature', reason: /of 3 events/ },
  'another signature': {
    change: ({ proof }) => ({ proof: { ...proof, checkpoint: proof.checkpoint.replace(/\S+\n$/, line => `${changed(line, 10)}\n`) } }),
    failed: 'signature',
    reason: /The signature of the key \S+ is not valid for the checkpoint/,
  },
  'a text that is no note': { change: ({ proof }) => ({ proof: { ...proof, checkpoint: proof.checkpoint.replace('\n— ', '\n- ') } }), failed: 'path, signature', reason: /no signed note/ },
  'the key of another log': { change: () => ({ keys: `${newLogKey().text}\n` }), failed: 'signature', reason: /No key of this server has signed the checkpoint/ },
  'a key with the id of another key': { change: ({ keys }) => ({ keys: keys.replace(/(?<=\+[0-9a-f]{8}\+).+/, key => changed(key, 20)) }), failed: 'signature', reason: /is no key of a log/ },
}

for (const [name, { change, failed, reason }] of Object.entries(CHANGES)) {
  test(`${name} is found by the browser, which names the step that failed`, async () => {
    const visitor = await visit(PATH, { change })
    const { page } = visitor
    await says(page, `✗ This browser did not verify the event. What failed: ${failed}.`)
    const all = await steps(page)
    assert.deepEqual(all.filter(step => step.startsWith('✗')).map(step => /^✗ (\w+): /.exec(step)[1]).join(', '), failed)
    assert.match(all.find(step => step.startsWith('✗')), reason)
    // Later steps of a failed inclusion are not said to be right.
    const first = all.findIndex(step => step.startsWith('✗'))
    if (first < 2) assert.match(all[2], /^– root: Not checked, because a step before failed\.$/)
    await assertAccessible(page, name)
    await leave(visitor)
  })
}

test('a key that a person kept finds a log that the server has made up', async () => {
  const key = newLogKey()
  const documents = Array.from({ length: 5 }, (_, seq) => JSON.stringify({ seq, action: 'nothing.happened' }))
  const visitor = await visit(PATH, { change: () => forged(SEQ, documents, key) })
  const { page } = visitor
  await says(page, VALID)
  await keptKey(page).fill(logKey)
  await says(page, '✗ This browser did not verify the event. What failed: signature.')
  assert.match((await steps(page)).at(-1), /^✗ signature: No key that you pasted has signed the checkpoint: it is of another log, or signed by a later key\.$/)
  await keptKey(page).fill('my-key')
  await page.locator('#proof-check li', { hasText: 'my-key is no key of a log.' }).waitFor()
  await keptKey(page).fill('')
  await says(page, VALID)
  await leave(visitor)
})

test('the key that a person kept is the one that the browser uses', async () => {
  const visitor = await visit(PATH, { change: () => ({ keys: `${newLogKey().text}\n` }) })
  const { page } = visitor
  await says(page, 'What failed: signature.')
  await keptKey(page).fill(`${newLogKey().text}\n ${logKey} `)
  await says(page, VALID)
  assert.match((await steps(page)).at(-1), /^✓ signature: .* You pasted this key\.$/)
  await leave(visitor)
})

test('the page is accessible, valid, and fits, and another tab loads no script of the check', async () => {
  const visitor = await visit(PATH)
  await says(visitor.page, VALID)
  await assertValid(await visitor.answer.text(), 'the proof')
  await assertFits(visitor.page, 'the proof')
  await assertAccessible(visitor.page, 'the proof')
  await leave(visitor)
  const { page, context } = await visit(`/events/${SEQ}`)
  const loaded = () => page.evaluate(() => performance.getEntriesByType('resource').filter(one => one.name.includes('check-proof')).length)
  assert.equal(await loaded(), 0)
  await page.getByRole('link', { name: 'forensics' }).click()
  await says(page, VALID)
  assert.equal(await loaded(), 1)
  await context.close()
})

/** The page says what the server found and which command checks it. */
async function assertComplete(page) {
  const text = await main(page)
  assert.match(text, /✓ This server verified at/)
  assert.match(text, new RegExp(`actchain audit verify-receipt --proof event-${SEQ}\\.tlog-proof --event event-${SEQ}\\.json --key`))
}

test('without scripts the page has the result of the server, and the command', async () => {
  const { page, context } = await visit(PATH, { javaScriptEnabled: false })
  await assertComplete(page)
  assert.match(await main(page), /This browser has checked nothing: that needs JavaScript\./)
  assert.equal(await keptKey(page).isVisible(), false)
  await context.close()
})

test('without WebCrypto the page says so', async () => {
  const visitor = await visit(PATH, { script: () => Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined }) })
  await says(visitor.page, '! This browser checks nothing here: it has WebCrypto on pages over HTTPS alone.')
  await assertComplete(visitor.page)
  await leave(visitor)
})

test('without Ed25519 the page says which step was not checked', async () => {
  const script = () => {
    SubtleCrypto.prototype.importKey = () => Promise.reject(new DOMException('Unrecognized name.', 'NotSupportedError'))
  }
  const visitor = await visit(PATH, { script })
  await says(visitor.page, '! This browser verified that the checkpoint contains the document, and did not check the signature.')
  const all = await steps(visitor.page)
  assert.equal(all.filter(step => step.startsWith('✓')).length, 3)
  assert.equal(all.at(-1), '! signature: Not checked: this browser has no Ed25519.')
  await leave(visitor)
})

test('server and browser say that a row was changed in the database', async () => {
  const socket = readFileSync(`${server.folder}/postgres/cluster/postmaster.pid`, 'utf8').split('\n')[4]
  const run = sql => execFileSync('psql', ['--quiet', '--no-psqlrc', '--host', socket, '--username', 'actchain', '--command', sql, 'actchain'])
  const set = document => run(`UPDATE audit_event SET document = ${document} WHERE seq = ${SEQ}`)
  set(`replace(document, '"seq"', ' "seq"')`)
  const visitor = await visit(PATH)
  const { page } = visitor
  // The server has computed the leaf of this row, too: the checkpoint alone is of the time before.
  await says(page, '✗ This browser did not verify the event. What failed: root.')
  await shows(page, /✗ The log does not prove this document at 2\. Run actchain audit verify\./)
  set(`replace(document, ' "seq"', '"seq"')`)
  await page.reload()
  await says(page, VALID)
  await assertComplete(page)
  // A document that is too long for the page.
  set(`document || repeat(' ', 65536)`)
  await page.reload()
  await shows(page, /The document has \d+ bytes, and a page carries at most 65535/)
  await leave(visitor)
})
