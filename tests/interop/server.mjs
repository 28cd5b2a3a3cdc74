// The real server in a folder of its own, with its own PostgreSQL; all of it is gone at the end.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const BIN = process.env.ACTCHAIN_BIN ?? fileURLToPath(new URL('../../target/debug/actchain', import.meta.url))
const READY = /^actchain \S+ serves (\S+) on /

// What else is set here must not reach the server, and it refuses names that it does not know, such as ours.
const CLEAN = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('ACTCHAIN_') || name === 'ACTCHAIN_POSTGRES_BIN_DIR'),
)

export class Server {
  /** Starts a server and lets it take any free port; `settings` are `ACTCHAIN_…` without the prefix. */
  static async start(settings) {
    assert(existsSync(BIN), `there is no server at ${BIN}: build it with «cargo build», or set ACTCHAIN_BIN`)
    const folder = await mkdtemp(join(tmpdir(), 'actchain-interop-'))
    // Run as root, the server gives its database to another account, which has to get through here.
    await chmod(folder, 0o711)
    const server = new Server(folder, settings)
    try {
      server.issuer = await server.#ready()
    } catch (error) {
      await server.stop().catch(() => {})
      throw error
    }
    return server
  }

  #log = ''

  constructor(folder, settings) {
    this.folder = folder
    this.environment = { ...CLEAN, ACTCHAIN_LISTEN: '127.0.0.1:0', ACTCHAIN_DATA_DIR: folder }
    for (const [name, value] of Object.entries(settings)) this.environment[`ACTCHAIN_${name}`] = value
    this.process = spawn(BIN, ['serve'], { env: this.environment, stdio: ['ignore', 'pipe', 'pipe'] })
    this.process.stderr.setEncoding('utf8').on('data', text => (this.#log += text))
    this.closed = once(this.process, 'close')
    process.on('exit', this.#abandon)
  }

  async #ready() {
    for await (const line of createInterface(this.process.stdout)) {
      const issuer = READY.exec(line)?.[1]
      if (issuer) return issuer
    }
    await this.closed
    throw new Error(`the server ended before it was ready:\n${this.#log}`)
  }

  /** Declares what should be there. */
  async apply(declaration) {
    // JSON is YAML.
    const apply = spawn(BIN, ['apply', '-f', '-'], {
      env: { ...this.environment, ACTCHAIN_ISSUER: this.issuer },
      stdio: ['pipe', 'ignore', 'pipe'],
    })
    let complaints = ''
    apply.stderr.setEncoding('utf8').on('data', text => (complaints += text))
    apply.stdin.end(JSON.stringify(declaration))
    const [code] = await once(apply, 'close')
    assert.equal(code, 0, `apply failed: ${complaints}`)
  }

  /** Stops the server as an operator would, and removes all that it kept. */
  async stop() {
    this.process.kill('SIGTERM')
    // It drains for 10 seconds at most.
    const patience = setTimeout(() => this.process.kill('SIGKILL'), 30_000)
    const [code] = await this.closed
    clearTimeout(patience)
    process.off('exit', this.#abandon)
    await rm(this.folder, { recursive: true, force: true })
    assert.equal(code, 0, `the server did not stop well:\n${this.#log}`)
  }

  // Ctrl-C ends this process without its hooks. Nothing can be awaited any more, so somebody else has to.
  #abandon = () => {
    const script = 'kill -TERM "$0"; n=0; while kill -0 "$0" && [ $((n += 1)) -lt 300 ]; do sleep 0.1; done; rm -rf "$1"'
    spawn('sh', ['-c', script, String(this.process.pid), this.folder], { detached: true, stdio: 'ignore' }).unref()
  }
}
