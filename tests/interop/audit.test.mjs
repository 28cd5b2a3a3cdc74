// The output of the audit log, checked with independent tools: webhooks with the library of Standard Webhooks, SARIF
// with its JSON schema.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import Ajv from 'ajv'
import { Webhook } from 'standardwebhooks'

import { World } from './world.mjs'

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const SCHEMA = fileURLToPath(
  new URL('node_modules/@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json', import.meta.url),
)

describe('the audit log goes out', { timeout: 120_000 }, () => {
  let world
  let receiver
  const got = []
  before(async () => {
    receiver = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request.setEncoding('utf8')) body += chunk
      got.push({ headers: request.headers, body })
      response.writeHead(204).end()
    }).listen(0, '127.0.0.1')
    await once(receiver, 'listening')
    world = await World.make({ settings: {}, alg: 'ES256', rsa: 'RS256' })
  })
  after(async () => {
    receiver?.close()
    await world?.stop()
  })

  const refused = async () => {
    const response = await fetch(`${world.server.issuer}/oauth/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${btoa('email-svc:wrong')}` },
      body: new URLSearchParams({ grant_type: 'client_credentials' }),
    })
    assert.equal(response.status, 401)
  }

  test('standardwebhooks verifies every event that a sink gets', async () => {
    const url = `http://127.0.0.1:${receiver.address().port}/`
    await world.server.apply({ sinks: [{ id: 'here', url, secret: SECRET, from_seq: 0 }] })
    await refused()
    const webhook = new Webhook(SECRET)
    for (;;) {
      const events = got.map(({ headers, body }) => webhook.verify(body, headers))
      assert.deepEqual(events.map(event => event.seq), [...events.keys()])
      if (events.some(event => event.outcome === 'refused')) break
      await new Promise(resolve => setTimeout(resolve, 100))
    }
    const [{ headers, body }] = got
    assert.throws(() => webhook.verify(`${body} `, headers))
    assert.throws(() => new Webhook('whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA').verify(body, headers))
  })

  const validator = async () => {
    const ajv = new Ajv({ schemaId: 'id', unknownFormats: 'ignore', logger: false })
    ajv.addMetaSchema(createRequire(import.meta.url)('ajv/lib/refs/json-schema-draft-04.json'))
    return ajv.compile(JSON.parse(await readFile(SCHEMA, 'utf8')))
  }

  test('SARIF fits its schema, with results and without', async () => {
    await refused()
    const valid = await validator()
    for (const [name, filters] of [['some', []], ['none', ['--filter', 'client_id=unknown']]]) {
      const file = join(world.server.folder, `log-${name}.sarif`)
      await world.server.run('audit', 'export', '--format', 'sarif', '-o', file, ...filters)
      const log = JSON.parse(await readFile(file, 'utf8'))
      assert.equal(log.runs.length, 1)
      assert(Array.isArray(log.runs[0].results))
      for (const rule of log.runs[0].tool.driver.rules) assert(rule.fullDescription.text && rule.help.text)
      assert(valid(log), JSON.stringify(valid.errors))
      if (name === 'none') {
        assert.deepEqual(log.runs[0].results, [])
      } else {
        assert(log.runs[0].results.length > 0)
        log.runs[0].results[0].level = 'critical'
        assert(!valid(log), 'the schema can fail')
      }
    }
  })

  test('SARIF of a session fits its schema', async () => {
    const valid = await validator()
    const hop = await world.firstHop()
    await world.exchange(world.userProxy, hop)
    // More scope than the delegation grants is a finding (AC-004).
    await assert.rejects(world.exchange(world.userProxy, { ...hop, scope: 'mail.read calendar.read' }))
    const { items } = JSON.parse(await world.server.run('session', 'list', '--json'))
    const file = join(world.server.folder, 'session.sarif')
    await world.server.run('session', 'export', items[0].id, '--format', 'sarif', '-o', file)
    const log = JSON.parse(await readFile(file, 'utf8'))
    assert(valid(log), JSON.stringify(valid.errors))
    assert.equal(log.runs.length, 1)
    assert(items[0].findings > 0)
    assert.equal(log.runs[0].results.length, items[0].findings)
  })
})
