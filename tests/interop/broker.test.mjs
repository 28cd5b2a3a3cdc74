// A provider of kind `token_exchange` whose authorization server is oidc-provider: agents retrieve what it issues for their chain.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import * as jose from 'jose'
import * as oauth from 'oauth4webapi'

import { ThirdParty, SECRET as GATEWAY_SECRET } from './oidc_provider.mjs'
import { Agent, HTTP, IDP, JWT, SECRET, World } from './world.mjs'

const API = 'https://crm.example.com'

describe('with oidc-provider as a provider that exchanges tokens', { timeout: 120_000 }, () => {
  let world, party, clerk
  before(async () => {
    party = await ThirdParty.start()
    world = await World.make({ settings: { DPOP_NONCE: 'false' }, alg: 'ES256', rsa: 'RS256' })
    party.trust(world.as.issuer, world.as.jwks_uri)
    clerk = new Agent('clerk', await oauth.generateKeyPair('ES256'), oauth.ClientSecretBasic(SECRET))
    await world.server.apply({
      clients: [
        {
          id: 'clerk', kind: 'agent', auth: 'client_secret_basic', secret: SECRET, grant_types: ['client_credentials', 'token-exchange'],
          audiences: [world.as.issuer], authorization_details_types: ['vault_connection'],
        },
      ],
      delegations: [{ id: 'L', parent: 'K', delegate: 'clerk', expires_in: 600 }],
      providers: [
        {
          id: 'crm', kind: 'token_exchange', issuer: party.issuer, client_id: 'gateway', client_secret: GATEWAY_SECRET,
          scopes: ['contacts.read', 'contacts.write'], exchange: { audience: API },
        },
      ],
    })
  })
  after(async () => {
    await world?.stop()
    await party?.stop()
  })

  /** The answer to a retrieval by `clerk`, which acts for `keeper`, which acts for Carol. */
  const retrieve = async (...scopes) => {
    const { issuer } = world.as
    const authorization_details = JSON.stringify([{ type: 'vault_connection', identifier: 'crm', scopes }])
    const asked = { audience: issuer, authorization_details }
    const user = { subject_token: await world.userToken('carol'), subject_token_type: JWT }
    const first = await world.exchange(world.keeper, { ...user, ...asked })
    const { access_token } = await world.exchange(clerk, { subject_token: first.access_token, ...asked })
    const url = new URL(`${issuer}/vault/connections/crm/token`)
    const headers = new Headers({ 'content-type': 'application/json' })
    const response = await oauth
      .protectedResourceRequest(access_token, 'POST', url, headers, '{}', { DPoP: clerk.dpop, ...HTTP })
      // A refusal with a challenge is an exception of the library.
      .catch(({ response }) => response)
    return { status: response.status, json: await response.json() }
  }

  const asCarol = async (method, path, body) => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${await world.userToken('carol')}` }
    const response = await fetch(`${world.as.issuer}${path}`, { method, headers, body: body && JSON.stringify(body) })
    return response.json()
  }

  test('an agent retrieves a token that names the user and all agents, with the scopes of its chain', async () => {
    const { status, json } = await retrieve('contacts.read')
    assert.equal(status, 200, JSON.stringify(json))
    assert.deepEqual([json.token_type, json.scope], ['Bearer', 'contacts.read'])
    assert(json.expires_in > 590 && json.expires_in <= 600, `${json.expires_in}`)
    const said = await party.introspect(json.access_token)
    assert.deepEqual([said.active, said.sub, said.client_id, said.scope, said.aud], [true, 'carol', 'gateway', 'contacts.read', API])
    const iss = world.as.issuer
    const agents = { sub: 'clerk', iss, act: { sub: 'keeper', iss } }
    assert.deepEqual(said.act, { sub: 'gateway', iss: party.issuer, act: agents })
    assert.equal(jose.decodeJwt(party.presented.at(-1)).idp, IDP)
  })

  test('a token is exchanged once, and again for other scopes', async () => {
    const first = await retrieve('contacts.write')
    const exchanges = party.presented.length
    assert.equal((await retrieve('contacts.write')).json.access_token, first.json.access_token)
    assert.equal(party.presented.length, exchanges)
    const wider = await retrieve('contacts.read', 'contacts.write')
    assert.deepEqual(wider.json.scope.split(' ').sort(), ['contacts.read', 'contacts.write'])
    assert.equal(party.presented.length, exchanges + 1)
  })

  test('no other client of the provider can use the token that is sent', async () => {
    const { json } = await retrieve('contacts.read')
    assert(json.access_token)
    const response = await party.exchangeByOther(party.presented.at(-1), 'contacts.read')
    assert.deepEqual([response.status, (await response.json()).error_description], [400, 'may_act names another client'])
  })

  test('after the owner has disconnected, the provider knows its tokens no more', async () => {
    const { json } = await retrieve('contacts.read')
    assert.equal((await party.introspect(json.access_token)).active, true)
    const path = `/api/v1/connections/${json.connection}/disconnect`
    assert.equal((await asCarol('POST', path, {})).provider_revoked, true)
    assert.deepEqual(await party.introspect(json.access_token), { active: false })
    assert.equal((await retrieve('contacts.read')).json.reason, 'connection_disconnected')
  })

  test('a token that allows more than was requested is refused, and revoked', async () => {
    // What was disconnected ends with its delegation: this is another one.
    await world.server.run('delegation', 'revoke', 'L')
    await world.server.apply({ delegations: [{ id: 'M', parent: 'K', delegate: 'clerk', expires_in: 600 }] })
    party.tooMany = ['contacts.write']
    const { status, json } = await retrieve('contacts.read')
    assert.deepEqual([status, json.reason], [403, 'connection_scope_exceeded'])
    assert.deepEqual(await party.introspect(party.issued.at(-1)), { active: false })
    party.tooMany = []
    assert.equal((await retrieve('contacts.write')).status, 200)
  })
})
