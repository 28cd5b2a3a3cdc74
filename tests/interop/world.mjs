// Alice delegates reading and sending mail to `user-proxy`, which calls `email-svc`, which calls `followup-svc`. A
// fourth agent, `batch-job`, is in no chain.

import * as jose from 'jose'
import * as oauth from 'oauth4webapi'

import { Server } from './server.mjs'

export const IDP = 'https://idp.example.com'
export const MAIL = 'https://mail.example.com'
export const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
export const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
export const JWT = 'urn:ietf:params:oauth:token-type:jwt'
// Every character that a form encodes, so that a missing decoding step is detected.
export const SECRET = 'a secret: 100% + "quoted" & é/=?~'

/** The options of every request: the library insists on https otherwise. */
export const HTTP = { [oauth.allowInsecureRequests]: true }

/** An agent: its credentials and its DPoP key, each a key of its own. */
export class Agent {
  constructor(id, dpopKey, authentication) {
    this.client = { client_id: id }
    this.dpopKey = dpopKey
    this.authentication = authentication
    /** Proves the key; remembers the server's nonce, as the library does. */
    this.dpop = this.newHandle()
  }

  get id() {
    return this.client.client_id
  }

  /** A handle on the same key that has not heard of any nonce. */
  newHandle(options) {
    return oauth.DPoP(this.client, this.dpopKey, options)
  }

  async jkt() {
    return jose.calculateJwkThumbprint(await jose.exportJWK(this.dpopKey.publicKey))
  }
}

/** A key pair with its public JWK, named by its thumbprint. */
export async function namedKey(alg, members) {
  const { privateKey, publicKey } = await jose.generateKeyPair(alg, { extractable: true })
  const jwk = await jose.exportJWK(publicKey)
  const kid = await jose.calculateJwkThumbprint(jwk)
  return { privateKey, kid, jwk: { ...jwk, kid, ...members } }
}

export class World {
  /** `alg` is for the issuer's, the clients' and the DPoP keys, `rsa` for the assertions of `batch-job`. */
  static async make({ settings, alg, rsa }) {
    const world = new World()
    world.alg = alg
    world.idp = await namedKey(alg)
    const proxyKey = await namedKey(alg)
    const batchKey = await namedKey(rsa, { alg: rsa, use: 'sig' })
    const agent = async (id, authentication) => new Agent(id, await oauth.generateKeyPair(alg), authentication)
    world.userProxy = await agent('user-proxy', oauth.PrivateKeyJwt({ key: proxyKey.privateKey, kid: proxyKey.kid }))
    world.emailSvc = await agent('email-svc', oauth.ClientSecretBasic(SECRET))
    world.followupSvc = await agent('followup-svc', oauth.None())
    world.mailServer = await agent('mail-server', oauth.ClientSecretBasic(SECRET))
    world.batchJob = await agent('batch-job', oauth.PrivateKeyJwt({ key: batchKey.privateKey, kid: batchKey.kid }))

    const keeperKey = await oauth.generateKeyPair(alg, { extractable: true })
    world.keeper = new Agent('keeper', keeperKey, oauth.ClientSecretBasic(SECRET))

    world.server = await Server.start(settings)
    try {
      await world.server.apply(await world.#declaration(proxyKey.jwk, batchKey.jwk))
      world.as = await world.discover('oauth2')
    } catch (error) {
      await world.stop()
      throw error
    }
    return world
  }

  async #declaration(proxyJwk, batchJwk) {
    const grant_types = ['client_credentials', 'token-exchange']
    const mail = { scopes: ['mail.read', 'mail.send'], audiences: [MAIL] }
    return {
      issuers: [{ iss: IDP, jwks: { keys: [this.idp.jwk] }, audiences: ['actchain'] }],
      resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'], token_ttl: 600 }],
      clients: [
        { id: 'user-proxy', kind: 'agent', auth: 'private_key_jwt', jwks: { keys: [proxyJwk] }, ...mail, grant_types },
        { id: 'email-svc', kind: 'agent', auth: 'client_secret_basic', secret: SECRET, ...mail, grant_types },
        { id: 'followup-svc', kind: 'agent', auth: 'none', dpop_keys: [await this.followupSvc.jkt()], ...mail, grant_types },
        { id: 'batch-job', kind: 'agent', auth: 'private_key_jwt', jwks: { keys: [batchJwk] }, ...mail, grant_types },
        {
          id: 'keeper', kind: 'agent', auth: 'client_secret_basic', secret: SECRET, grant_types,
          audiences: [this.server.issuer], authorization_details_types: ['vault_connection'],
        },
        { id: 'mail-server', kind: 'resource_server', auth: 'client_secret_basic', secret: SECRET, audiences: [MAIL] },
      ],
      delegations: [
        { id: 'D', delegator: { iss: IDP, sub: 'alice' }, delegate: 'user-proxy', expires_in: 3600, max_depth: 3 },
        { id: 'E', parent: 'D', delegate: 'email-svc', expires_in: 600 },
        { id: 'F', parent: 'E', delegate: 'followup-svc', scopes: ['mail.read'], expires_in: 300 },
        { id: 'K', delegator: { iss: IDP, sub: 'carol' }, delegate: 'keeper', expires_in: 600 },
      ],
      providers: [{ id: 'keys', kind: 'api_key', header: 'x-api-key' }],
    }
  }

