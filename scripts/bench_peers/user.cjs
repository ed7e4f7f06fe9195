// One user of the plain Node bridge: a socket, what the account holds, two timers. Prices are applied as they come; the
// record is made and written every two seconds when something changed.
'use strict'

const crypto = require('node:crypto')
const WebSocket = require('ws')
const { makeRecord } = require('./record.cjs')

const FLUSH_MS = 2000
const HEARTBEAT_MS = 10000

class User {
  constructor (shared, { user, account, token }) {
    this.shared = shared
    this.account = account
    this.token = token
    this.key = `ctrader_account_${crypto.createHash('sha256').update(user).digest('hex')}`
    this.quotes = new Map() // symbol id -> {bid, ask}
    this.positions = []
    this.dirty = false
    this.version = 0
    this.waiting = new Map() // clientMsgId -> what to do with the answer
    this.asked = 0
  }

  async logIn () {
    const { clientId, clientSecret } = this.shared
    const ctidTraderAccountId = this.account
    await this.connect()
    await this.ask('ProtoOAApplicationAuthReq', { clientId, clientSecret })
    await this.ask('ProtoOAAccountAuthReq', { ctidTraderAccountId, accessToken: this.token })
    this.trader = (await this.ask('ProtoOATraderReq', { ctidTraderAccountId })).trader
    const snapshot = await this.ask('ProtoOAReconcileReq', { ctidTraderAccountId })
    await this.know(this.trader.brokerName)
    this.currency = this.assets.get(this.trader.depositAssetId)
    this.positions = snapshot.position
    this.confirmedAt = Date.now()
    const symbolId = [...new Set(this.positions.map((each) => each.tradeData.symbolId))]
    await this.ask('ProtoOASubscribeSpotsReq', { ctidTraderAccountId, symbolId })
    this.heartbeats = setInterval(() => this.socket.send(this.shared.wire.heartbeat), HEARTBEAT_MS)
    this.flushes = setInterval(() => this.flush(), FLUSH_MS)
  }

  connect () {
    this.socket = new WebSocket(this.shared.url, { perMessageDeflate: false, skipUTF8Validation: true })
    this.socket.on('message', (data) => this.take(data))
    this.socket.on('close', () => { throw new Error(`the socket of ${this.account} was closed`) })
    return new Promise((resolve, reject) => this.socket.once('open', resolve).once('error', reject))
  }

  // Symbols and assets of a broker's server: the first user of it reads them, the others wait for that.
  async know (server) {
    const { symbols } = this.shared
    if (!symbols.has(server)) symbols.set(server, this.readSymbols())
    const known = await symbols.get(server)
    this.assets = known.assets
    this.symbols = known.symbols
  }

  async readSymbols () {
    const ctidTraderAccountId = this.account
    const listed = (await this.ask('ProtoOASymbolsListReq', { ctidTraderAccountId })).symbol
    const assets = (await this.ask('ProtoOAAssetListReq', { ctidTraderAccountId })).asset
    const symbolId = listed.map((each) => each.symbolId)
    const described = (await this.ask('ProtoOASymbolByIdReq', { ctidTraderAccountId, symbolId })).symbol
    const names = new Map(assets.map((each) => [each.assetId, each.name]))
    const terms = new Map(described.map((each) => [each.symbolId, each]))
    const symbols = new Map(listed.map((each) => [each.symbolId, {
      name: each.symbolName,
      base: names.get(each.baseAssetId),
      quote: names.get(each.quoteAssetId),
      digits: terms.get(each.symbolId).digits,
      lotSize: terms.get(each.symbolId).lotSize
    }]))
    return { assets: names, symbols }
  }

  ask (name, fields) {
    const id = String(++this.asked)
    this.socket.send(this.shared.wire.encode(name, fields, id))
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }))
  }

  take (data) {
    const { wire, totals } = this.shared
    const envelope = wire.envelope.decode(data)
    if (envelope.payloadType === wire.spot.number) {
      this.price(wire.spot.type.decode(envelope.payload))
      totals.events++
      return
    }
    const waiting = this.waiting.get(envelope.clientMsgId)
    if (waiting === undefined) return
    this.waiting.delete(envelope.clientMsgId)
    const kind = wire.byNumber.get(envelope.payloadType)
    const message = kind.type.decode(envelope.payload)
    if (kind.name.endsWith('ErrorRes')) waiting.reject(new Error(`${message.errorCode}: ${message.description}`))
    else waiting.resolve(message)
  }

  price (event) {
    const quote = this.quotes.get(event.symbolId)
    if (quote === undefined) {
      this.quotes.set(event.symbolId, { bid: event.bid, ask: event.ask })
    } else {
      if (event.bid !== 0) quote.bid = event.bid
      if (event.ask !== 0) quote.ask = event.ask
    }
    this.heardAt = Date.now()
    this.dirty = true
  }

  flush () {
    if (!this.dirty) return
    this.dirty = false
    const { redis, totals } = this.shared
    redis.set(this.key, makeRecord(this, ++this.version)).then(
      () => { totals.written++ },
      () => { totals.failed++; this.dirty = true }
    )
  }
}

module.exports = { User }
