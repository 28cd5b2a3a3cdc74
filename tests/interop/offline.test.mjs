// Refresh tokens with DPoP, by oauth4webapi, openid-client and Authlib: an agent goes on without a token of the user. Each library
// checks the answers by its own rules.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import * as jose from 'jose'
import * as oauth from 'oauth4webapi'
import * as openid from 'openid-client'

import { EXCHANGE, HTTP, IDP, JWT, MAIL, SECRET, World } from './world.mjs'

const run = promisify(execFile)

/** Authlib does not encode secrets as RFC 6749 §2.3.1 says, so its client has one that encoding leaves as it is. */
const PLAIN = 'authlib-0123456789abcdef'

/** Python with Authlib; the test of Authlib is left out where there is none. */
const python = fileURLToPath(new URL('../../target/tools/python/bin/python', import.meta.url))
const authlib = await run(python, ['-c', 'import authlib, requests, cryptography']).then(() => true, () => false)

for (const nonces of ['true', 'false']) {
  describe(`with DPOP_NONCE=${nonces}, an agent works while the user is away`, { timeout: 120_000 }, () => {
    let world
    before(async () => {
      world = await World.make({ settings: { DPOP_NONCE: nonces }, alg: 'ES256', rsa: 'RS256' })
      const ids = ['with-oauth4webapi', 'with-openid-client', 'with-authlib']
      const clients = ids.map(id => ({
        id, kind: 'agent', auth: 'client_secret_basic', secret: id === 'with-authlib' ? PLAIN : SECRET, scopes: ['mail.read', 'mail.send'], audiences: [MAIL],
        grant_types: ['token-exchange', 'refresh_token'],
      }))
      const delegations = ids.map(id => ({
        id: `for-${id}`, delegator: { iss: IDP, sub: 'alice' }, delegate: id, expires_in: 3600, offline_access: true,
      }))
      await world.server.apply({ clients, delegations })
    })
    after(() => world?.stop())

    const params = async () => ({ subject_token: await world.userToken(), subject_token_type: JWT, audience: MAIL })

    /** Once more, if the server has asked for a nonce. */
    const withNonce = async call => {
      try {
        return await call()
      } catch (error) {
        if (!oauth.isDPoPNonceError(error)) throw error
        return call()
      }
    }

    const assertRefreshed = async (answer, id, scope) => {
      assert.deepEqual([answer.token_type, answer.refresh_token, answer.scope], ['dpop', undefined, scope])
      const { sub, act, cnf } = jose.decodeJwt(answer.access_token)
      assert.deepEqual([sub, act.sub, typeof cnf.jkt], ['alice', id, 'string'])
      assert.equal((await world.introspect(answer.access_token)).active, true)
    }

    test('the metadata name the grant', () => {
      assert(world.as.grant_types_supported.includes('refresh_token'))
    })

    test('oauth4webapi refreshes, asks for less, and revokes', async () => {
      const client = { client_id: 'with-oauth4webapi' }
      const auth = oauth.ClientSecretBasic(SECRET)
      const settings = { ...HTTP, DPoP: oauth.DPoP(client, await oauth.generateKeyPair('ES256')) }
      const exchanged = await withNonce(async () => {
        const response = await oauth.genericTokenEndpointRequest(world.as, client, auth, EXCHANGE, await params(), settings)
        return oauth.processGenericTokenEndpointResponse(world.as, client, response)
      })
      const refresh = (more, options = settings) => withNonce(async () => {
        const additionalParameters = new URLSearchParams(more)
        const response = await oauth.refreshTokenGrantRequest(
          world.as, client, auth, exchanged.refresh_token, { ...options, additionalParameters })
        return oauth.processRefreshTokenResponse(world.as, client, response)
      })
      await assertRefreshed(await refresh(), client.client_id, 'mail.read mail.send')
      const narrower = await refresh({ scope: 'mail.read', resource: MAIL })
      await assertRefreshed(narrower, client.client_id, 'mail.read')
      const other = { ...HTTP, DPoP: oauth.DPoP(client, await oauth.generateKeyPair('ES256')) }
      await assert.rejects(refresh({}, other), error => error.error === 'invalid_grant')
      await assert.rejects(refresh({ scope: 'mail.delete' }), error => error.error === 'invalid_scope')
      const revoked = await oauth.revocationRequest(world.as, client, auth, exchanged.refresh_token, {
        ...HTTP, additionalParameters: { token_type_hint: 'refresh_token' },
      })
      assert.equal(await oauth.processRevocationResponse(revoked), undefined)
      assert.equal((await world.introspect(narrower.access_token)).active, false)
      await assert.rejects(refresh(), error => error.error === 'invalid_grant')
    })

    test('openid-client refreshes, introspects and revokes', async () => {
      const options = { execute: [openid.allowInsecureRequests], algorithm: 'oauth2' }
      const id = 'with-openid-client'
      const config = await openid.discovery(new URL(world.as.issuer), id, undefined, openid.ClientSecretBasic(SECRET), options)
      const DPoP = openid.getDPoPHandle(config, await oauth.generateKeyPair('ES256'))
      const exchanged = await openid.genericGrantRequest(config, EXCHANGE, await params(), { DPoP })
      const refreshed = await openid.refreshTokenGrant(config, exchanged.refresh_token, { scope: 'mail.read' }, { DPoP })
      await assertRefreshed(refreshed, id, 'mail.read')
      const shown = await openid.tokenIntrospection(config, exchanged.refresh_token)
      assert.deepEqual([shown.active, shown.client_id, shown.sub], [true, id, 'alice'])
      await openid.tokenRevocation(config, exchanged.refresh_token)
      await assert.rejects(openid.refreshTokenGrant(config, exchanged.refresh_token, {}, { DPoP }),
        error => error.error === 'invalid_grant')
    })

    test('Authlib refreshes', { skip: !authlib && 'Authlib is not installed' }, async () => {
      const { stdout } = await run(python, ['offline_authlib.py', world.as.token_endpoint, await world.userToken(), PLAIN, MAIL])
      const answer = JSON.parse(stdout)
      assert.equal(answer.token_type, 'DPoP')
      assert.deepEqual(answer.refused, { error: 'invalid_grant' })
      const { sub, act } = jose.decodeJwt(answer.access_token)
      assert.deepEqual([sub, act.sub, answer.scope], ['alice', 'with-authlib', 'mail.read'])
    })
  })
}
