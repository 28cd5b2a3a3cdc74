// Verifies an export or archive of the audit log, or a folder with evidence, without actchain. Needs Node.js 20 and no packages.
// node verify-log.mjs PATH KEY…    KEY as `actchain key show --purpose checkpoint` prints it; after a rotation, all keys of the log
// Exits 0: the events are as recorded, 1: something was changed, 2: not checked. Of evidence it checks events.jsonl and checkpoint.note.
import { createHash, createPublicKey, verify } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
const end = (code, text) => { console.log(`${['valid', 'CHANGED', 'not checked'][code]}: ${text}`); process.exit(code) }
const ensure = (condition, text, code = 1) => condition || end(code, text)
process.on('uncaughtException', error => end(error.syscall ? 2 : 1, error.message)) // a line that no export has is a change
const base64 = text => Buffer.from(text, 'base64')
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts.map(part => Buffer.from(part)))).digest()
const [leafOf, nodeOf] = [document => sha256([0], document), (left, right) => sha256([1], left, right)] // RFC 9162 §2.1.1
/** The root that an inclusion proof leads to (RFC 9162 §2.1.3.1, from the root down). */
function rootOfProof(leaf, seq, size, proof) {
  if (size === 1) return ensure(proof.length === 0, 'a proof is too long') && leaf
  const [left, sibling, rest] = [2 ** Math.floor(Math.log2(size - 1)), base64(proof.at(-1)), proof.slice(0, -1)]
  return seq < left ? nodeOf(rootOfProof(leaf, seq, left, rest), sibling) : nodeOf(sibling, rootOfProof(leaf, seq - left, size - left, rest))
}
/** The keys, each name+id+base64(1 ‖ Ed25519 key); the id is a digest of both (c2sp.org/signed-note). */
const keys = process.argv.slice(3).map(text => {
  const [, name, id, key] = /^([^+]+)\+([^+]+)\+(\S+)\s*$/.exec(text) ?? end(2, `${text} is no key of a log`)
  ensure(base64(key)[0] === 1 && sha256(`${name}\n`, base64(key)).toString('hex', 0, 4) === id, `${text} is no key of a log`, 2)
  return { name, id, key: createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x: base64(key).toString('base64url', 1) } }) }
})
/** The checkpoint in a note that one of the keys has signed (c2sp.org/tlog-checkpoint). */
function open(note) {
  const [, text, lines] = /^(.*\n)\n(.*)$/s.exec(note)
  const signatures = lines.split('\n').map(line => line.split(' ')).map(([, name, blob = '']) => [name, base64(blob)])
  const known = signatures.flatMap(([by, blob]) => keys.filter(({ name, id }) => by === name && blob.toString('hex', 0, 4) === id).map(({ key }) => ({ key, blob })))
  ensure(known.length > 0 && known.every(({ key, blob }) => verify(null, Buffer.from(text), key, blob.subarray(4))), 'a checkpoint is not signed by these keys')
  return { text, size: Number(text.split('\n')[1]), root: base64(text.split('\n')[2]) }
}
const [path, isFolder] = keys.length > 0 ? [process.argv[2], statSync(process.argv[2]).isDirectory()] : end(2, 'usage: node verify-log.mjs PATH KEY…')
const lines = readFileSync(isFolder ? `${path}/events.jsonl` : path, 'utf8').replace(/\n$/, '').split('\n')
ensure(!lines.some(line => /^\ufeff|^.?\ufffd|^\x1f|\r$/.test(line)), 'the file was converted on its way', 2)
const checkpoints = lines.filter(line => line.startsWith('{"checkpoint"')).map(line => open(JSON.parse(line).checkpoint))
const size = checkpoints.length > 0 ? Math.max(...checkpoints.map(one => one.size)) : end(2, 'no checkpoint vouches for the events')
if (isFolder) ensure(open(readFileSync(`${path}/checkpoint.note`, 'utf8')).text === checkpoints.at(-1).text, 'checkpoint.note is another one')
let [next, subtrees, selection] = [0, []] // the roots of the perfect subtrees over the events so far, the largest first
for (const [place, line] of lines.filter(line => !/^\{"(checkpoint":"[^"]*","key":"[^"]*"|leaves":"[^"]*","to":\d+)\}$/.test(line)).entries()) {
  const { extract, event, proof, from, peaks, seq = event?.seq } = JSON.parse(line)
  if (line.startsWith('{"extract"')) { // a selection: its events have proofs to the root of this checkpoint
    const own = ensure(place === 0 || selection, 'a selection begins with its first line') && checkpoints.find(one => one.size === extract.size)
    selection = own ?? end(2, `no checkpoint is over ${extract.size} events`)
  } else if (selection) {
    const document = line.slice('{"event":'.length, line.lastIndexOf(',"proof":'))
    const isOne = line === `{"event":${document},"proof":${JSON.stringify(proof)}}` && JSON.parse(document).seq === seq && seq >= next && seq < selection.size
    ensure(isOne && rootOfProof(leafOf(document), seq, selection.size, proof).equals(selection.root), `event ${seq}`) && (next = seq + 1)
  } else if (line.startsWith('{"from"')) { // the subtrees over the events before, in an archive or where an export was continued
    ensure(place === 0 || (from === next && peaks.join() === subtrees.map(one => one.toString('base64')).join()), `the tree before ${next}`)
    ;[next, subtrees] = [from, peaks.map(base64)]
  } else {
    ensure(seq === next, `this is not event ${next}: ${line}`) && subtrees.push(leafOf(line))
    for (let rest = next; rest % 2 === 1; rest = (rest - 1) / 2) subtrees.push(nodeOf(...subtrees.splice(-2)))
    next += 1
  }
  const fits = one => one.size !== next || one.root.equals(subtrees.reduceRight((right, left) => nodeOf(left, right)))
  ensure(selection || checkpoints.every(fits), `the events before ${next} do not give the root of the checkpoint`)
}
if (!selection) ensure(next === size, `${next} events, and a checkpoint over ${size}`)
end(0, `${selection ? 'each event of the file is in the log' : 'the log'} of ${size} events that ${keys.map(one => one.name).join()} has signed`)
