// oidc-provider as the authorization server of a third party, with the grant of RFC 8693 for tokens of a trusted server.

import { createServer } from 'node:http'
import { once } from 'node:events'

import * as jose from 'jose'
import { Provider, errors } from 'oidc-provider'

import { ACCESS_TOKEN, EXCHANGE, JWT } from './world.mjs'

export const SECRET = 'a secret of the gateway: 100% + "quoted" & e/=?~'
const PARAMS = ['subject_token', 'subject_token_type', 'requested_token_type', 'scope', 'audience']

export class ThirdParty {
  static async start() {
    const party = new ThirdParty()
    party.http = createServer().listen(0, '127.0.0.1')
    await once(party.http, 'listening')
    party.issuer = `http://127.0.0.1:${party.http.address().port}`
    party.#serve()
    return party
  }

  /** The subject tokens that were presented, the latest last. */
  presented = []
  /** The access tokens of the answers, the latest last. */
  issued = []
  /** Scopes that are issued although they were not requested. */
  tooMany = []

  /** From now on, tokens of this issuer are exchanged. */
  trust(issuer, jwksUri) {
    this.trusted = issuer
    this.keys = jose.createRemoteJWKSet(new URL(jwksUri))
  }

  #serve() {
    const client = (client_id, grant_types) => ({
      client_id, grant_types, client_secret: SECRET, redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_basic',
    })
    const provider = new Provider(this.issuer, {
      clients: [client('gateway', [EXCHANGE]), client('other', [EXCHANGE]), client('crm', [])],
      scopes: ['contacts.read', 'contacts.write'],
      features: {
        devInteractions: { enabled: false },
        introspection: { enabled: true, allowedPolicy: (_, client) => client.clientId === 'crm' },
        revocation: { enabled: true, allowedPolicy: (_, client, token) => client.clientId === token.clientId },
      },
      extraTokenClaims: ctx => ctx.state.claims,
      ttl: { AccessToken: 600 },
    })
    provider.registerGrantType(EXCHANGE, ctx => this.#exchange(provider, ctx), PARAMS)
    this.http.on('request', provider.callback())
  }

  async #exchange(provider, ctx) {
    const { client, params } = ctx.oidc
    if (params.subject_token_type !== JWT || params.requested_token_type !== ACCESS_TOKEN) {
      throw new errors.InvalidRequest('a JWT is exchanged for an access token')
    }
    this.presented.push(params.subject_token)
    const expected = { issuer: this.trusted, audience: provider.issuer, algorithms: ['ES256'], requiredClaims: ['exp', 'may_act'] }
    const { payload } = await jose.jwtVerify(params.subject_token, this.keys, expected).catch(error => {
      throw new errors.InvalidRequest(`subject token: ${error.message}`)
    })
    const { iss, sub } = payload.may_act
    if (iss !== provider.issuer || sub !== client.clientId) throw new errors.InvalidRequest('may_act names another client')
    const allowed = new Set(payload.scope.split(' '))
    const scopes = params.scope.split(' ')
    if (!scopes.every(scope => allowed.has(scope))) throw new errors.InvalidScope('more than the subject token allows', params.scope)
    ctx.state.claims = { act: { iss: provider.issuer, sub: client.clientId, act: payload.act } }
    const granted = [...scopes, ...this.tooMany].join(' ')
    const token = new provider.AccessToken({ client, accountId: payload.sub, gty: 'token_exchange', scope: granted, aud: params.audience })
    const access_token = await token.save()
    this.issued.push(access_token)
    const { scope, expiration: expires_in, tokenType: token_type } = token
    ctx.body = { access_token, issued_token_type: ACCESS_TOKEN, token_type, expires_in, scope }
  }

  /** The introspection response for the API. */
  async introspect(token) {
    const response = await this.#post('/token/introspection', 'crm', { token })
    return response.json()
  }

  /** A request to exchange, by the client `other`. */
  exchangeByOther(subject_token, scope) {
    const form = { grant_type: EXCHANGE, subject_token, subject_token_type: JWT, requested_token_type: ACCESS_TOKEN, scope }
    return this.#post('/token', 'other', form)
  }

  #post(path, client_id, form) {
    const [id, secret] = [client_id, SECRET].map(text => new URLSearchParams({ text }).toString().slice('text='.length))
    const headers = { authorization: `Basic ${btoa(`${id}:${secret}`)}` }
    return fetch(`${this.issuer}${path}`, { method: 'POST', headers, body: new URLSearchParams(form) })
  }

  async stop() {
    this.http.close()
    this.http.closeAllConnections()
    await once(this.http, 'close')
  }
}
