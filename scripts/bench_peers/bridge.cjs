// A plain Node bridge, as somebody would write it with the well-known packages, for scripts/bench: `ws`, `protobufjs`,
// `ioredis`. One socket and one object per user, one write per user every two seconds.
//
// Tuned as its author would: decoders are built once (and 64-bit ids read as numbers), no compression, no masking work
// in the receiver, writes of one turn of the loop go out as one pipeline, symbols are read once per server, not per user.
// It has no fences, no reconciliation, no backoff and no freshness: what it does beside ours is the daily work only.
//
//   node bridge.cjs FILE      {"url", "redis", "clientId", "clientSecret", "protos", "users": [{"user", "account", "token"}, …]}
//
// Says {"ready":true}, then answers lines on stdin: {"to": n} connects until there are n users; {"do": "count"} tells
// how many price events came and how many records were written. Ends when stdin closes.
'use strict'

const fs = require('node:fs')
const readline = require('node:readline')
const Redis = require('ioredis')
const { Wire } = require('./wire.cjs')
const { User } = require('./user.cjs')

const AT_ONCE = 100

async function main (parameters) {
  const wire = new Wire(parameters.protos)
  const redis = new Redis(parameters.redis, { enableAutoPipelining: true, lazyConnect: true })
  await redis.connect()
  const totals = { events: 0, written: 0, failed: 0 }
  const shared = { ...parameters, wire, redis, totals, symbols: new Map() }
  const users = []

  async function grow (to) {
    while (users.length < to) {
      const newest = parameters.users.slice(users.length, Math.min(to, users.length + AT_ONCE))
      if (newest.length === 0) throw new Error(`no more than ${users.length} users are known`)
      const made = newest.map((each) => new User(shared, each))
      await Promise.all(made.map((user) => user.logIn()))
      users.push(...made)
    }
  }

  say({ ready: true })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    if (command.to !== undefined) await grow(command.to)
    say({ users: users.length, ...totals })
  }
  process.exit(0)
}

function say (words) {
  process.stdout.write(`${JSON.stringify(words)}\n`)
}

main(JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))).catch((error) => {
  console.error(error)
  process.exit(1)
})
