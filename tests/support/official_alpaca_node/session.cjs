// Runs under the Node of the environment that has `@alpacahq/alpaca-trade-api` 3.x: talks to a simulated Alpaca with the
// unmodified client. Started as `node session.cjs <mode> '<json parameters>'`. It prints one line of JSON per part with
// what it saw and then waits for a line on standard input. Modes: `session` (REST and the trading stream), `refused`.
"use strict";

const readline = require("readline");
const Alpaca = require("@alpacahq/alpaca-trade-api");

const parameters = JSON.parse(process.argv[3]);
const WITHIN_MS = 20_000;
const alpaca = new Alpaca({ keyId: parameters.key, secretKey: parameters.secret, baseUrl: parameters.rest });
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const updates = [];

// One part is done; go on when the test says so.
async function tell(seen) {
  process.stdout.write(JSON.stringify(seen) + "\n");
  await lines.next();
}

// The first true answer of `look`, within WITHIN_MS.
async function until(look, what) {
  const last = Date.now() + WITHIN_MS;
  while (Date.now() < last) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`waited in vain for ${what}`);
}

const event = (order, name) =>
  until(() => updates.find((update) => update.order.id === order.id && update.event === name), `${name} of ${order.symbol}`);

const names = (order) => updates.filter((update) => update.order.id === order.id).map((update) => update.event);

// Status, code and words of the error that a call ends in.
async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return [error.response.status, error.response.data.code, error.response.data.message];
  }
  throw new Error("nothing was refused");
}

async function reads() {
  const account = await alpaca.getAccount();
  const assets = await alpaca.getAssets({ asset_class: "us_equity" });
  const clock = await alpaca.getClock();
  const calendar = await alpaca.getCalendar({ start: "2026-11-16", end: "2026-11-22" });
  const history = await alpaca.getPortfolioHistory({ period: "1D", timeframe: "15Min" });
  const configurations = await alpaca.getAccountConfigurations();
  const changed = await alpaca.updateAccountConfigurations({ trade_confirm_email: "none" });
  const list = await alpaca.addWatchlist("mine", ["AAPL"]);
  const longer = await alpaca.addToWatchlist(list.id, "SPY");
  const shorter = await alpaca.deleteFromWatchlist(list.id, "AAPL");
  const renamed = await alpaca.updateWatchlist(list.id, { name: "ours" });
  const lists = await alpaca.getWatchlists();
  await alpaca.deleteWatchlist(list.id);
  await tell({
    account: [account.id, account.account_number, account.status, account.cash, account.equity],
    assets: assets.map((asset) => asset.symbol),
    apple: (await alpaca.getAsset("AAPL")).id === assets[0].id,
    clock: [clock.is_open, new Date(clock.next_close) > new Date(clock.timestamp)],
    calendar: calendar.map((day) => [day.date, day.open, day.close]),
    history: history.timestamp.length === history.equity.length,
    configurations: [configurations.trade_confirm_email, changed.trade_confirm_email],
    watchlists: [longer, shorter].map((each) => each.assets.map((asset) => asset.symbol)),
    renamed: [renamed.name, lists.map((each) => each.name), (await alpaca.getWatchlists()).length],
    empty: [await alpaca.getPositions(), await alpaca.getOrders()],
    noPosition: await refusal(() => alpaca.getPosition("AAPL")),
  });
}