  /** What the server says about itself, at the place of OAuth (`oauth2`) or of OpenID Connect (`oidc`). */
  async discover(algorithm) {
    const issuer = new URL(this.server.issuer)
    const response = await oauth.discoveryRequest(issuer, { algorithm, ...HTTP })
    return oauth.processDiscoveryResponse(issuer, response)
  }

  /** A token for the agent itself. */
  async ownToken(agent, params, options) {
    const { as } = this
    return withNonce(async () => {
      const settings = { DPoP: agent.dpop, ...HTTP, ...options }
      const response = await oauth.clientCredentialsGrantRequest(as, agent.client, agent.authentication, params, settings)
      return oauth.processClientCredentialsResponse(as, agent.client, response)
    })
  }

  /** A token that the agent gets for another one. */
  async exchange(agent, params, options) {
    return withNonce(() => this.exchangeOnce(agent, params, options))
  }

  /** The same, without a second try for the sake of a nonce. */
  async exchangeOnce(agent, params, options) {
    const { as } = this
    const settings = { DPoP: agent.dpop, ...HTTP, ...options }
    const request = { subject_token_type: ACCESS_TOKEN, ...params }
    const { client, authentication } = agent
    const response = await oauth.genericTokenEndpointRequest(as, client, authentication, EXCHANGE, request, settings)
    const { recognizedTokenTypes } = options ?? {}
    return oauth.processGenericTokenEndpointResponse(as, client, response, { recognizedTokenTypes })
  }

  /** The introspection response to the mail server, as JSON or as a signed JWT whose signature is checked. */
  async introspect(token, as = 'json') {
    const { client, authentication } = this.mailServer
    const options = { requestJwtResponse: as === 'jwt', ...HTTP }
    const response = await oauth.introspectionRequest(this.as, client, authentication, token, options)
    const expected = as === 'jwt' ? { ...client, introspection_signed_response_alg: this.alg } : client
    const answer = await oauth.processIntrospectionResponse(this.as, expected, response)
    if (as === 'jwt') await oauth.validateApplicationLevelSignature(this.as, response, HTTP)
    return answer
  }

  /** Revokes a token as the agent that it was issued to. */
  async revoke(agent, token) {
    const response = await oauth.revocationRequest(this.as, agent.client, agent.authentication, token, HTTP)
    return oauth.processRevocationResponse(response)
  }

  /** Asks at the management API as an agent, under a token of its own for the server itself. */
  async atManagementApi(agent, method, path, body) {
    const { access_token } = await this.ownToken(agent, { audience: this.as.issuer })
    const url = new URL(`${this.as.issuer}${path}`)
    const headers = new Headers(body ? { 'content-type': 'application/json' } : {})
    const text = body ? JSON.stringify(body) : undefined
    return withNonce(() =>
      oauth.protectedResourceRequest(access_token, method, url, headers, text, { DPoP: agent.dpop, ...HTTP }),
    )
  }

  /** Alice's token, as her issuer would make it. */
  async userToken(sub = 'alice') {
    return new jose.SignJWT({ sid: 'session-1' })
      .setProtectedHeader({ alg: this.alg, typ: 'JWT', kid: this.idp.kid })
      .setIssuer(IDP)
      .setSubject(sub)
      .setAudience('actchain')
      .setIssuedAt()
      .setExpirationTime('1h')
      .setJti(crypto.randomUUID())
      .sign(this.idp.privateKey)
  }

  /** The request by which `user-proxy` begins a chain. */
  async firstHop() {
    return { subject_token: await this.userToken(), subject_token_type: JWT, audience: MAIL, scope: 'mail.read mail.send' }
  }

  /** The answers to the three exchanges of a chain, in order. */
  async threeHops() {
    const first = await this.exchange(this.userProxy, await this.firstHop())
    const second = await this.exchange(this.emailSvc, { subject_token: first.access_token, resource: MAIL })
    const third = await this.exchange(this.followupSvc, { subject_token: second.access_token, scope: 'mail.read' })
    return [first, second, third]
  }

  async stop() {
    await this.server.stop()
  }
}

/** The retry that the library leaves to its caller: its handle has kept the nonce of the refusal. */
async function withNonce(send) {
  try {
    return await send()
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error
    return send()
  }
}
