// A real Keycloak in a temporary folder: over https, with a certificate of its own authority, and where possible at a
// private address of this machine.

import assert from 'node:assert/strict'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { request } from 'node:https'
import { createServer } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const HOME = fileURLToPath(new URL('../../../target/tools/keycloak', import.meta.url))
const REALM = fileURLToPath(new URL('realm.json', import.meta.url))
const ADMIN = { username: 'admin', password: 'an-administrator-of-keycloak-7' }
const REDIRECT = 'https://app.example.com/callback'
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']

const runs = (program, option) => spawnSync(program, [option]).status === 0

/** The reason that Keycloak cannot run here; undefined if it can. */
export const missing = !existsSync(join(HOME, 'bin/kc.sh'))
  ? 'there is no Keycloak: make interop-keycloak says why'
  : ['java', 'openssl'].filter(program => !runs(program, program === 'java' ? '-version' : 'version')).map(name => `${name} is missing`)[0]

export class Keycloak {
  static async start() {
    const folder = await mkdtemp(join(tmpdir(), 'actchain-keycloak-'))
    const keycloak = new Keycloak(folder)
    try {
      await keycloak.#start()
    } catch (error) {
      await keycloak.stop()
      throw error
    }
    return keycloak
  }

  #log = ''

  constructor(folder) {
    this.folder = folder
    for (const signal of SIGNALS) process.on(signal, this.#abandon)
  }

  async #start() {
    const inside = Object.values(networkInterfaces()).flat().find(one => one.family === 'IPv4' && !one.internal)
    this.address = inside?.address ?? '127.0.0.1'
    const [port, http, management] = [await freePort(this.address), await freePort(this.address), await freePort('127.0.0.1')]
    this.base = `https://${this.address}:${port}`
    this.issuer = `${this.base}/realms/acme`
    this.caFile = join(this.folder, 'authority.pem')
    const [certificate, key] = [join(this.folder, 'certificate.pem'), join(this.folder, 'key.pem')]
    await certify(this.folder, this.address)
    this.authority = await readFile(this.caFile)
    const home = join(this.folder, 'keycloak')
    await cp(HOME, home, { recursive: true })
    await mkdir(join(home, 'data/import'), { recursive: true })
    await cp(REALM, join(home, 'data/import/realm.json'))
    const settings = {
      'http-host': this.address, 'https-port': port, hostname: this.base, 'http-port': http,
      'https-certificate-file': certificate, 'https-certificate-key-file': key, 'http-management-port': management,
    }
    const options = Object.entries(settings).map(([name, value]) => `--${name}=${value}`)
    this.command = [join(home, 'bin/kc.sh'), ['start-dev', '--import-realm', ...options]]
    await this.resume()
    this.metadata = (await this.call(`${this.issuer}/.well-known/openid-configuration`)).json
    assert.equal(this.metadata.issuer, this.issuer)
  }

