// The real server in a temporary folder, with its own PostgreSQL; both are removed at the end.

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
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']
const READY = /^actchain \S+ serves (\S+) on /

// Other ACTCHAIN_ variables must not reach the server, which refuses unknown names, such as ACTCHAIN_BIN.
const CLEAN = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('ACTCHAIN_') || name === 'ACTCHAIN_POSTGRES_BIN_DIR'),
)

export class Server {
  /** Starts a server and lets it take any free port; `settings` are `ACTCHAIN_…` without the prefix. */
  static async start(settings) {
    assert(existsSync(BIN), `there is no server at ${BIN}: build it with «cargo build», or set ACTCHAIN_BIN`)
    const folder = await mkdtemp(join(tmpdir(), 'actchain-interop-'))
    // Under root, the server runs its database as another account, which must be able to traverse the folder.
    await chmod(folder, 0o711)
    const server = new Server(folder, settings)
    try {
      server.issuer = await server.ready
    } catch (error) {
      await server.stop().catch(() => {})
      throw error
    }
    return server
  }

  #log = ''
  #applied
  #stopping

  constructor(folder, settings) {
    this.folder = folder
    this.program = BIN
    // Test machines can be busy. A request that waits without success takes longer and still fails.
    this.environment = { ...CLEAN, ACTCHAIN_LISTEN: '127.0.0.1:0', ACTCHAIN_DATA_DIR: folder, ACTCHAIN_LEDGER_TIMEOUT: '120s' }
    for (const [name, value] of Object.entries(settings)) this.environment[`ACTCHAIN_${name}`] = value
    this.#spawn()
    for (const signal of SIGNALS) process.on(signal, this.#abandon)
  }

  #spawn() {
    // Detached, so that Ctrl-C reaches only this process, which then stops the server.
    const options = { env: this.environment, stdio: ['ignore', 'pipe', 'pipe'], detached: true }
    this.process = spawn(BIN, ['serve'], options)
    this.process.stderr.setEncoding('utf8').on('data', text => (this.#log += text))
    this.closed = once(this.process, 'close')
    this.ready = this.#ready()
  }

  /** Ends the server without a warning. Its database goes on. */
  async kill() {
    this.process.kill('SIGKILL')
    await this.closed
  }

  /** Starts the server again after `kill`, with the same address and database. */
  async startAgain() {
    this.environment.ACTCHAIN_LISTEN = new URL(this.issuer).host
    this.#spawn()
    assert.equal(await this.ready, this.issuer)
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
    assert(!this.#stopping, 'the server is being stopped')
    // JSON is valid YAML.
    const apply = spawn(BIN, ['apply', '-f', '-'], {
      env: { ...this.environment, ACTCHAIN_ISSUER: this.issuer },
      stdio: ['pipe', 'ignore', 'pipe'],
    })
    let complaints = ''
    apply.stderr.setEncoding('utf8').on('data', text => (complaints += text))
    apply.stdin.end(JSON.stringify(declaration))
    this.#applied = once(apply, 'close')
    const [code] = await this.#applied
    assert.equal(code, 0, `apply failed: ${complaints}`)
  }

  /** Runs another command beside the server, and returns what it prints. */
  async run(...args) {
    const command = spawn(BIN, args, {
      env: { ...this.environment, ACTCHAIN_ISSUER: this.issuer },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let [said, complaints] = ['', '']
    command.stdout.setEncoding('utf8').on('data', text => (said += text))
    command.stderr.setEncoding('utf8').on('data', text => (complaints += text))
    const [code] = await once(command, 'close')
    assert.equal(code, 0, `${args.join(' ')} failed: ${said}${complaints}`)
    return said
  }

  /** Stops the server as an operator would, and removes all that it kept. */
  stop() {
    return (this.#stopping ??= this.#stop())
  }

  async #stop() {
    // The server starts within seconds and drains for at most ten seconds.
    const patience = setTimeout(() => this.process.kill('SIGKILL'), 60_000)
    // Wait first: a server that is stopped during its start can leave a database behind, and so can an `apply` without
    // its folder.
    await Promise.allSettled([this.ready, this.#applied])
    this.process.kill('SIGTERM')
    const [code] = await this.closed
    clearTimeout(patience)
    await rm(this.folder, { recursive: true, force: true, maxRetries: 10 })
    for (const signal of SIGNALS) process.off(signal, this.#abandon)
    assert.equal(code, 0, `the server did not stop well:\n${this.#log}`)
  }

  // A signal, such as that of Ctrl-C, would end this process without its hooks.
  #abandon = () => {
    // The reader of this output may have ended; a failed write must not end this process either.
    process.stdout.on('error', () => {})
    this.stop()
      .catch(() => {})
      .finally(() => process.exit(1))
  }
}