async function orders() {
  const bought = await alpaca.createOrder({
    symbol: "AAPL", qty: 10, side: "buy", type: "market", time_in_force: "day", client_order_id: "node-1",
  });
  const filled = await event(bought, "fill");
  const position = await alpaca.getPosition("AAPL");
  const limit = await alpaca.createOrder({
    symbol: "MSFT", qty: "4", side: "buy", type: "limit", time_in_force: "gtc", limit_price: String(parameters.low),
  });
  await event(limit, "new");
  const moved = await alpaca.replaceOrder(limit.id, { qty: "3", limit_price: String(parameters.low - 1) });
  await event(limit, "replaced");
  const open = await alpaca.getOrders({ status: "open", symbols: "MSFT" });
  await alpaca.cancelOrder(moved.id);
  await event(moved, "canceled");
  const bracket = await alpaca.createOrder({
    symbol: "MSFT", qty: 2, side: "buy", type: "limit", limit_price: parameters.low, time_in_force: "gtc",
    order_class: "bracket", take_profit: { limit_price: parameters.low + 20 },
    stop_loss: { stop_price: parameters.low - 20, limit_price: parameters.low - 21 },
  });
  await event(bracket, "new");
  const trailing = await alpaca.createOrder({
    symbol: "AAPL", qty: 5, side: "sell", type: "trailing_stop", time_in_force: "day", trail_price: "3",
  });
  await event(trailing, "new");
  const rolled = await alpaca.getOrders({ status: "open", nested: true });
  await tell({
    bought: [(await alpaca.getOrderByClientId("node-1")).id === bought.id, filled.order.filled_avg_price],
    fill: [filled.price, filled.qty, filled.position_qty],
    position: [position.symbol, position.qty, position.side, position.avg_entry_price],
    events: [bought, limit, moved].map(names),
    open: open.map((order) => [order.id === moved.id, order.qty, order.limit_price, order.status]),
    trailing: await alpaca.getOrder(trailing.id).then((order) => [order.trail_price, order.hwm, order.stop_price]),
    rolled: rolled.map((order) => [order.symbol, order.type, (order.legs || []).map((leg) => leg.status)]),
    duplicate: await refusal(() => alpaca.createOrder({
      symbol: "MSFT", qty: 1, side: "buy", type: "market", time_in_force: "day", client_order_id: "node-1",
    })),
    tooMuch: await refusal(() => alpaca.createOrder({
      symbol: "SPY", qty: 100000, side: "buy", type: "market", time_in_force: "day",
    })),
  });
}

async function cut(states) {
  states.length = 0;
  await tell({ state: alpaca.trade_ws.state() }); // now the test cuts the stream
  await until(() => states.includes("disconnected"), "the cut");
  const missed = await alpaca.createOrder({ symbol: "F", qty: 1, side: "buy", type: "market", time_in_force: "day" });
  await until(() => alpaca.trade_ws.state() === "connected", "the stream to be back");
  await tell({ missed: (await alpaca.getOrder(missed.id)).status }); // the test waits until the simulator is listened to
  const seen = await alpaca.createOrder({ symbol: "F", qty: 2, side: "buy", type: "market", time_in_force: "day" });
  await event(seen, "fill");
  await tell({ missed: names(missed), seen: names(seen) });
}

async function closing() {
  const account = await alpaca.getAccount();
  await tell({
    account: [account.cash, account.equity, account.initial_margin],
    positions: (await alpaca.getPositions()).map((each) => [each.asset_id, each.symbol, each.qty, each.unrealized_pl]),
    orders: (await alpaca.getOrders()).map((order) => order.id),
  }); // now the test compares with the truth, before anything moves
  const cancelled = await alpaca.cancelAllOrders();
  await until(async () => (await alpaca.getOrders()).length === 0, "no orders");
  const closed = await alpaca.closePosition("AAPL");
  await event(closed, "fill");
  const rest = await alpaca.closeAllPositions();
  for (const { body } of rest) await event(body, "fill");
  await until(async () => (await alpaca.getPositions()).length === 0, "a flat account");
  const fills = await alpaca.getAccountActivities({ activityTypes: ["FILL"], direction: "asc", pageSize: 100 });
  await tell({
    cancelled: cancelled.map((each) => each.status),
    closed: [closed.symbol, closed.side, closed.qty],
    rest: rest.map((each) => [each.symbol, each.status]).sort(),
    fills: fills.map((fill) => [fill.symbol, fill.side, fill.qty, fill.price]),
    executions: fills.map((fill) => fill.id.split("::")[1]),
    streamed: updates.filter((update) => update.execution_id).map((update) => update.execution_id),
    cash: (await alpaca.getAccount()).cash,
  });
}

async function session() {
  await reads();
  const states = [];
  alpaca.trade_ws.onStateChange((state) => states.push(state));
  alpaca.trade_ws.onOrderUpdate((update) => updates.push(update));
  alpaca.trade_ws.onConnect(() => alpaca.trade_ws.subscribe(["trade_updates"]));
  alpaca.trade_ws.connect();
  await until(() => alpaca.trade_ws.state() === "connected", "the stream");
  await tell({ states: [...states] }); // the test waits until the simulator is listened to
  await orders();
  await cut(states);
  await closing();
  alpaca.trade_ws.disconnect();
}

async function refused() {
  const errors = [];
  alpaca.trade_ws.onError((error) => errors.push(error));
  alpaca.trade_ws.connect();
  await until(() => alpaca.trade_ws.state() === "disconnected", "the end of the stream");
  await tell({ rest: (await refusal(() => alpaca.getAccount()))[0], errors });
}

({ session, refused })[process.argv[2]]().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
