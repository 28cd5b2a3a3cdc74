// openapi.yaml, tested with common generators: the types of openapi-typescript compile, and have what a client needs.

import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import openapiTS, { astToString } from 'openapi-typescript'
import ts from 'typescript'

const DESCRIPTION = new URL('../../openapi.yaml', import.meta.url)

const CLIENT = `
import type { components, operations, paths } from './actchain.js'

type Ok<T> = T extends { responses: { 200: { content: { 'application/json': infer Body } } } } ? Body : never
export const token: Ok<operations['requestToken']> = {
  access_token: 'a.b.c', token_type: 'DPoP', expires_in: 300,
}
export const lifetime: number = token.expires_in
export const key: components['schemas']['PublicKey'] = { kty: 'EC' }
export const wanted: components['schemas']['NewDelegation'] = { delegate: 'planner', scopes: ['mail.read'] }
export type Approve = paths['/delegate/{id}/approve']['post']
// @ts-expect-error there is no such path
export type Nothing = paths['/nothing']
// @ts-expect-error a number is no client
export const wrong: components['schemas']['NewDelegation'] = { delegate: 7 }
`

describe('openapi.yaml', { timeout: 120_000 }, () => {
  let folder
  before(async () => { folder = await mkdtemp(join(tmpdir(), 'actchain-openapi-')) })
  after(() => rm(folder, { recursive: true, force: true }))

  test('openapi-typescript makes types of it that compile and say what is sent', async () => {
    const types = astToString(await openapiTS(DESCRIPTION))
    const client = join(folder, 'client.ts')
    await writeFile(join(folder, 'actchain.ts'), types)
    await writeFile(client, CLIENT)
    const program = ts.createProgram([client], {
      strict: true,
      noEmit: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      types: [],
    })
    const found = ts.getPreEmitDiagnostics(program)
    assert.deepEqual(found.map(one => ts.flattenDiagnosticMessageText(one.messageText, '\n')), [])
  })
})
