// The five jobs of people in the console: by keys alone, with as few as possible, and by clicks without scripts.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { launch, main, newPage, shows } from './browser.mjs'
import { Filled, IDP, MAIL } from './filled.mjs'
import { signIn, typeName } from './provider.mjs'

let filled, browser

before(async () => {
  filled = await Filled.start()
  browser = await launch()
})

after(async () => {
  await browser?.close()
  await filled?.stop()
})

const address = path => `${filled.server.issuer}/console${path}`
const proof = /This server verified at .* that the document is event \d+ of the \d+ events under the root/

/** A person at work, whose key presses and clicks are counted. Pasted and typed text does not count. */
class Person {
  static async arrive(name, path, options = {}) {
    const visitor = await newPage(browser, filled.server, { others: [filled.idp.issuer], ...options })
    await signIn(visitor.page, filled.server, name, '/console')
    if (path) await visitor.page.goto(address(path))
    return Object.assign(new Person(), visitor)
  }

  count = 0

  async press(...keys) {
    for (const key of keys) {
      this.count += 1
      await this.page.keyboard.press(key)
    }
  }

  /** Presses a key until this has the focus. */
  async reach(locator, key = 'Tab') {
    const focused = () => locator.evaluate(element => element === document.activeElement)
    for (let presses = 0; !(await focused()); presses += 1) {
      assert(presses < 20, `${locator} is not reached by ${key}`)
      await this.press(key)
    }
  }

  /** Presses keys that lead to another page. */
  async go(pattern, ...keys) {
    await Promise.all([this.page.waitForURL(pattern), this.press(...keys)])
  }

  paste(text) {
    return this.page.keyboard.insertText(text)
  }

  async click(locator) {
    this.count += 1
    await locator.click()
  }

  link(name, exact = true) {
    return this.page.getByRole('link', { name, exact })
  }

  button(name) {
    return this.page.getByRole('button', { name, exact: true })
  }

  /** Ends the job. It has not taken more than so many. */
  async leave(most, name) {
    assert(this.count <= most, `${name}: ${this.count} instead of ${most}`)
    assert.deepEqual(this.complaints, [])
    await this.context.close()
  }
}

test('a request of a link is approved by two keys', async () => {
  const id = await filled.request()
  const person = await Person.arrive('alice', `/approvals/${id}`)
  await person.press('a')
  await person.go(`**/delegations/${id}`, 'Enter')
  assert.match(await main(person.page), /active/)
  await person.leave(2, 'approving')
})

test('a request is found from any page and approved by five keys', async () => {
  const id = await filled.request()
  const person = await Person.arrive('alice', '/help')
  await person.go('**/approvals', 'g', 'i')
  await person.go(`**/approvals/${id}`, 'Enter')
  await person.press('a')
  await person.go(`**/delegations/${id}`, 'Enter')
  assert.match(await main(person.page), /active/)
  await person.leave(5, 'finding and approving')
})

test('a token is pasted and its chain is cut by six keys', async () => {
  const person = await Person.arrive('ada')
  await person.press('/')
  await person.paste(filled.chain.access_token)
  await person.go('**/chains/*?hop=*', 'Enter')
  await person.press('x')
  await person.go('**/archive/cut', 'Enter')
  assert.match(await main(person.page), /Ends 1 delegation of 1 agent and 1 token[\s\S]*introspection\s+at once/)
  await person.press('x', 'Enter')
  await person.page.getByRole('heading', { name: 'archiver is cut' }).waitFor()
  assert.match(await main(person.page), /Ended 1 delegation and 1 token/)
  await person.leave(6, 'cutting')
})

test('an auditor takes the evidence of an event from a saved link by five keys', async () => {
  const person = await Person.arrive('max', '/events?action=delegation.step&from=2026-01-01T00:00:00Z&to=2099-12-31T00:00:00Z')
  await person.go(/\/events\/\d+$/, 'Enter')
  await person.go('**?tab=content', ']')
  await person.go('**?tab=forensics', ']')
  assert.match(await main(person.page), proof)
  await person.press('e')
  const [file] = await Promise.all([person.page.waitForEvent('download'), person.press('Enter')])
  assert.match(file.suggestedFilename(), /^evidence-event-\d+\.tar\.gz$/)
  await person.leave(5, 'proving')
})

