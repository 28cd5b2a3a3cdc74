// Every page in a real browser: in light and dark, at 1440, 900 and 320 pixels, filled and empty. Each is accessible and
// valid, fits, asks no other host for anything, and is like the picture that is kept.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'

import * as jose from 'jose'

import { Server } from '../interop/server.mjs'
import { assertAccessible, assertFits, assertValid, command, launch, main, newPage, session, shows } from './browser.mjs'
import { PICTURE_FLAGS, differences, incomparable, keeps } from './pictures.mjs'

const IDP = 'https://idp.example.com'
const MAIL = 'https://mail.example.com'

let browser, waiting
const servers = {}
/** The session of an operator at each server. */
const sessions = {}
const grants = {}

/** A page of a server in which an operator has entered. */
const visit = place => newPage(browser, servers[place], { reducedMotion: 'reduce', storageState: sessions[place] })

/** The scopes that a server knows (RFC 8414 §2). */
async function known(server) {
  const metadata = await fetch(`${server.issuer}/.well-known/oauth-authorization-server`)
  return (await metadata.json()).scopes_supported ?? []
}

const agent = id => ({
  id,
  kind: 'agent',
  name: `Agent ${id}`,
  auth: 'client_secret_basic',
  secret: `${id}-secret-0123456789`,
  scopes: ['mail.read', 'mail.send'],
  audiences: [MAIL],
  grant_types: ['client_credentials', 'token-exchange'],
})

before(async () => {
  if (!keeps && incomparable()) console.log(`pictures are not compared: ${incomparable()}`)
  const idp = await jose.exportJWK((await jose.generateKeyPair('ES256', { extractable: true })).publicKey)
  servers.filled = await Server.start({})
  await servers.filled.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...idp, kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'], algorithms: ['ES256'] }],
    resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'] }],
    providers: [{ id: 'weather', kind: 'api_key', header: 'x-api-key', hosts: ['https://weather.example.com'] }],
    clients: ['assistant', 'summarizer', 'archiver', 'travel-bot'].map(agent),
    delegations: [
      { id: 'assistant-of-alice', delegator: { iss: IDP, sub: 'alice' }, delegate: 'assistant', scopes: ['mail.read', 'mail.send'], max_uses: 20, max_depth: 3, expires_in: 3600 },
      { id: 'summaries', parent: 'assistant-of-alice', delegate: 'summarizer', scopes: ['mail.read'], max_uses: 5, expires_in: 1800 },
      { id: 'archive', parent: 'summaries', delegate: 'archiver', scopes: ['mail.read'], expires_in: 900 },
    ],
  })
  // The server learns within seconds of what a command has declared.
  while (!(await known(servers.filled)).includes('mail.read')) continue
  // The overview says what the first verification of the log has found.
  while (!command(servers.filled, 'top', '--once').log.last_verification) continue
  const request = ['delegation', 'request', '--delegate', 'travel-bot', '--delegator-iss', IDP, '--delegator', 'alice']
  waiting = command(servers.filled, ...request, '--scope', 'mail.read', '--scope', 'mail.send', '--expires-in', '8h', '--reason', 'to book the trip and to tell your team').id
  servers.empty = await Server.start({})
  servers.grants = await Server.start({})
  const keys = [`${'A'.repeat(42)}E`, `${'B'.repeat(42)}E`]
  const agents = dpop_keys => ({ clients: [{ ...agent('assistant'), dpop_keys: [keys[0]] }, { ...agent('archiver'), dpop_keys }] })
  await servers.grants.apply({
    issuers: [{ iss: IDP, jwks: { keys: [{ ...idp, kid: 'idp', alg: 'ES256' }] }, audiences: ['actchain'], standing_grants: 'by_user_or_admin' }],
    resources: [{ id: MAIL, scopes: ['mail.read', 'mail.send'] }],
    ...agents([keys[0]]),
  })
  for (const id of ['assistant', 'archiver'])
    grants[id] = command(servers.grants, 'grant', 'create', '--grantor-iss', IDP, '--grantor', 'alice', '--client', id, '--scope', 'mail.read', '--audience', MAIL).id
  // Another key is registered: the grantor has to confirm it.
  await servers.grants.apply(agents(keys))
  browser = await launch(...PICTURE_FLAGS)
  for (const [place, server] of Object.entries(servers)) sessions[place] = await session(browser, server)
})

after(async () => {
  await browser?.close()
  for (const server of Object.values(servers)) await server.stop()
})

const mail = encodeURIComponent(MAIL)
const idp = encodeURIComponent(IDP)

/** Pages with data, and what is done there before they are examined. */
const FILLED = {
  overview: '',
  approvals: '/approvals',
  decided: '/approvals?tab=decided',
  approval: () => `/approvals/${waiting}`,
  delegations: '/delegations',
  delegation: '/delegations/assistant-of-alice',
  cut: '/delegations/assistant-of-alice/cut',
  agents: '/agents',
  'agents-filtered': '/agents?q=a&state=enabled',
  agent: '/agents/summarizer',
  'agent-delegations': '/agents/summarizer?tab=delegations',
  'agent-activity': '/agents/summarizer?tab=activity',
  'agent-keys': '/agents/summarizer?tab=keys',
  'agent-disable': '/agents/summarizer/disable',
  'agent-revoke-all': '/agents/summarizer/revoke-all',
  'set-up': '/agents/new',
  check: `/check?client=assistant&subject=alice&subject_iss=${idp}&audience=${mail}&scope=mail.read`,
  'check-refused': `/check?client=archiver&subject=alice&subject_iss=${idp}`,
  connections: '/connections',
  registry: '/registry/clients',
  'registry-keys': '/registry/keys',
  'registry-issuers': '/registry/issuers',
  'registry-resources': '/registry/resources',
  'registry-providers': '/registry/providers',
  'registry-client': '/registry/clients/assistant',
  'registry-issuer': `/registry/issuers/${idp}`,
  settings: '/settings',
  me: '/me',
  help: '/help',
  tree: '/delegations?view=tree',
  filtered: '/delegations?state=active&delegator_sub=no-such-user',
  missing: '/delegations/none',
}

