// The document that readers get, with the fields of ours: positions at the newest prices, profit in the deposit currency.
// Prices and money are plain numbers, rounded where they are made.
'use strict'

const WIRE = 100000 // prices come in 1/100000
const UNITS = 100 // volumes come in 1/100 of a unit
const HORIZON_MS = 10000

function makeRecord (user, version) {
  const { trader, currency, symbols, quotes } = user
  const scale = 10 ** trader.moneyDigits
  const round = (amount) => Math.round(amount * scale) / scale
  let unrealized = 0
  let margin = 0
  const positions = user.positions.map((each) => {
    const symbol = symbols.get(each.tradeData.symbolId)
    const quote = quotes.get(each.tradeData.symbolId)
    const buys = each.tradeData.tradeSide === 1
    const units = each.tradeData.volume / UNITS
    const price = quote === undefined ? null : (buys ? quote.bid : quote.ask) / WIRE
    const swap = each.swap / scale
    const commission = each.commission / scale
    let profit = null
    const rate = price === null ? null : conversion(user, symbol.quote, currency)
    if (rate === null) {
      unrealized = null
    } else {
      profit = round((price - each.price) * units * (buys ? 1 : -1) * rate + swap + commission)
      if (unrealized !== null) unrealized += profit
    }
    margin += each.usedMargin / scale
    return {
      id: String(each.positionId),
      symbol: symbol.name,
      side: buys ? 'buy' : 'sell',
      units,
      lots: each.tradeData.volume / symbol.lotSize,
      priceDigits: symbol.digits,
      entryPrice: each.price,
      currentPrice: price,
      stopLoss: each.stopLoss || null,
      takeProfit: each.takeProfit || null,
      swap,
      commission,
      unrealizedPnl: profit,
      usedMargin: each.usedMargin / scale,
      openedAt: each.tradeData.openTimestamp
    }
  })
  const balance = trader.balance / scale
  const equity = unrealized === null ? null : round(balance + unrealized)
  const now = Date.now()
  return JSON.stringify({
    schema: 1,
    broker: 'ctrader',
    environment: 'demo',
    accountId: String(user.account),
    login: String(trader.traderLogin),
    brokerTitle: trader.brokerName,
    canTrade: trader.accessRights === 0,
    status: 'live',
    reason: null,
    currency,
    moneyDigits: trader.moneyDigits,
    leverage: trader.leverageInCents / 100,
    balance,
    equity,
    unrealizedPnl: unrealized === null ? null : round(unrealized),
    usedMargin: round(margin),
    freeMargin: equity === null ? null : round(equity - margin),
    marginLevel: equity === null || margin === 0 ? null : Math.round(equity / margin * 10000) / 100,
    positions,
    orders: [],
    fence: 1,
    version,
    asOf: user.heardAt,
    confirmedAt: user.confirmedAt,
    staleAfter: user.heardAt + HORIZON_MS,
    lastUpdate: user.heardAt,
    _cache: true,
    _cacheTimestamp: now
  })
}

// What one unit of `from` is worth in `to`, at bid, by the prices at hand: directly or through one other currency.
function conversion (user, from, to) {
  if (from === to) return 1
  const direct = hop(user, from, to)
  if (direct !== null) return direct
  for (const between of ['USD', 'EUR']) {
    const first = hop(user, from, between)
    const second = first === null ? null : hop(user, between, to)
    if (second !== null) return first * second
  }
  return null
}

function hop (user, from, to) {
  for (const [id, quote] of user.quotes) {
    const symbol = user.symbols.get(id)
    if (symbol.base === from && symbol.quote === to) return quote.bid / WIRE
    if (symbol.base === to && symbol.quote === from) return WIRE / quote.bid
  }
  return null
}

module.exports = { makeRecord }
