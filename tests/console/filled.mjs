// A server with some of everything that the console shows, and with the texts that a test chooses.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { command } from './browser.mjs'
import { nameOf, startProvider } from './provider.mjs'

export const IDP = 'https://idp.example.com'
export const MAIL = 'https://mail.example.com'
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'
const CONSOLE = { client_id: 'actchain-console', client_secret: 'console-secret-0123456789' }
const VAULT = { client_id: 'actchain-vault', client_secret: 'vault-secret-0123456789' }
const ACCOUNTS = 'openid offline_access mail.read mail.send'
const AGENTS = ['assistant', 'summarizer', 'archiver', 'travel-bot']

/** The texts that people and agents can choose. `details` is a member of `authorization_details`. */
const PLAIN = {
  name: 'An agent',
  provider: 'Accounts & Mail',
  reason: 'to book the trip and to tell the team',
  description: 'planner',
  user: 'carol',
  label: 'ada@example.com',
  group: 'ops',
  connection: 'home',
  scope: 'mail.read',
  details: 'inbox',
  task: 'inbox-2026-47',
  session: 'invoice-2031',
  text: 'The newest letter asks for it.',
}

/** A pair of keys with the public one as a JWK. */
async function newKey() {
  const pair = await jose.generateKeyPair('ES256', { extractable: true })
  return { ...pair, jwk: await jose.exportJWK(pair.publicKey) }
}

export class Filled {
  /** Starts a server and a provider, and fills the server. */
  static async start(texts = {}) {
    const filled = new Filled({ ...PLAIN, ...texts })
    try {
      await filled.#start()
    } catch (error) {
      await filled.stop()
      throw error
    }
    return filled
  }

  constructor(texts) {
    this.texts = texts
    /** The DPoP keys of the agents. */
    this.keys = {}
  }

  async stop() {
    this.idp?.stop()
    await this.server?.stop()
  }

