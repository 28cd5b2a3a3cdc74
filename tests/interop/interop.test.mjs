// oauth4webapi and jose, used like agents, a trusted issuer and relying parties, against the real server.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { inflateSync } from 'node:zlib'

import * as jose from 'jose'
import * as oauth from 'oauth4webapi'

import { ACCESS_TOKEN, EXCHANGE, HTTP, IDP, MAIL, World } from './world.mjs'

const INBOX = new URL('/inbox', MAIL)
// oauth4webapi names the algorithm of Ed25519 keys as in RFC 9864; jose and the server use the older name.
const ALGS = ['ES256', 'EdDSA', 'Ed25519']
// `alg` is the algorithm of all clients except one with an RSA key; `setting` is the server's setting for the same
// algorithm.
const RUNS = [
  { nonces: 'off', alg: 'ES256', setting: 'ES256', rsa: 'RS256' },
  { nonces: 'on', alg: 'EdDSA', setting: 'Ed25519', rsa: 'PS256' },
]

for (const { nonces, alg, setting, rsa } of RUNS) {
  describe(`with nonces ${nonces}, ${alg} keys and ${rsa} assertions`, { timeout: 120_000 }, () => {
    let world
    before(async () => {
      world = await World.make({ settings: { DPOP_NONCE: nonces === 'on' ? 'true' : 'false', KEYS_ALGORITHM: setting }, alg, rsa })
    })
    after(() => world?.stop())

    test('discovery finds the server at the place of OAuth and at that of OpenID Connect', async () => {
      const as = await world.discover('oauth2')
      assert.deepEqual(await world.discover('oidc'), as)
      assert.equal(as.issuer, world.server.issuer)
      assert(as.token_endpoint.startsWith(as.issuer) && as.jwks_uri.startsWith(as.issuer))
      assert(as.grant_types_supported.includes(EXCHANGE) && as.grant_types_supported.includes('client_credentials'))
      for (const method of ['private_key_jwt', 'client_secret_basic', 'none']) {
        assert(as.token_endpoint_auth_methods_supported.includes(method), method)
      }
      assert(as.dpop_signing_alg_values_supported.includes(alg))
      assert(as.token_endpoint_auth_signing_alg_values_supported.includes(rsa))
    })

    test('an agent gets a token of its own, with one retry if there are nonces and only the first time', async () => {
      const agent = world.userProxy
      agent.dpop = agent.newHandle()
      const statuses = []
      const counted = {
        [oauth.customFetch]: async (...request) => {
          const response = await fetch(...request)
          statuses.push(response.status)
          assert.equal(response.headers.has('dpop-nonce'), nonces === 'on')
          return response
        },
      }
      const params = { audience: MAIL, scope: 'mail.read' }
      const answer = await world.ownToken(agent, params, counted)
      await world.ownToken(agent, params, counted)
      assert.deepEqual(statuses, nonces === 'on' ? [400, 200, 200] : [200, 200])

      assert.equal(answer.token_type, 'dpop')
      assert.equal(answer.scope, 'mail.read')
      const claims = jose.decodeJwt(answer.access_token)
      assert.equal(claims.sub, 'user-proxy')
      assert.equal(claims.client_id, 'user-proxy')
      assert.deepEqual(claims.cnf, { jkt: await agent.jkt() })
      assert.equal(claims.act, undefined)
    })

    test(`an agent whose assertions are signed with ${rsa} gets a token`, async () => {
      const answer = await world.ownToken(world.batchJob, { resource: MAIL })
      assert.equal(jose.decodeJwt(answer.access_token).sub, 'batch-job')
      assert.deepEqual(answer.scope.split(' ').sort(), ['mail.read', 'mail.send'])
    })

    test('a token passes through three agents, and every hop narrows it and binds it to another key', async () => {
      const answers = await world.threeHops()
      const agents = [world.userProxy, world.emailSvc, world.followupSvc]
      const tokens = answers.map(answer => jose.decodeJwt(answer.access_token))
      const chain = []
      for (const [hop, agent] of agents.entries()) {
        const [answer, token] = [answers[hop], tokens[hop]]
        chain.unshift([agent.id, await agent.jkt()])
        assert.equal(answer.token_type, 'dpop')
        assert.equal(answer.issued_token_type, ACCESS_TOKEN)
        assert.equal(answer.scope, token.scope)
        assert.equal(answer.expires_in, token.exp - token.iat)
        assert.deepEqual(actors(token), chain)
        assert.deepEqual(token.cnf, { jkt: await agent.jkt() })
        assert.equal(token.client_id, agent.id)
        assert.deepEqual([token.sub, token.idp, token.sid], ['alice', IDP, 'session-1'])
        assert.equal(token.txn, tokens[0].txn)
        assert(hop === 0 || token.exp <= tokens[hop - 1].exp)
      }
      assert.equal(new Set(tokens.map(token => token.jti)).size, 3)
      assert.deepEqual(
        answers.map(answer => answer.scope.split(' ').sort().join(' ')),
        ['mail.read mail.send', 'mail.read mail.send', 'mail.read'],
      )
      // The limit of the resource, and then those of the delegations, counted from their declaration.
      const [first, second, third] = answers.map(answer => answer.expires_in)
      assert(first > 500 && first <= 600 && second <= 600 && third > 200 && third <= 300, `${[first, second, third]}`)
    })

    test('a relying party that uses jose believes the last token', async () => {
      const [, , { access_token }] = await world.threeHops()
      const keys = jose.createRemoteJWKSet(new URL(world.as.jwks_uri))
      const expected = { typ: 'at+jwt', issuer: world.as.issuer, audience: MAIL, algorithms: [alg] }
      const { payload, protectedHeader } = await jose.jwtVerify(access_token, keys, {
        ...expected,
        requiredClaims: ['sub', 'client_id', 'iat', 'exp', 'jti', 'cnf', 'act'],
      })
      assert.equal(payload.sub, 'alice')
      assert(protectedHeader.kid)

      const elsewhere = { ...expected, audience: 'https://calendar.example.com' }
      await assert.rejects(jose.jwtVerify(access_token, keys, elsewhere), jose.errors.JWTClaimValidationFailed)
      const [header, claims, signature] = access_token.split('.')
      const forged = jose.base64url.encode(JSON.stringify({ ...jose.decodeJwt(access_token), sub: 'mallory' }))
      assert.notEqual(forged, claims)
      await assert.rejects(
        jose.jwtVerify(`${header}.${forged}.${signature}`, keys, expected),
        jose.errors.JWSSignatureVerificationFailed,
      )
    })

    test('a relying party that uses oauth4webapi believes the last token under its own key alone', async () => {
      const [, { access_token: earlier }, { access_token }] = await world.threeHops()
      const validate = request =>
        oauth.validateJwtAccessToken(world.as, request, MAIL, { requireDPoP: true, signingAlgorithms: ALGS, ...HTTP })

      const claims = await validate(await resourceRequest(access_token, world.followupSvc.newHandle()))
      assert.equal(claims.sub, 'alice')
      assert.equal(claims.client_id, 'followup-svc')
      assert.equal(claims.scope, 'mail.read')

      const othersProof = await resourceRequest(access_token, world.emailSvc.newHandle())
      await assert.rejects(validate(othersProof), { code: oauth.JWT_CLAIM_COMPARISON, message: /confirmation/ })
      // A proof with the right key, but for another token.
      const otherToken = await resourceRequest(earlier, world.followupSvc.newHandle())
      otherToken.headers.set('authorization', `DPoP ${access_token}`)
      await assert.rejects(validate(otherToken), { code: oauth.JWT_CLAIM_COMPARISON, message: /ath/ })
      await assert.rejects(validate(await resourceRequest(access_token, undefined)), oauth.OperationProcessingError)
    })

    test('a scope that was not delegated is refused as invalid_scope', async () => {
      const [, { access_token }] = await world.threeHops()
      const wider = { subject_token: access_token, scope: 'mail.read mail.send' }
      const error = await refusal(world.exchange(world.followupSvc, wider))
      assert.deepEqual([error.status, error.error, error.cause.reason], [400, 'invalid_scope', 'scope_exceeds_grant'])
    })

    test('a token that was found lying around is refused as invalid_request', async () => {
      const [, { access_token }] = await world.threeHops()
      const error = await refusal(world.exchange(world.batchJob, { subject_token: access_token }))
      assert.deepEqual([error.status, error.error, error.cause.reason], [400, 'invalid_request', 'delegation_required'])
    })

    test('a replayed proof is refused as invalid_dpop_proof', async () => {
      const request = await world.firstHop()
      let proof
      const record = (url, options) => {
        proof = options.headers.dpop
        return fetch(url, options)
      }
      const replay = (url, options) => fetch(url, { ...options, headers: { ...options.headers, dpop: proof } })
      await world.exchange(world.userProxy, request, { [oauth.customFetch]: record })
      // Everything except the proof is new: the library makes another assertion.
      const error = await refusal(world.exchange(world.userProxy, request, { [oauth.customFetch]: replay }))
      assert.deepEqual([error.status, error.error, error.cause.reason], [400, 'invalid_dpop_proof', 'dpop_proof_replayed'])
    })

    test('a client without other credentials is refused under a key that is not registered', async () => {
      const [, { access_token }] = await world.threeHops()
      const impostor = { client: world.followupSvc.client, authentication: oauth.None(), dpop: world.batchJob.dpop }
      const error = await thrown(world.exchange(impostor, { subject_token: access_token }))
      // Such a client authenticates only with its key: with another key, the response is that for an unknown client.
      assert(error instanceof oauth.WWWAuthenticateChallengeError, `${error}`)
      assert.deepEqual([error.status, (await error.response.json()).error], [401, 'invalid_client'])
    })

    test('unknown clients and wrong secrets are refused alike, as invalid_client with a challenge', async () => {
      const unknown = { client: { client_id: 'unknown' }, authentication: oauth.ClientSecretBasic('x'.repeat(32)) }
      const wrong = { client: world.emailSvc.client, authentication: oauth.ClientSecretBasic('x'.repeat(32)) }
      const bodies = []
      for (const { client, authentication } of [unknown, wrong]) {
        const agent = { client, authentication, dpop: world.emailSvc.newHandle() }
        const error = await thrown(world.exchange(agent, await world.firstHop()))
        assert(error instanceof oauth.WWWAuthenticateChallengeError, `${error}`)
        assert.equal(error.status, 401)
        assert.deepEqual(error.cause, [{ scheme: 'basic', parameters: { realm: world.as.issuer } }])
        bodies.push(await error.response.json())
      }
      assert.equal(bodies[0].error, 'invalid_client')
      assert.deepEqual(bodies[0], bodies[1])
    })

    test('a resource server introspects the last token, as JSON and as a signed JWT', async () => {
      const [, , { access_token }] = await world.threeHops()
      for (const form of ['json', 'jwt']) {
        const answer = await world.introspect(access_token, form)
        assert.equal(answer.active, true, form)
        assert.deepEqual([answer.sub, answer.client_id, answer.scope], ['alice', 'followup-svc', 'mail.read'])
        assert.deepEqual(answer.cnf, { jkt: await world.followupSvc.jkt() })
        assert.deepEqual(actors(answer).map(([sub]) => sub), ['followup-svc', 'email-svc', 'user-proxy'])
        assert.deepEqual([answer.delegation.state, answer.delegation.path], ['active', ['D', 'E', 'F']])
      }
      assert.deepEqual(await world.introspect('no token at all'), { active: false })
    })

    test('a revoked token takes all that was made of it with it: introspection and status list say so at once', async () => {
      const tokens = (await world.threeHops()).map(answer => answer.access_token)
      assert.deepEqual(await Promise.all(tokens.map(statusOf)), [0, 0, 0])
      assert.equal(await world.revoke(world.emailSvc, tokens[1]), undefined)
      const active = await Promise.all(tokens.map(async token => (await world.introspect(token)).active))
      assert.deepEqual(active, [true, false, false])
      assert.deepEqual(await Promise.all(tokens.map(statusOf)), [0, 1, 1])
      const error = await refusal(world.exchange(world.followupSvc, { subject_token: tokens[1] }))
      assert.deepEqual([error.status, error.error, error.cause.reason], [400, 'invalid_request', 'token_revoked'])
      const others = await refusal(world.revoke(world.emailSvc, tokens[0]))
      assert.deepEqual([others.status, others.error], [400, 'invalid_grant'])
    })

    test('an agent asks at the management API under its own key, and waits for the user that it named', async () => {
      const asked = await world.atManagementApi(world.batchJob, 'POST', '/delegate', {
        delegator: { iss: IDP, sub: 'bob' },
        scopes: ['mail.read'],
        expires_in: 60,
        reason: 'to sort his mail',
      })
      assert.equal(asked.status, 202)
      const location = asked.headers.get('location')
      const { id, state } = await asked.json()
      assert.deepEqual([location, state], [`${world.as.issuer}/delegate/${id}`, 'requested'])
      const decide = body =>
        fetch(`${location}/approve`, { method: 'POST', headers: body.headers, body: '{}' })
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${await world.userToken('bob')}` }
      const waiting = world.atManagementApi(world.batchJob, 'GET', `/delegate/${id}?wait=20`)
      assert.equal((await decide({ headers })).status, 200)
      assert.equal((await (await waiting).json()).state, 'active')
      const again = await decide({ headers })
      assert.equal(again.headers.get('content-type'), 'application/problem+json')
      const problem = await again.json()
      assert.deepEqual([problem.status, problem.reason, problem.state], [409, 'invalid_state_transition', 'active'])
    })

    test('an agent fetches a credential of its user, and jose opens what was sealed to its key', async () => {
      const { issuer } = world.as
      const user = await world.userToken('carol')
      const made = await fetch(`${issuer}/api/v1/connections`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${user}` },
        body: JSON.stringify({ provider: 'keys', credential: { key: 'the key of carol' } }),
      })
      assert.equal(made.status, 201)
      const { id } = await made.json()
      const agent = world.keeper
      const authorization_details = JSON.stringify([{ type: 'vault_connection', identifier: id }])
      const own = { subject_token: user, subject_token_type: 'urn:ietf:params:oauth:token-type:jwt' }
      const { access_token } = await world.exchange(agent, { ...own, audience: issuer, authorization_details })
      const take = body =>
        oauth.protectedResourceRequest(
          access_token, 'POST', new URL(`${issuer}/vault/connections/${id}/token`),
          new Headers({ 'content-type': 'application/json' }), JSON.stringify(body), { DPoP: agent.dpop, ...HTTP },
        )
      const taken = await (await take({})).json()
      assert.deepEqual(taken, { access_token: 'the key of carol', token_type: 'N_A', connection: id })
      // The same credential by token exchange, with its own token type.
      const vaultToken = 'urn:actchain:params:oauth:token-type:vault-token'
      const params = { subject_token: access_token, requested_token_type: vaultToken, authorization_details }
      const exchanged = await world.exchange(agent, params, { recognizedTokenTypes: { n_a: () => {} } })
      assert.deepEqual([exchanged.access_token, exchanged.issued_token_type], ['the key of carol', vaultToken])
      if (alg !== 'ES256') {
        const refused = await take({ seal: true })
        assert.deepEqual([refused.status, (await refused.json()).reason], [400, 'key_cannot_decrypt'])
        return
      }
      const { sealed } = await (await take({ seal: true })).json()
      const { kty, crv, x, y, d } = await jose.exportJWK(agent.dpopKey.privateKey)
      const key = await jose.importJWK({ kty, crv, x, y, d }, 'ECDH-ES+A256KW')
      const { plaintext, protectedHeader } = await jose.compactDecrypt(sealed, key)
      assert.deepEqual(JSON.parse(new TextDecoder().decode(plaintext)), taken)
      assert.equal(protectedHeader.kid, await agent.jkt())
    })

    test(`a proof without nonce, or with one made up, is ${nonces === 'on' ? 'answered with a nonce' : 'good'}`, async () => {
      const agent = world.userProxy
      const madeUp = { [oauth.modifyAssertion]: (_, claims) => (claims.nonce = 'made up') }
      for (const handle of [agent.newHandle(), agent.newHandle(madeUp)]) {
        const answer = world.exchangeOnce(agent, await world.firstHop(), { DPoP: handle })
        if (nonces === 'off') {
          await answer
          continue
        }
        const error = await refusal(answer)
        assert.deepEqual([error.status, error.error], [400, 'use_dpop_nonce'])
        assert(oauth.isDPoPNonceError(error))
        assert(error.response.headers.get('dpop-nonce'))
      }
    })
  })
}

