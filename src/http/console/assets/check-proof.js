// Checks in this browser that the document of the page is an event of the log, with WebCrypto alone: document, path, root and
// signature. The page has the bytes in `data-` attributes, and says what happened without this script.
class Failure extends Error {}

const section = document.querySelector('#proof-check')
const [verdict, results, list, kept] = ['[role=status]', '[data-results]', 'ol', 'textarea'].map(one => section.querySelector(one))
const MARKS = { ok: '✓', bad: '✗', warn: '!', dim: '–' }

const ensure = (condition, text) => { if (!condition) throw new Failure(text) }
const bytesOf = base64 => Uint8Array.from(atob(base64), character => character.charCodeAt(0))
const base64Of = bytes => btoa(String.fromCharCode(...bytes))
const hexOf = bytes => [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join('')
const utf8 = text => new TextEncoder().encode(text)
const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest('SHA-256', await new Blob(parts).arrayBuffer()))
// RFC 9162 §2.1.1
const leafOf = entry => sha256(Uint8Array.of(0), entry)
const nodeOf = (left, right) => sha256(Uint8Array.of(1), left, right)

/** The root to which an inclusion proof leads (RFC 9162 §2.1.3.2). */
async function rootOfProof(leaf, seq, size, path) {
  let [place, last, root] = [BigInt(seq), BigInt(size) - 1n, leaf]
  const isFitting = condition => ensure(condition, `The path of ${path.length} hashes does not fit event ${seq} of ${size} events.`)
  isFitting(place <= last)
  const halve = () => { [place, last] = [place / 2n, last / 2n] }
  for (const hash of path) {
    isFitting(last > 0n && hash.length === 32)
    if (place % 2n === 1n || place === last) {
      root = await nodeOf(hash, root)
      while (place > 0n && place % 2n === 0n) halve()
    } else {
      root = await nodeOf(root, hash)
    }
    halve()
  }
  isFitting(last === 0n)
  return root
}

/** The checkpoint in a signed note; its signatures are not verified here (c2sp.org/signed-note, c2sp.org/tlog-checkpoint). */
function parseCheckpoint(note) {
  const [, text, lines] = /^(.*\n)\n((?:— [^ \n]+ [^ \n]+\n)+)$/s.exec(note) ?? []
  ensure(text, 'The checkpoint is no signed note.')
  const [, size, root] = text.split('\n')
  ensure(/^[1-9]\d*$/.test(size) && bytesOf(root).length === 32, 'The checkpoint does not state a size and a root.')
  const signatures = lines.trimEnd().split('\n').map(line => line.split(' ')).map(([, name, blob]) => ({ name, blob: bytesOf(blob) }))
  return { text, size, root, signatures }
}

/** A key of a log, name+id+base64(1 ‖ Ed25519 key); the id is a digest of both (c2sp.org/signed-note). */
async function parseKey(text) {
  const [, name, id, encoded] = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})$/.exec(text) ?? []
  const bytes = bytesOf(encoded ?? '')
  const digest = await sha256(utf8(`${name}\n`), bytes)
  ensure(bytes[0] === 1 && hexOf(digest.slice(0, 4)) === id, `${text} is no key of a log.`)
  return { name, id, bytes: bytes.slice(1) }
}

/** Texts of the steps `document`, `path` and `root`. The step that fails throws. */
async function* inclusionSteps() {
  const [entry, proof] = [bytesOf(section.dataset.document), JSON.parse(section.dataset.proof)]
  const { seq } = JSON.parse(new TextDecoder().decode(entry))
  const leaf = await leafOf(entry)
  ensure(base64Of(leaf) === proof.leaf, `The document has the leaf ${base64Of(leaf)}. The log has the leaf ${proof.leaf}: the document is not that of the log.`)
  ensure(seq === proof.seq, `The document says that it is event ${seq}. The proof is of event ${proof.seq}.`)
  yield `The document of ${entry.length} bytes says that it is event ${seq}. Its leaf is ${proof.leaf}.`
  const { size, root } = parseCheckpoint(proof.checkpoint)
  const reached = base64Of(await rootOfProof(leaf, seq, size, proof.path.map(bytesOf)))
  yield `The path of ${proof.path.length} hashes leads from the leaf to a root of ${size} events.`
  ensure(reached === root, `The path leads to the root ${reached}. The checkpoint has the root ${root}: document, path or checkpoint was changed.`)
  yield `The root is that of the checkpoint: ${root}.`
}