  async #start() {
    this.users = await newKey()
    for (const id of AGENTS) this.keys[id] = await newKey()
    // What waits for a person outlives a crawl of all pages on a busy machine.
    this.server = await Server.start({ DELEGATIONS_CEREMONY_TTL: '3600' })
    this.idp = await startProvider(`${ACCOUNTS} groups email`, issuer => this.#provider(issuer))
    await this.server.apply(this.#manifest())
    // The server learns within seconds of what a command has declared.
    while (!(await this.#knows('mail.read'))) continue
    await this.#chain()
    await this.#grants()
    await this.#requests()
    await this.#ephemeral()
    this.#connections()
    this.use = (await this.ask('alice', '/delegate/confirmed/ceremonies')).items[0].id
    this.event = command(this.server, 'session', 'trace', this.texts.session).items.at(-1).seq
    await this.server.run('audit', 'checkpoint')
  }

  async #knows(scope) {
    const metadata = await fetch(`${this.server.issuer}/.well-known/oauth-authorization-server`)
    return (await metadata.json()).scopes_supported?.includes(scope)
  }

  #provider(issuer) {
    // Ada is an administrator, Max is an auditor, and others are users.
    const groups = { ada: this.texts.group, max: 'audit' }
    const client = { grant_types: ['authorization_code', 'refresh_token'], id_token_signed_response_alg: 'ES256' }
    return {
      clients: [
        { ...CONSOLE, ...client, require_auth_time: true, redirect_uris: [`${this.server.issuer}/console/callback/${nameOf(issuer)}`] },
        { ...VAULT, ...client, redirect_uris: [`${this.server.issuer}/vault/callback/accounts`] },
      ],
      scopes: ['openid', 'offline_access', 'mail.read', 'mail.send', 'groups', 'email'],
      claims: { openid: ['sub'], groups: ['groups'], email: ['email'] },
      conformIdTokenClaims: false,
      features: { revocation: { enabled: true } },
      findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: [groups[id]], email: this.texts.label }) }),
    }
  }

  #manifest() {
    const { texts, users, idp } = this
    const scopes = [...new Set(['mail.read', 'mail.send', texts.scope])]
    const alice = { iss: IDP, sub: 'alice' }
    return {
      issuers: [
        { iss: IDP, jwks: { keys: [{ ...users.jwk, kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'] },
        {
          iss: idp.issuer,
          discover: true,
          alias: 'corp',
          audiences: ['actchain'],
          sign_in: {
            ...CONSOLE,
            scopes: ['openid', 'groups', 'email'],
            label: 'email',
            roles: [{ role: 'admin', claim: 'groups', value: texts.group }, { role: 'auditor', claim: 'groups', value: 'audit' }],
          },
        },
      ],
      resources: [{ id: MAIL, scopes, authorization_details_types: ['mailbox'] }],
      providers: [
        {
          id: 'accounts',
          name: texts.provider,
          ...VAULT,
          authorization_endpoint: `${idp.issuer}/auth`,
          token_endpoint: `${idp.issuer}/token`,
          revocation_endpoint: `${idp.issuer}/token/revocation`,
          scopes: ['mail.read', 'mail.send'],
          always_scopes: ['openid', 'offline_access'],
          authorization_params: { prompt: 'login consent' },
        },
        { id: 'weather', kind: 'api_key', name: texts.provider, header: 'x-api-key', hosts: ['https://weather.example.com'] },
        { id: 'storage', kind: 'oauth2', ...VAULT, token_endpoint: `${idp.issuer}/token` },
      ],
      clients: [
        ...AGENTS.map(id => ({
          id,
          kind: 'agent',
          name: texts.name,
          auth: 'client_secret_basic',
          secret: `${id}-secret-0123456789`,
          scopes,
          audiences: [MAIL],
          authorization_details_types: ['mailbox'],
          grant_types: ['client_credentials', 'token-exchange'],
        })),
        // More than a page of agents.
        ...Array.from({ length: 15 }, (_, n) => ({ id: `worker-${n}`, kind: 'agent', auth: 'none', dpop_keys: [jose.base64url.encode(`worker-${n}`.padEnd(32))] })),
      ],
      delegations: [
        { id: 'of-alice', delegator: alice, delegate: 'assistant', scopes: ['mail.read', 'mail.send'], max_uses: 50, max_depth: 3, expires_in: 3600, reason: texts.reason },
        { id: 'summaries', parent: 'of-alice', delegate: 'summarizer', scopes: ['mail.read'], max_uses: 20, expires_in: 1800 },
        { id: 'archive', parent: 'summaries', delegate: 'archiver', scopes: ['mail.read'], expires_in: 900 },
        { id: 'confirmed', delegator: alice, delegate: 'assistant', scopes: ['mail.send'], ceremony_required_for: ['mail.send'], expires_in: 3600 },
        // More than a page of delegations.
        ...Array.from({ length: 10 }, (_, n) => ({ id: `old-${n}`, delegator: { iss: IDP, sub: `user-${n}` }, delegate: 'summarizer', scopes: [texts.scope], expires_in: 3600 })),
      ],
    }
  }

  /** A DPoP proof (RFC 9449 §4.2). */
  async #proof({ privateKey, jwk }, method, url, token) {
    const claims = { htm: method, htu: url, jti: randomUUID(), iat: Math.floor(Date.now() / 1000) }
    if (token) claims.ath = jose.base64url.encode(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(token))))
    return new jose.SignJWT(claims).setProtectedHeader({ typ: 'dpop+jwt', alg: 'ES256', jwk }).sign(privateKey)
  }

  /** A token of a user of `IDP`. */
  async user(sub) {
    const claims = new jose.SignJWT({ sub, sid: this.texts.session }).setProtectedHeader({ alg: 'ES256', kid: 'idp' }).setIssuer(IDP).setAudience('actchain')
    return claims.setIssuedAt().setExpirationTime('1h').sign(this.users.privateKey)
  }

  /** The answer to a token request of an agent. */
  async token(agent, params, status = 200) {
    const url = `${this.server.issuer}/oauth/token`
    const headers = { dpop: await this.#proof(this.keys[agent], 'POST', url) }
    // An agent of one task has its key alone.
    if (AGENTS.includes(agent)) headers.authorization = `Basic ${btoa(`${agent}:${agent}-secret-0123456789`)}`
    const own = AGENTS.includes(agent) ? {} : { client_id: agent }
    const answer = await fetch(url, { method: 'POST', headers, body: new URLSearchParams({ ...own, ...params }) })
    const body = await answer.json()
    assert.equal(answer.status, status, JSON.stringify(body))
    return body
  }

  exchange(agent, subject_token, type, more = {}, status = 200) {
    return this.token(agent, { grant_type: EXCHANGE, subject_token, subject_token_type: type, audience: MAIL, ...more }, status)
  }

  /** The answer of the management API: to a POST of the body, or to a GET. */
  async #send(path, headers, body) {
    const url = `${this.server.issuer}${path}`
    const options = body ? { method: 'POST', body: JSON.stringify(body) } : {}
    const answer = await fetch(url, { ...options, headers: { ...(await headers(url)), 'content-type': 'application/json' } })
    const text = await answer.text()
    assert(answer.ok, `${path}: ${answer.status} ${text}`)
    return JSON.parse(text)
  }

  /** The answer to an agent, which posts the body. */
  async post(agent, path, body) {
    const { access_token } = await this.token(agent, { grant_type: 'client_credentials', audience: this.server.issuer })
    const headers = async url => ({ authorization: `DPoP ${access_token}`, dpop: await this.#proof(this.keys[agent], 'POST', url, access_token) })
    return this.#send(path, headers, body)
  }

  /** The answer to a user of `IDP`. */
  async ask(sub, path, body) {
    const token = await this.user(sub)
    return this.#send(path, () => ({ authorization: `Bearer ${token}` }), body)
  }

  /** Alice's agent passes its token on twice; what it does is reported, and two exchanges are not granted. */
  async #chain() {
    const { texts } = this
    const alice = await this.user('alice')
    this.first = await this.exchange('assistant', alice, JWT, { delegation_id: 'of-alice' })
    const second = await this.exchange('summarizer', this.first.access_token, ACCESS_TOKEN)
    this.chain = await this.exchange('archiver', second.access_token, ACCESS_TOKEN)
    this.txn = jose.decodeJwt(this.chain.access_token).txn
    await this.exchange('archiver', alice, JWT, { scope: 'mail.send' }, 400)
    await this.exchange('assistant', alice, JWT, { scope: 'mail.send', delegation_id: 'confirmed' }, 400)
    const said = { input: texts.text, output: texts.text, reasoning: texts.text, took_ms: 12 }
    await this.post('assistant', '/delegate/of-alice/steps', { session_id: texts.session, steps: [{ tool: 'search', outcome: 'succeeded', plan_step: 1, plan_total: 2, ...said }] })
    await this.post('assistant', '/delegate/of-alice/steps', { session_id: texts.session, ask: true, steps: [{ tool: 'bash', outcome: 'proposed', ...said, input: `nsenter -t 1 -m sh # ${texts.text}` }] })
  }

  /** Asks a user of the provider, or of another issuer, for a delegation to an agent. */
  async request(agent = 'travel-bot', sub = 'alice', iss = this.idp.issuer, more = {}) {
    const { reason, description } = this.texts
    const asked = { delegator: { iss, sub }, scopes: ['mail.read', 'mail.send'], audiences: [MAIL], expires_in: 28_800, reason, agent: { type: description, model: description } }
    return (await this.post(agent, '/delegate', { ...asked, ...more })).id
  }

  /** Two standing grants of a user; the agent of the second one has come with another key. */
  async #grants() {
    const { user, scope, details } = this.texts
    const grant = async agent =>
      this.ask(user, '/api/v1/standing-grants', {
        client_id: agent,
        keys: [await jose.calculateJwkThumbprint(this.keys[agent].jwk)],
        scopes: [scope],
        audiences: [MAIL],
        authorization_details: [{ type: 'mailbox', identifier: details }],
      })
    this.grant = (await grant('assistant')).id
    this.suspended = (await grant('archiver')).id
    const own = this.keys.archiver
    this.keys.archiver = await newKey()
    await this.token('archiver', { grant_type: 'client_credentials', audience: MAIL })
    this.keys.archiver = own
  }

  async #requests() {
    const { texts, server } = this
    const authorization_details = [{ type: 'mailbox', identifier: texts.details }]
    this.waiting = await this.request('travel-bot', 'alice', this.idp.issuer, { authorization_details })
    await this.request('assistant', texts.user, IDP, { scopes: [texts.scope] })
    const [denied, approved] = [await this.request(), await this.request()]
    this.revoked = await this.request()
    command(server, 'delegation', 'deny', denied, '--reason', texts.reason)
    command(server, 'delegation', 'approve', approved, '--scope', 'mail.read', '--expires-in', '1h')
    command(server, 'delegation', 'approve', this.revoked)
    command(server, 'delegation', 'revoke', this.revoked, '--reason', texts.reason)
  }

  /** An agent of one task, and a second one whose new key waits for a decision. */
  async #ephemeral() {
    const { texts } = this
    for (const rotates of [false, true]) {
      const key = await newKey()
      const body = { ephemeral: { jwk: key.jwk, task_id: texts.task }, scopes: ['mail.read'], audiences: [MAIL], expires_in: 900 }
      const made = await this.ask('alice', '/delegate', body)
      this.keys[made.delegate] = key
      this.ephemeral ??= made.delegate
      if (rotates) await this.post(made.delegate, `/delegate/${made.id}/rotate-key`, { jwk: (await newKey()).jwk })
    }
  }

  #connections() {
    const { texts, server } = this
    const file = `${server.folder}/credential.json`
    const store = (provider, credential) => {
      writeFileSync(file, JSON.stringify(credential))
      return command(server, 'connection', 'import', '--provider', provider, '--owner-iss', IDP, '--owner-sub', texts.user, '--name', texts.connection, '--file', file).id
    }
    this.connection = store('storage', { access_token: 'token-of-storage', expires_in: 3600, scope: texts.scope })
    command(server, 'connection', 'disconnect', store('weather', { key: 'key-of-the-weather' }))
  }

  /** Pages of an administrator: what they show, and their paths below the console. */
  get pages() {
    const segment = encodeURIComponent
    const session = `/sessions/${segment(this.texts.session)}`
    const [mail, idp] = [segment(MAIL), segment(IDP)]
    const paths = {
      overview: '',
      waiting: '/approvals?tab=all',
      decided: '/approvals?tab=decided',
      request: `/approvals/${this.waiting}`,
      use: `/approvals/confirmed/uses/${this.use}`,
      delegations: '/delegations',
      tree: '/delegations?view=tree',
      delegation: '/delegations/of-alice',
      revoked: `/delegations/${this.revoked}`,
      cut: '/delegations/of-alice/cut',
      sessions: '/sessions',
      session,
      'texts of a session': `${session}/erase-texts`,
      events: '/events',
      event: `/events/${this.event}`,
      'content of an event': `/events/${this.event}?tab=content`,
      'proof of an event': `/events/${this.event}?tab=forensics`,
      chains: '/chains?window=all',
      chain: `/chains/${this.txn}`,
      'chain beside the list': `/chains/${this.txn}?window=all`,
      'keys of a chain': `/chains/${this.txn}?tab=keys&window=all`,
      'claims of a chain': `/chains/${this.txn}?tab=claims`,
      'events of a chain': `/chains/${this.txn}?tab=events`,
      grants: '/standing-grants',
      grant: `/standing-grants/${this.grant}`,
      'suspended grant': `/standing-grants/${this.suspended}`,
      'revoke a grant': `/standing-grants/${this.grant}/revoke`,
      'new grant': '/standing-grants/new',
      'preview of a grant': `/standing-grants/new?preview=yes&client_id=worker-0&scopes=${segment(this.texts.scope)}&audiences=${mail}`,
      log: '/log',
      sinks: '/sinks',
      agents: '/agents',
      'filtered agents': '/agents?q=a&state=enabled',
      agent: '/agents/assistant',
      'delegations of an agent': '/agents/summarizer?tab=delegations',
      'activity of an agent': '/agents/assistant?tab=activity',
      'keys of an agent': '/agents/worker-0?tab=keys',
      'agent of a task': `/agents/${this.ephemeral}`,
      'end of a task': `/agents/${this.ephemeral}/end-task`,
      disable: '/agents/summarizer/disable',
      'revoke all': '/agents/summarizer/revoke-all',
      'set up': '/agents/new',
      check: '/check?client=archiver',
      'granted check': `/check?client=assistant&subject=alice&subject_iss=${idp}&audience=${mail}&scope=mail.read`,
      'refused check': `/check?client=archiver&subject=alice&subject_iss=${idp}`,
      connections: '/connections',
      connection: `/connections/${this.connection}`,
      disconnect: `/connections/${this.connection}/disconnect`,
      connect: '/connections/new',
      'new key': '/connections/new?provider=weather',
      'new account': '/connections/new?provider=accounts',
      settings: '/settings',
      me: '/me',
      help: '/help',
    }
    for (const kind of ['clients', 'keys', 'issuers', 'resources', 'providers']) paths[kind] = `/registry/${kind}`
    const entries = { clients: 'assistant', issuers: idp, resources: mail, providers: 'accounts' }
    for (const [kind, id] of Object.entries(entries)) paths[`one of ${kind}`] = `/registry/${kind}/${id}`
    return paths
  }
}
