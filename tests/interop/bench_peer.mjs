// The peer of `make bench`: npm's oidc-provider, which issues JWTs for its clients and keeps everything in memory. Prints
// its URL, and ends when its standard input does.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'

import * as jose from 'jose'
import { Provider } from 'oidc-provider'

const [client_id, client_secret, audience] = process.argv.slice(2)

const http = createServer().listen(0, '127.0.0.1')
await once(http, 'listening')
const issuer = `http://127.0.0.1:${http.address().port}`
const key = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).privateKey)
const resource = { scope: 'mail.read', audience, accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg: 'ES256' } } }
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...key, alg: 'ES256', use: 'sig', kid: 'peer' }] },
  clients: [{ client_id, client_secret, grant_types: ['client_credentials'], redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_basic', id_token_signed_response_alg: 'ES256' }],
  scopes: ['mail.read'],
  routes: { token: '/oauth/token' },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true, nonceSecret: randomBytes(32) },
    resourceIndicators: { enabled: true, defaultResource: () => audience, getResourceServerInfo: () => resource, useGrantedResource: () => true },
  },
})
http.on('request', provider.callback())
console.log(issuer)
process.stdin.on('end', () => process.exit()).resume()