  /** Starts the process; after a pause, with the same data at the same address. */
  async resume() {
    const env = { ...process.env, KC_BOOTSTRAP_ADMIN_USERNAME: ADMIN.username, KC_BOOTSTRAP_ADMIN_PASSWORD: ADMIN.password }
    // A process group of its own: the script starts Java as a child.
    this.process = spawn(...this.command, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    this.closed = once(this.process, 'close')
    this.process.stderr.setEncoding('utf8').on('data', text => (this.#log += text))
    const ready = new Promise(resolve => {
      createInterface(this.process.stdout).on('line', line => {
        this.#log += `${line}\n`
        if (line.includes('Listening on:')) resolve(true)
      })
    })
    const started = await Promise.race([ready, this.closed.then(() => false)])
    assert(started, `Keycloak ended before it was ready:\n${this.#log}`)
  }

  /** Ends the process. */
  async pause() {
    if (!this.process || this.process.exitCode !== null || this.process.signalCode !== null) return
    // The group: Java is a child of the script.
    process.kill(-this.process.pid, 'SIGTERM')
    await this.closed
  }

  /** A request, with a form where there is one. Redirects are not followed. */
  call(url, { form, json, method = form || json ? 'POST' : 'GET', headers = {} } = {}) {
    const body = json ? JSON.stringify(json) : form && new URLSearchParams(form).toString()
    const type = json ? 'application/json' : 'application/x-www-form-urlencoded'
    return new Promise((resolve, reject) => {
      const sent = request(url, { method, ca: this.authority, headers: { ...(body && { 'content-type': type }), ...headers } })
      sent.on('error', reject).on('response', async response => {
        const text = Buffer.concat(await response.toArray()).toString()
        const isJson = response.headers['content-type']?.startsWith('application/json')
        resolve({ status: response.statusCode, headers: response.headers, text, json: isJson ? JSON.parse(text) : undefined })
      })
      sent.end(body)
    })
  }

  /** Signs a user in at a client, as a browser and the client would (authorization code with PKCE). */
  async signIn(client_id, { username, password }) {
    const verifier = randomBytes(32).toString('base64url')
    const code_challenge = createHash('sha256').update(verifier).digest('base64url')
    const params = new URLSearchParams({
      response_type: 'code', client_id, redirect_uri: REDIRECT, scope: 'openid', state: 'x', code_challenge, code_challenge_method: 'S256',
    })
    const page = await this.call(`${this.metadata.authorization_endpoint}?${params}`)
    assert.equal(page.status, 200, page.text)
    const action = /<form[^>]* action="([^"]+)"/.exec(page.text)?.[1].replaceAll('&amp;', '&')
    const cookie = page.headers['set-cookie'].map(one => one.split(';')[0]).join('; ')
    const posted = await this.call(action, { form: { username, password }, headers: { cookie } })
    assert.equal(posted.status, 302, posted.text)
    const code = new URL(posted.headers.location).searchParams.get('code')
    const form = { grant_type: 'authorization_code', client_id, code, redirect_uri: REDIRECT, code_verifier: verifier }
    const answer = await this.call(this.metadata.token_endpoint, { form })
    assert.equal(answer.status, 200, answer.text)
    return answer.json
  }

  async signOut(client_id, { refresh_token }) {
    const answer = await this.call(this.metadata.end_session_endpoint, { form: { client_id, refresh_token } })
    assert.equal(answer.status, 204, answer.text)
  }

  async #administration() {
    const form = { grant_type: 'password', client_id: 'admin-cli', ...ADMIN }
    const { json } = await this.call(`${this.base}/realms/master/protocol/openid-connect/token`, { form })
    return { admin: `${this.base}/admin/realms/acme`, headers: { authorization: `Bearer ${json.access_token}` } }
  }

  /** The clients of the realm with this name. */
  async clientsNamed(name) {
    const { admin, headers } = await this.#administration()
    const { json } = await this.call(`${admin}/clients?max=100`, { headers })
    return json.filter(one => one.name === name)
  }

  /** Gives the realm another signing key, which signs from now on. */
  async rotateKey() {
    const { admin, headers } = await this.#administration()
    const realm = await this.call(admin, { headers })
    const component = {
      name: 'next', providerId: 'rsa-generated', providerType: 'org.keycloak.keys.KeyProvider', parentId: realm.json.id,
      config: { priority: ['200'], enabled: ['true'], active: ['true'], algorithm: ['RS256'] },
    }
    const made = await this.call(`${admin}/components`, { json: component, headers })
    assert.equal(made.status, 201, made.text)
  }

  async stop() {
    await this.pause()
    await rm(this.folder, { recursive: true, force: true, maxRetries: 10 })
    for (const signal of SIGNALS) process.off(signal, this.#abandon)
  }

  #abandon = () => {
    this.stop()
      .catch(() => {})
      .finally(() => process.exit(1))
  }
}

/** A free port, which another program could still take. */
async function freePort(host) {
  const server = createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/** An authority, and a certificate of it for an address. */
async function certify(folder, address) {
  const openssl = (...args) => promisify(execFile)('openssl', args, { cwd: folder })
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  await openssl('req', '-x509', ...ec, '-keyout', 'authority.key', '-out', 'authority.pem', '-subj', '/CN=authority')
  await openssl(
    'req', '-x509', ...ec, '-keyout', 'key.pem', '-out', 'certificate.pem', '-subj', '/CN=keycloak', '-CA', 'authority.pem',
    '-CAkey', 'authority.key', '-addext', `subjectAltName=IP:${address}`, '-addext', 'basicConstraints=critical,CA:FALSE',
  )
}