/** The actors of a token with their keys, newest first. */
function actors({ act }) {
  return act ? [[act.sub, act.cnf.jkt], ...actors(act)] : []
}

/** What the status list that a token points into says of it. */
async function statusOf(token) {
  const { idx, uri } = jose.decodeJwt(token).status.status_list
  const response = await fetch(uri, { headers: { accept: 'application/statuslist+jwt' } })
  assert.deepEqual([response.status, response.headers.get('content-type')], [200, 'application/statuslist+jwt'])
  const list = jose.decodeJwt(await response.text())
  assert.deepEqual([list.sub, list.status_list.bits], [uri, 2])
  const bytes = inflateSync(jose.base64url.decode(list.status_list.lst))
  return (bytes[idx >> 2] >> ((idx & 3) * 2)) & 3
}

/** What the resource would see of a request that is made with a token. */
async function resourceRequest(token, DPoP) {
  let seen
  const intercept = async (url, options) => {
    seen = new Request(url, options)
    return new Response()
  }
  await oauth.protectedResourceRequest(token, 'GET', INBOX, undefined, undefined, { DPoP, [oauth.customFetch]: intercept })
  return seen
}

/** What a promise is rejected with. */
async function thrown(promise) {
  return promise.then(
    () => assert.fail('this should have been refused'),
    error => error,
  )
}

/** The same, where it is an error of OAuth. */
async function refusal(promise) {
  const error = await thrown(promise)
  assert(error instanceof oauth.ResponseBodyError, `${error.stack}`)
  assert.equal(error.response.headers.get('cache-control'), 'no-store')
  return error
}