/** Text of the step `signature`: by the keys that a person pasted, else by one of those that the server names. */
async function* signatureStep() {
  const { text, signatures } = parseCheckpoint(JSON.parse(section.dataset.proof).checkpoint)
  const own = kept.value.trim()
  const keys = await Promise.all((own || section.dataset.keys.trim()).split(/\s+/).map(parseKey))
  const known = signatures.flatMap(({ name, blob }) => keys.filter(key => key.name === name && key.id === hexOf(blob.slice(0, 4))).map(key => ({ key, blob })))
  ensure(known.length > 0, own ? 'No key that you pasted has signed the checkpoint: it is of another log, or signed by a later key.' : 'No key of this server has signed the checkpoint.')
  for (const { key, blob } of known) {
    const imported = await crypto.subtle.importKey('raw', key.bytes, 'Ed25519', false, ['verify'])
    const isValid = await crypto.subtle.verify('Ed25519', imported, blob.slice(4), utf8(text))
    ensure(isValid, `The signature of the key ${key.name}+${key.id} is not valid for the checkpoint.`)
  }
  const [{ key }] = known
  yield `The key ${key.name}+${key.id} has signed the checkpoint. ${own ? 'You pasted this key.' : 'The server names this key: paste the one that you kept.'}`
}

/** What became of each step. Steps after one that failed are not checked. */
async function run(names, texts) {
  const [done, left] = [[], [...names]]
  try {
    for await (const text of texts) done.push({ name: left.shift(), state: 'ok', text })
  } catch (error) {
    const isMissing = error.name === 'NotSupportedError'
    const text = isMissing ? 'Not checked: this browser has no Ed25519.' : error instanceof Failure ? error.message : 'The page has no valid data for this step.'
    done.push({ name: left.shift(), state: isMissing ? 'warn' : 'bad', text })
  }
  return [...done, ...left.map(name => ({ name, state: 'dim', text: 'Not checked, because a step before failed.' }))]
}

function show(element, state, text) {
  const mark = document.createElement('span')
  mark.className = 'mark'
  mark.ariaHidden = 'true'
  mark.textContent = MARKS[state]
  element.className = state
  element.replaceChildren(mark, ` ${text}`)
  return element
}

const item = ({ name, state, text }) => show(document.createElement('li'), state, `${name}: ${text}`)

let newest = 0
async function check() {
  const number = (newest += 1)
  const steps = [...(await run(['document', 'path', 'root'], inclusionSteps())), ...(await run(['signature'], signatureStep()))]
  // A key that was pasted meanwhile has its own check.
  if (number !== newest) return
  list.replaceChildren(...steps.map(item))
  results.hidden = false
  const names = state => steps.filter(step => step.state === state).map(step => step.name).join(', ')
  if (names('bad')) show(verdict, 'bad', `This browser did not verify the event. What failed: ${names('bad')}.`)
  else if (names('warn')) show(verdict, 'warn', 'This browser verified that the checkpoint contains the document, and did not check the signature. The command above checks it.')
  else show(verdict, 'ok', 'This browser verified that the document is an event of the log, in a signed checkpoint.')
}

if (crypto.subtle) {
  kept.addEventListener('input', check)
  check()
} else {
  show(verdict, 'warn', 'This browser checks nothing here: it has WebCrypto on pages over HTTPS alone. The command above checks the same files.')
}
