// The log asks a public witness: omniwitness of transparency-dev, which `make interop` builds where there is Go.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { Server } from './server.mjs'

const WITNESS = fileURLToPath(new URL('../../target/tools/omniwitness', import.meta.url))
const NAME = 'public-witness.example.com'
const skip = existsSync(WITNESS) ? false : 'omniwitness is not built: Go is missing, or its modules cannot be had'

/** The signing key as omniwitness reads it, and the key of its cosignatures as `name+id+key`. */
function makeKeys() {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const bytes = (key, member) => Buffer.from(key.export({ format: 'jwk' })[member], 'base64url')
  const id = key => createHash('sha256').update(`${NAME}\n`).update(key).digest('hex').slice(0, 8)
  const typed = (type, key) => Buffer.concat([Buffer.from([type]), key])
  const [seed, open] = [bytes(privateKey, 'd'), bytes(publicKey, 'x')]
  return {
    signer: `PRIVATE+KEY+${NAME}+${id(typed(1, open))}+${typed(1, seed).toString('base64')}`,
    verifier: `${NAME}+${id(typed(4, open))}+${typed(4, open).toString('base64')}`,
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  return port
}

let folder
let server
let witness
before(async () => {
  if (skip) return
  const { signer, verifier } = makeKeys()
  const port = await freePort()
  folder = await mkdtemp(join(tmpdir(), 'actchain-witness-'))
  server = await Server.start({ AUDIT_WITNESSES: `${verifier} http://127.0.0.1:${port}` })
  const [key] = (await (await fetch(`${server.issuer}/audit/keys`)).text()).split('\n')
  const logs = [{ Origin: key.split('+')[0], URL: `${server.issuer}/audit`, PublicKey: key }]
  await writeFile(join(folder, 'logs.yaml'), JSON.stringify({ Logs: logs }))
  await writeFile(join(folder, 'key'), signer, { mode: 0o600 })
  const options = [
    `--listen=127.0.0.1:${port}`,
    '--metrics_listen=',
    `--additional_logs=${join(folder, 'logs.yaml')}`,
    `--private_key_path=${join(folder, 'key')}`,
    `--db_file=${join(folder, 'witness.db')}`,
  ]
  witness = spawn(WITNESS, options, { stdio: ['ignore', 'inherit', 'inherit'] })
})
after(async () => {
  witness?.kill('SIGKILL')
  await server?.stop()
  if (folder) await rm(folder, { recursive: true })
})

test('omniwitness cosigns checkpoints of the log', { skip, timeout: 300_000 }, async () => {
  const cosigned = new Set()
  // The second checkpoint comes with a consistency proof.
  while (cosigned.size < 2) {
    const response = await fetch(`${server.issuer}/audit/checkpoint`)
    const note = await response.text()
    if (response.ok && note.includes(`\n\u2014 ${NAME} `)) {
      const size = note.split('\n')[1]
      if (!cosigned.has(size)) {
        cosigned.add(size)
        await server.apply({ resources: [{ id: `https://r${size}.example.com`, scopes: ['read'] }] })
      }
    }
    await new Promise(resolve => setTimeout(resolve, 500))
  }
  const metrics = await (await fetch(`${server.issuer}/metrics`)).text()
  assert.match(metrics, /actchain_witness_requests_total\{[^}]*result="cosigned"/)
  assert.doesNotMatch(metrics, /result="contradicted"/)
})
