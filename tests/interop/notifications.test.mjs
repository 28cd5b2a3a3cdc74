// Notifications, received by independent software: mail by Nodemailer's server, webhooks by the library of Standard
// Webhooks.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { after, before, describe, test } from 'node:test'

import { SMTPServer } from 'smtp-server'
import { Webhook } from 'standardwebhooks'

import { IDP, World } from './world.mjs'

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const PASSWORD = 'password of the mail server'

describe('people hear of requests', { timeout: 120_000 }, () => {
  let world
  before(async () => {
    world = await World.make({ settings: {}, alg: 'ES256', rsa: 'RS256' })
  })
  after(async () => world?.stop())

  const ask = async () => {
    const asked = await world.atManagementApi(world.batchJob, 'POST', '/delegate', {
      delegator: { iss: IDP, sub: 'bob' },
      scopes: ['mail.read'],
      reason: 'words of the agent',
    })
    assert.equal(asked.status, 202)
    return (await asked.json()).id
  }

  test('smtp-server accepts a mail with a login, and the mail has the link', async () => {
    let accept
    const accepted = new Promise(resolve => (accept = resolve))
    const server = new SMTPServer({
      hideSTARTTLS: true,
      allowInsecureAuth: true,
      onAuth: ({ username, password }, session, done) =>
        username === 'actchain' && password === PASSWORD ? done(null, { user: username }) : done(new Error('wrong')),
      onData: async (stream, session, done) => {
        let text = ''
        for await (const chunk of stream.setEncoding('utf8')) text += chunk
        accept({ text, to: session.envelope.rcptTo.map(one => one.address), user: session.user })
        done(null, 'kept')
      },
    })
    server.listen(0, '127.0.0.1')
    await once(server.server, 'listening')
    try {
      const mail = {
        from: 'actchain <actchain@as.example.com>',
        username: 'actchain',
        encryption: 'none',
        recipients: [{ iss: IDP, sub: 'bob', mail: 'bob@example.com' }],
      }
      const url = `smtp://127.0.0.1:${server.server.address().port}`
      await world.server.apply({ sinks: [{ id: 'mail', url, secret: PASSWORD, notification: { wait: 0, mail } }] })
      const id = await ask()
      const { text, to, user } = await accepted
      assert.deepEqual([to, user], [['bob@example.com'], 'actchain'])
      assert.match(text, /^Subject: A request waits for your decision\r$/m)
      // Long lines are folded (quoted-printable).
      const lines = text.replaceAll('=\r\n', '').split('\r\n')
      assert(lines.includes(`${world.as.issuer}/console/approvals/${id}`), text)
      assert(!text.includes('words of the agent'), text)
    } finally {
      await new Promise(resolve => server.close(resolve))
    }
  })

  test('standardwebhooks verifies a notification', async () => {
    let receive
    const received = new Promise(resolve => (receive = resolve))
    const receiver = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request.setEncoding('utf8')) body += chunk
      response.writeHead(204).end()
      receive({ headers: request.headers, body })
    }).listen(0, '127.0.0.1')
    await once(receiver, 'listening')
    try {
      const url = `http://127.0.0.1:${receiver.address().port}/`
      await world.server.apply({ sinks: [{ id: 'chat', url, secret: SECRET, notification: { wait: 0 } }] })
      const id = await ask()
      const { headers, body } = await received
      const { type, data } = new Webhook(SECRET).verify(body, headers)
      assert.deepEqual([type, data.user], ['decision.waiting', { iss: IDP, sub: 'bob' }])
      assert.deepEqual(data.items.map(item => [item.kind, item.delegation_id]), [['request', id]])
      assert.throws(() => new Webhook(SECRET).verify(`${body} `, headers))
    } finally {
      receiver.close()
    }
  })
})