test('an account is connected by six keys and disconnected by six', async () => {
  const person = await Person.arrive('alice')
  const { page } = person
  await person.go('**/connections', 'g', 'v')
  await person.press('c')
  await person.go('**/connections/new?provider=accounts', 'Enter')
  await person.reach(person.button('Begin'))
  await person.press('Enter')
  const leaving = person.link('Continue to 127.0.0.1')
  await leaving.waitFor()
  await person.reach(leaving)
  await person.press('Enter')
  await typeName(page, 'alice-at-accounts')
  await page.waitForURL(/\/console\/connections\/[0-9a-f-]{36}$/)
  assert.match(await main(page), /active/)
  assert(person.count <= 6, `connecting: ${person.count}`)
  const connection = page.url()
  person.count = 0
  await page.goto(address('/connections'))
  await person.reach(page.locator('tr[data-row] a').first(), 'j')
  await person.go(connection, 'Enter')
  await person.press('x')
  await person.go('**/disconnect', 'Enter')
  await person.reach(person.button('Disconnect'), 'x')
  await person.go(connection, 'Enter')
  assert.match(await main(page), /disconnected/)
  await person.leave(6, 'disconnecting')
})

test('an agent is set up and an exchange is checked by keys alone', async () => {
  const person = await Person.arrive('ada')
  const { page } = person
  await person.go('**/agents', 'g', 'a')
  await person.press('c')
  await person.go('**/agents/new', 'Enter')
  assert(person.count <= 4, `to the form: ${person.count}`)
  await person.reach(page.getByLabel('id', { exact: true }))
  assert(person.count <= 4, `to its first field: ${person.count}`)
  await person.paste('planner')
  await person.press('Enter')
  await page.getByRole('heading', { name: 'Plan' }).waitFor()
  person.count = 0
  await person.go('**/check', 'g', 'h')
  await person.reach(page.locator('#client-named'))
  assert(person.count <= 2, `to the first question: ${person.count}`)
  await person.paste('archiver')
  await person.reach(page.getByLabel('for the user'))
  await person.paste('alice')
  await person.reach(page.getByLabel('of the issuer'))
  await page.keyboard.press('End')
  await person.reach(person.button('Check'))
  await person.press('Enter')
  await page.getByRole('heading', { name: 'It would be refused' }).waitFor()
  assert.match(await main(page), /✓ The agent is registered and enabled\.[\s\S]*✗ Not: [\s\S]*What to do: /)
  await person.leave(10, 'checking')
})

const WITHOUT = { javaScriptEnabled: false }

test('without scripts, a token is pasted and its delegation is cut by two clicks', async () => {
  const person = await Person.arrive('ada', '', WITHOUT)
  const { page } = person
  await page.getByLabel('Go to an id, a key or a token').fill(filled.first.access_token)
  await page.keyboard.press('Enter')
  await page.waitForURL('**/chains/*?hop=*')
  await person.click(page.locator('li[aria-current]').getByRole('link', { name: 'Cut here…' }))
  await shows(page, /Ends \d+ delegations? of \d+ agents? and \d+ tokens?/)
  await person.click(page.getByRole('button', { name: /^Cut \d/ }))
  await shows(page, /assistant is cut[\s\S]*Ended \d+ delegations? and \d+ tokens?/)
  await person.leave(2, 'cutting')
})

test('without scripts, an auditor comes to the proof of an event by two clicks', async () => {
  const person = await Person.arrive('max', '/events?action=delegation.step&from=2026-01-01T00:00:00Z&to=2099-12-31T00:00:00Z', WITHOUT)
  await person.click(person.page.locator('tr[data-row] a').first())
  await person.click(person.link('forensics'))
  await shows(person.page, proof)
  await person.leave(2, 'proving')
})

test('without scripts, an account is disconnected by three clicks', async () => {
  const person = await Person.arrive('ada', '/connections', WITHOUT)
  await person.click(person.page.locator(`tr[data-row] a[href$="${filled.connection}"]`))
  await person.click(person.link('Disconnect…'))
  await person.click(person.button('Disconnect'))
  await shows(person.page, /disconnected/)
  await person.leave(3, 'disconnecting')
})

test('without scripts, an agent is set up and an exchange is checked by clicks', async () => {
  const person = await Person.arrive('ada', '/agents', WITHOUT)
  const { page } = person
  await person.click(person.link('Set up an agent'))
  await page.getByLabel('id', { exact: true }).fill('planner')
  await page.getByLabel('scopes').fill('mail.read')
  await person.click(person.button('Write the manifest'))
  await shows(page, /id: planner[\s\S]*It can(not)? be applied/)
  assert(person.count <= 3, `setting up: ${person.count}`)
  person.count = 0
  await person.click(person.link('Check'))
  await page.locator('#client-named').fill('archiver')
  await page.locator('#audience-named').fill(MAIL)
  await page.getByLabel('for the user').fill('alice')
  await page.getByLabel('of the issuer').selectOption(IDP)
  await person.click(person.button('Check'))
  await shows(page, /It would be refused[\s\S]*✗ Not: [\s\S]*What to do: /)
  await person.leave(2, 'checking')
})
