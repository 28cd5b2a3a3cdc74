// openid-client and oauth4webapi as clients that exchange tokens without what this server wants by default: with assertions for the
// token endpoint, as Spring and Azure send them, and without DPoP.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import * as jose from 'jose'
import * as oauth from 'oauth4webapi'
import * as openid from 'openid-client'

import { EXCHANGE, HTTP, IDP, JWT, MAIL, SECRET, World, namedKey } from './world.mjs'

const CLIENTS = {
  assertions: { exception: 'assertion_audience', auth: 'private_key_jwt', assertion_audience: 'token_endpoint' },
  bearer: { exception: 'token_type', auth: 'client_secret_post', secret: SECRET, token_type: 'bearer' },
  optional: { exception: 'dpop', auth: 'client_secret_basic', secret: SECRET, dpop: 'optional' },
}

describe('with exceptions of single clients', { timeout: 120_000 }, () => {
  let world, key
  before(async () => {
    world = await World.make({ settings: { DPOP_NONCE: 'false' }, alg: 'ES256', rsa: 'RS256' })
    key = await namedKey('ES256')
    await declare(true)
  })
  after(() => world?.stop())

  /** Declares the clients, with their exceptions or without, and delegations of Alice. */
  const declare = async exceptions => {
    const clients = Object.entries(CLIENTS).map(([id, { exception, ...members }]) => {
      if (!exceptions) delete members[exception]
      const jwks = members.auth === 'private_key_jwt' ? { jwks: { keys: [key.jwk] } } : {}
      return { id, kind: 'agent', ...members, ...jwks, scopes: ['mail.read'], audiences: [MAIL], grant_types: ['token-exchange'] }
    })
    const delegations = clients.map(({ id }) => ({
      id: `for-${id}`, delegator: { iss: IDP, sub: 'alice' }, delegate: id, expires_in: 600,
    }))
    await world.server.apply({ clients, delegations })
  }

  /** How a client authenticates; `jwt` names the audience of its assertions. */
  const authentications = {
    assertions: aud => [openid.PrivateKeyJwt, oauth.PrivateKeyJwt].map(make =>
      make({ key: key.privateKey, kid: key.kid }, { [oauth.modifyAssertion]: (_, claims) => (claims.aud = aud) })),
    bearer: () => [openid.ClientSecretPost(SECRET), oauth.ClientSecretPost(SECRET)],
    optional: () => [openid.ClientSecretBasic(SECRET), oauth.ClientSecretBasic(SECRET)],
  }

  const params = async () => ({ subject_token: await world.userToken(), subject_token_type: JWT, audience: MAIL, scope: 'mail.read' })

  /** An exchange by each library; `dpop` makes the handles of their keys. */
  const exchanges = async (id, { aud = world.as.token_endpoint, dpop } = {}) => {
    const [first, second] = authentications[id](aud)
    const options = { execute: [openid.allowInsecureRequests], algorithm: 'oauth2' }
    const config = await openid.discovery(new URL(world.as.issuer), id, undefined, first, options)
    const client = { client_id: id }
    return [
      async () => openid.genericGrantRequest(config, EXCHANGE, await params(), dpop && { DPoP: openid.getDPoPHandle(config, dpop) }),
      async () => {
        const settings = { ...HTTP, ...(dpop && { DPoP: oauth.DPoP(client, dpop) }) }
        const response = await oauth.genericTokenEndpointRequest(world.as, client, second, EXCHANGE, await params(), settings)
        return oauth.processGenericTokenEndpointResponse(world.as, client, response)
      },
    ]
  }

  test('assertions for the token endpoint are accepted of the client that has this exception', async () => {
    const dpop = await oauth.generateKeyPair('ES256')
    for (const aud of [world.as.token_endpoint, world.as.issuer]) {
      for (const exchange of await exchanges('assertions', { aud, dpop })) {
        const answer = await exchange()
        assert.equal(answer.token_type, 'dpop')
        const { sub, act, cnf } = jose.decodeJwt(answer.access_token)
        assert.deepEqual([sub, act.sub, typeof cnf.jkt], ['alice', 'assertions', 'string'])
      }
    }
    const said = await world.server.run('doctor')
    assert(said.includes('assertions has assertion_audience: token_endpoint'), said)
    for (const exchange of await exchanges('assertions', { aud: 'https://as.example.com/oauth/token', dpop })) {
      await assert.rejects(exchange, error => error.status === 401)
    }
  })

  test('a client of bearer tokens exchanges without a key', async () => {
    for (const exchange of await exchanges('bearer')) {
      const answer = await exchange()
      assert.equal(answer.token_type, 'bearer')
      const { act, cnf } = jose.decodeJwt(answer.access_token)
      assert.deepEqual([act, cnf], [{ sub: 'bearer', iss: world.as.issuer }, undefined])
      assert.equal((await world.introspect(answer.access_token)).active, true)
    }
  })

  test('where DPoP is optional, the client has a bound token with a proof and a bearer token without', async () => {
    const dpop = await oauth.generateKeyPair('ES256')
    const jkt = await jose.calculateJwkThumbprint(await jose.exportJWK(dpop.publicKey))
    for (const exchange of await exchanges('optional')) {
      const answer = await exchange()
      assert.deepEqual([answer.token_type, jose.decodeJwt(answer.access_token).cnf], ['bearer', undefined])
    }
    for (const exchange of await exchanges('optional', { dpop })) {
      const answer = await exchange()
      assert.deepEqual([answer.token_type, jose.decodeJwt(answer.access_token).cnf], ['dpop', { jkt }])
    }
  })

  test('once the exceptions are taken back, the clients are refused at once', async () => {
    await declare(false)
    const dpop = await oauth.generateKeyPair('ES256')
    for (const exchange of await exchanges('assertions', { dpop })) {
      await assert.rejects(exchange, error => error.status === 401)
    }
    for (const id of ['bearer', 'optional']) {
      for (const exchange of await exchanges(id)) {
        await assert.rejects(exchange, error => error.error === 'invalid_dpop_proof')
      }
    }
  })
})
