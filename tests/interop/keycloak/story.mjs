// Alice signs in at a real Keycloak, and agents act for her: the exchange of what Keycloak issues, a second hop, a new
// key, a sign-out, and an actor that Keycloak names.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import * as jose from 'jose'

import { ACCESS_TOKEN, JWT, MAIL, World } from '../world.mjs'
import { Keycloak, missing } from './keycloak.mjs'

const ALICE = { id: '5d0c6ab6-2b5c-4f5f-9a38-0f7c1f1b7a01', username: 'alice', password: 'wonderland-7' }
/** How long the test waits for what jobs of the server do, in milliseconds. */
const PATIENCE = 120_000

describe('with a real Keycloak', { timeout: 600_000, skip: missing }, () => {
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
      registrars: [
        { id: 'keycloak', kind: 'keycloak', issuer, client_id: 'registrar', client_secret: 'a-secret-of-the-registrar-0123456789' },
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

  /** Alice at the management API, with a token of a sign-in. */
  const asAlice = access_token => async (path, body) => {
    const headers = { authorization: `Bearer ${access_token}`, 'content-type': 'application/json' }
    const answer = await fetch(`${world.server.issuer}${path}`, { method: 'POST', headers, body: JSON.stringify(body) })
    assert(answer.ok, await answer.clone().text())
    return answer.json()
  }

  /** An ephemeral agent of Alice with a key. */
  const ephemeral = async (post, jwk, task_id) => post('/delegate', { ephemeral: { jwk, task_id }, expires_in: 600 })

  const registered = async name => retried(async () => {
    const found = await keycloak.clientsNamed(name)
    assert.equal(found.length, 1, 'it is not registered yet')
    return found[0]
  }, PATIENCE)

  const deleted = async name => retried(async () => assert.deepEqual(await keycloak.clientsNamed(name), []), PATIENCE)

  test('an ephemeral agent is a client of Keycloak until its delegation is revoked', async () => {
    const { access_token } = await keycloak.signIn('app', ALICE)
    const post = asAlice(access_token)
    const { privateKey, publicKey } = await jose.generateKeyPair('ES256')
    const jwk = await jose.exportJWK(publicKey)
    const made = await ephemeral(post, jwk, 'task-1')
    const { clientId } = await registered(made.delegate)
    // The agent proves its key at Keycloak, too.
    const assertion = await new jose.SignJWT({ jti: crypto.randomUUID() })
      .setProtectedHeader({ alg: 'ES256', kid: await jose.calculateJwkThumbprint(jwk) })
      .setIssuer(clientId)
      .setSubject(clientId)
      .setAudience(keycloak.issuer)
      .setIssuedAt()
      .setExpirationTime('1m')
      .sign(privateKey)
    const form = {
      grant_type: 'client_credentials', client_id: clientId, client_assertion: assertion,
      client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    }
    const answer = await keycloak.call(keycloak.metadata.token_endpoint, { form })
    assert.equal(answer.status, 200, answer.text)
    await post(`/delegate/${made.id}/revoke`, {})
    await deleted(made.delegate)
  })

  test('while Keycloak is down nothing is lost: it registers and deletes agents when it is back', async () => {
    const { access_token } = await keycloak.signIn('app', ALICE)
    const post = asAlice(access_token)
    const keys = await Promise.all(['a', 'b', 'c'].map(() => jose.generateKeyPair('ES256')))
    const [one, two, three] = await Promise.all(keys.map(({ publicKey }) => jose.exportJWK(publicKey)))
    const before = await ephemeral(post, one, 'task-2')
    await registered(before.delegate)
    await keycloak.pause()
    const [during, lapsed] = [await ephemeral(post, two, 'task-3'), await ephemeral(post, three, 'task-4')]
    for (const { id } of [before, lapsed]) await post(`/delegate/${id}/revoke`, {})
    await retried(async () => {
      // The issuer is down, too, which doctor calls an error.
      const said = await world.server.run('doctor').catch(({ message }) => message)
      assert.match(said, /warn {2}registrar keycloak: .*requests fail/)
    }, PATIENCE)
    await keycloak.resume()
    await registered(during.delegate)
    await deleted(before.delegate)
    assert.deepEqual(await keycloak.clientsNamed(lapsed.delegate), [])
  })
})

/** The same request until it is answered, for half a minute or longer. */
async function retried(send, patience = 30_000) {
  for (const end = Date.now() + patience; ; ) {
    try {
      return await send()
    } catch (error) {
      if (Date.now() > end) throw error
      await new Promise(resolve => setTimeout(resolve, 1_000))
    }
  }
}