/** Pages of a new server, and of questions that nothing answers. */
const EMPTY = {
  'empty-overview': '',
  'empty-approvals': '/approvals',
  'empty-delegations': '/delegations',
  'empty-agents': '/agents',
  'empty-chains': '/chains',
  'empty-sinks': '/sinks',
  'empty-grants': '/standing-grants',
  'empty-connections': '/connections',
  'empty-registry': '/registry/resources',
  'empty-check': '/check',
}

/** Standing grants: one is active, and one is suspended. */
const GRANTS = {
  grants: '/standing-grants',
  grant: () => `/standing-grants/${grants.assistant}`,
  'grant-suspended': () => `/standing-grants/${grants.archiver}`,
  'grant-revoke': () => `/standing-grants/${grants.assistant}/revoke`,
  'grant-new': '/standing-grants/new',
  'grant-preview': `/standing-grants/new?preview=yes&client_id=assistant&scopes=mail.read&audiences=${mail}&grantor_iss=${idp}&grantor_sub=alice`,
}

/** Forms whose answers are pages, too. */
const ANSWERS = {
  'settings-examined': { at: '/settings', act: page => page.getByRole('button', { name: 'Examine this server' }).click(), shown: /Nothing is wrong/ },
  'set-up-planned': {
    at: '/agents/new',
    act: async page => {
      await page.getByLabel('id', { exact: true }).fill('planner')
      await page.getByLabel('authenticates by').selectOption('client_secret_basic')
      await page.getByLabel('scopes').fill('mail.read')
      await page.getByLabel('audiences').fill(MAIL)
      await page.getByRole('button', { name: 'Write the manifest' }).click()
    },
    shown: /It can be applied/,
  },
  'set-up-refused': {
    at: '/agents/new',
    act: async page => {
      await page.getByLabel('id', { exact: true }).fill('planner')
      await page.getByLabel('scopes').fill('mail.fly')
      await page.getByRole('button', { name: 'Write the manifest' }).click()
    },
    shown: /cannot be applied/,
  },
}

/** Pages of which pictures are kept: the others repeat their parts. */
const PICTURES = ['overview', 'approvals', 'approval', 'delegations', 'delegation', 'cut', 'agents', 'agent', 'agent-delegations', 'agent-keys', 'agent-disable', 'set-up-planned', 'check', 'check-refused', 'connections', 'registry', 'registry-client', 'settings', 'me']

async function examine(place, name, open) {
  const { page, context, complaints } = await visit(place)
  await assertValid(await open(page), name)
  await assertFits(page, name)
  await assertAccessible(page, name)
  const differing = PICTURES.includes(name) ? await differences(page, name) : []
  assert.deepEqual(complaints, [])
  await context.close()
  assert.deepEqual(differing, [])
}

for (const [place, pages] of Object.entries({ filled: FILLED, empty: EMPTY, grants: GRANTS })) {
  describe(`pages of a server: ${place}`, () => {
    for (const [name, path] of Object.entries(pages)) {
      test(`${name} is accessible, valid, and fits, in light and dark`, () =>
        examine(place, name, async page => {
          const answer = await page.goto(`${servers[place].issuer}/console${typeof path === 'function' ? path() : path}`)
          assert.equal(answer.status(), name === 'missing' ? 404 : 200)
          return answer.text()
        }))
    }
  })
}

describe('answers to forms', () => {
  for (const [name, { at, act, shown }] of Object.entries(ANSWERS)) {
    test(`${name} is accessible, valid, and fits, in light and dark`, () =>
      examine('filled', name, async page => {
        await page.goto(`${servers.filled.issuer}/console${at}`)
        const answering = page.waitForResponse(response => response.request().method() === 'POST')
        await act(page)
        const answer = await answering
        // The response is there before the browser shows it.
        await shows(page, shown)
        return answer.text()
      }))
  }
})

test('an agent is found, examined and stopped by keys alone', async () => {
  const { page, context, complaints } = await visit('filled')
  await page.goto(`${servers.filled.issuer}/console`)
  const press = async (...keys) => {
    for (const key of keys) await page.keyboard.press(key)
  }
  await press('g', 'a')
  await page.waitForURL('**/console/agents')
  await press('c', 'Enter')
  await page.waitForURL('**/console/agents/new')
  // The first one leaves the field.
  await press('Escape', 'Escape')
  await page.waitForURL('**/console/agents')
  await page.locator('tr[data-row]', { hasText: 'travel-bot' }).locator('a').first().focus()
  await press('Enter')
  await page.waitForURL('**/console/agents/travel-bot')
  await press('x', 'Enter')
  await page.waitForURL('**/travel-bot/disable')
  assert.match(await main(page), /Affects \d+ delegations? and \d+ tokens?/)
  await press('x', 'Enter')
  await page.waitForURL('**/console/agents/travel-bot')
  assert.match(await main(page), /disabled/)
  assert.deepEqual(complaints, [])
  await context.close()
})
