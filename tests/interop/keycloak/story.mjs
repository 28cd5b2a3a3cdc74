// Alice signs in at a real Keycloak, and agents act for her: the exchange of what Keycloak issues, a second hop, a new
// key, a sign-out, and an actor that Keycloak names.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import * as jose from 'jose'

import { ACCESS_TOKEN, JWT, MAIL, World } from '../world.mjs'
import { Keycloak, missing } from './keycloak.mjs'

const ALICE = { id: '5d0c6ab6-2b5c-4f5f-9a38-0f7c1f1b7a01', username: 'alice', password: 'wonderland-7' }

describe('with a real Keycloak', { timeout: 300_000, skip: missing }, () => {
  let keycloak, world
  before(async () => {
    keycloak = await Keycloak.start()
    const settings = { OUTBOUND_ALLOW: `${keycloak.address}/32`, OUTBOUND_CA_FILE: keycloak.caFile }
    world = await World.make({ settings, alg: 'ES256', rsa: 'RS256' })
    const { issuer, metadata } = keycloak
    await world.server.apply({
      issuers: [
        {
          iss: issuer, discover: true, audiences: ['actchain'], algorithms: ['RS256'], alias: 'acme', actors: 'accept',
          introspection: {
            endpoint: metadata.introspection_endpoint, client_id: 'actchain', client_secret: 'a-secret-of-actchain-0123456789', cache: 0,
          },
        },
      ],
      delegations: [
        { id: 'A', delegator: { iss: issuer, sub: ALICE.id }, delegate: 'user-proxy', expires_in: 3600 },
        { id: 'B', parent: 'A', delegate: 'email-svc', expires_in: 3600 },
      ],
    })
  })
  after(async () => {
    await world?.stop()
    await keycloak?.stop()
  })

  /** An exchange; a refusal is the error with its reason. */
  const exchange = async (subject_token, subject_token_type) => {
    try {
      const params = { subject_token, subject_token_type, audience: MAIL, scope: 'mail.read' }
      return await world.exchange(world.userProxy, params)
    } catch (error) {
      throw error.cause ? new Error(error.cause.reason ?? error.cause.error_description, error) : error
    }
  }
  const INVALID = { message: 'subject_token_invalid' }

  test('doctor finds nothing wrong with the keys and the introspection of the realm', async () => {
    const said = await world.server.run('doctor')
    const { jwks_uri, introspection_endpoint } = keycloak.metadata
    for (const what of [jwks_uri, `introspection at ${introspection_endpoint}`]) {
      assert(said.includes(`ok    issuer ${keycloak.issuer}: ${what}\n`), said)
    }
  })

  test('the token of a sign-in is exchanged, and passed on to a second agent', async () => {
    const { access_token } = await keycloak.signIn('app', ALICE)
    const first = await exchange(access_token, JWT)
    const second = await world.exchange(world.emailSvc, { subject_token: first.access_token, resource: MAIL })
    const claims = jose.decodeJwt(second.access_token)
    assert.equal(claims.sub, `acme:${ALICE.id}`)
    assert.equal(claims.idp, keycloak.issuer)
    assert.deepEqual([claims.act.sub, claims.act.act.sub, claims.act.act.act], ['email-svc', 'user-proxy', undefined])
  })

  test('after Keycloak has another key, its tokens are exchanged without a restart', async () => {
    const before = await keycloak.signIn('app', ALICE)
    await keycloak.rotateKey()
    const after = await keycloak.signIn('app', ALICE)
    const kid = token => jose.decodeProtectedHeader(token).kid
    assert.notEqual(kid(after.access_token), kid(before.access_token))
    // An unknown key is fetched at most once in ten seconds.
    await assert.doesNotReject(retried(() => exchange(after.access_token, JWT)))
    await exchange(before.access_token, JWT)
  })

  test('an actor that Keycloak names is the first of the chain', async () => {
    const { access_token } = await keycloak.signIn('support-app', ALICE)
    const { act } = jose.decodeJwt((await exchange(access_token, JWT)).access_token)
    assert.deepEqual([act.sub, act.act], ['user-proxy', { sub: 'helpdesk', iss: keycloak.issuer }])
  })

  test('a token that says nothing by itself is introspected, and refused after the sign-out', async () => {
    const tokens = await keycloak.signIn('light-app', ALICE)
    assert.equal(jose.decodeJwt(tokens.access_token).aud, undefined)
    await assert.rejects(exchange(tokens.access_token, JWT), INVALID)
    const { access_token } = await exchange(tokens.access_token, ACCESS_TOKEN)
    assert.equal(jose.decodeJwt(access_token).sub, `acme:${ALICE.id}`)
    await assert.rejects(exchange(tokens.refresh_token, ACCESS_TOKEN), INVALID)
    await keycloak.signOut('light-app', tokens)
    await assert.rejects(exchange(tokens.access_token, ACCESS_TOKEN), INVALID)
  })
})

/** The same request until it is answered, for half a minute. */
async function retried(send) {
  for (const end = Date.now() + 30_000; ; ) {
    try {
      return await send()
    } catch (error) {
      if (Date.now() > end) throw error
      await new Promise(resolve => setTimeout(resolve, 1_000))
    }
  }
}
