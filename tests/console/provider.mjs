// A real OpenID provider, at which a name is enough to sign in.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'

import * as jose from 'jose'
import { Provider } from 'oidc-provider'

const PAGE = '<!doctype html><title>Provider</title><form method="post"><label>Name <input name="name"></label><button>Sign in here</button></form>'

/** The part of the console's callback that names an issuer. */
export const nameOf = issuer => createHash('sha256').update(issuer).digest('hex').slice(0, 16)

/** Starts a provider with the configuration for its issuer. It grants these scopes without a question. */
export async function startProvider(scopes, configure) {
  const listener = createServer()
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const issuer = `http://127.0.0.1:${listener.address().port}`
  const key = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).privateKey)
  const { features, ...more } = configure(issuer)
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...key, kid: 'idp', alg: 'ES256', use: 'sig' }] },
    cookies: { keys: ['a-key-for-cookies'] },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    async loadExistingGrant(ctx) {
      const { provider, session, client } = ctx.oidc
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope(scopes)
      await grant.save()
      return grant
    },
    features: { devInteractions: { enabled: false }, ...features },
    ...more,
  })
  const serve = provider.callback()
  listener.on('request', async (request, response) => {
    if (!request.url.startsWith('/interaction/')) return serve(request, response)
    if (request.method === 'GET') {
      response.setHeader('content-type', 'text/html')
      return response.end(PAGE)
    }
    let body = ''
    for await (const piece of request) body += piece
    const login = { accountId: new URLSearchParams(body).get('name') }
    await provider.interactionFinished(request, response, { login, consent: {} })
  })
  const stop = () => {
    listener.closeAllConnections()
    listener.close()
  }
  return { issuer, provider, listener, stop }
}

export async function typeName(page, name) {
  await page.getByLabel('Name').fill(name)
  await page.getByRole('button', { name: 'Sign in here' }).click()
}

/** Signs in on the way to a page of the console, and comes to it. */
export async function signIn(page, server, name, path = '/console') {
  await page.goto(server.issuer + path)
  await typeName(page, name)
  await page.waitForURL(server.issuer + path)
}
