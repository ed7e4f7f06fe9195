"""Runs inside the environment of `alpaca-py`: talks to a simulated Alpaca with the unmodified client.

Started as `python official_alpaca_script.py <mode> '<json parameters>'`. It prints one line of JSON per part with what
it saw, and then waits for a line on standard input: what must happen at the broker meanwhile is the test's affair.
It must not import anything of ours. Modes: `session` (REST and the trading stream), `data` (the stock data stream),
`refused` (REST and stream with the given credentials, which are wrong).
"""

import json
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # the client still uses websockets.legacy

from alpaca.common.exceptions import APIError  # noqa: E402
from alpaca.data.live import StockDataStream  # noqa: E402
from alpaca.trading.client import TradingClient  # noqa: E402
from alpaca.trading.enums import (  # noqa: E402
    AssetClass,
    OrderClass,
    OrderSide,
    QueryOrderStatus,
    TimeInForce,
)
from alpaca.trading.requests import (  # noqa: E402
    ClosePositionRequest,
    CreateWatchlistRequest,
    GetAssetsRequest,
    GetCalendarRequest,
    GetOrderByIdRequest,
    GetOrdersRequest,
    GetPortfolioHistoryRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
    StopLossRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
    UpdateWatchlistRequest,
)
from alpaca.trading.stream import TradingStream  # noqa: E402

PARAMETERS = json.loads(sys.argv[2])
KEYS = (PARAMETERS["key"], PARAMETERS["secret"])
WITHIN_S = 20


def tell(**seen):
    """One part is done; go on when the test says so."""
    print(json.dumps(seen, default=str), flush=True)
    sys.stdin.readline()


def until(look, what):
    """The first true answer of `look`, within WITHIN_S."""
    last = time.monotonic() + WITHIN_S
    while time.monotonic() < last:
        if found := look():
            return found
        time.sleep(0.01)  # until the next look
    raise TimeoutError(f"waited in vain for {what}")


def refusal(call):
    """Status, code and words of the error that `call` ends in."""
    try:
        call()
    except APIError as error:
        body = json.loads(str(error))
        return [error.status_code, body.get("code"), body["message"]]
    raise AssertionError("nothing was refused")


class Heard:
    """A stream of the client in a thread of its own, and all that it handed over, in order."""

    def __init__(self, stream):
        self.stream = stream
        self.events = []
        self._thread = threading.Thread(target=stream.run, daemon=True)

    async def take(self, event):
        self.events.append(event)

    def start(self):
        self._thread.start()
        until(lambda: self.stream._running, "the stream")

    def stop(self):
        self.stream.stop()
        self._thread.join(WITHIN_S)
        return not self._thread.is_alive()

    def event(self, order, name):
        """The update `name` of an order, once it has come."""
        return until(
            lambda: next((e for e in self.events if e.order.id == order.id and e.event == name), None),
            f"{name} of {order.symbol}",
        )

    def names(self, order):
        return [event.event for event in self.events if event.order.id == order.id]


def order_facts(order):
    return {
        name: getattr(order, name)
        for name in ("client_order_id", "symbol", "qty", "filled_qty", "filled_avg_price", "limit_price", "stop_price")
    } | {"status": order.status.value, "type": order.type.value, "class": order.order_class.value}


def reads(client):
    """What a new account says of itself and of the market."""
    account = client.get_account()
    assets = client.get_all_assets()
    crypto = client.get_all_assets(GetAssetsRequest(asset_class=AssetClass.CRYPTO))
    clock = client.get_clock()
    week = client.get_calendar(GetCalendarRequest(start="2026-11-16", end="2026-11-22"))
    history = client.get_portfolio_history(GetPortfolioHistoryRequest(period="1D", timeframe="15Min"))
    configurations = client.get_account_configurations()
    changed = client.set_account_configurations(configurations.model_copy(update={"no_shorting": True}))
    tell(
        consented=TradingClient(oauth_token=PARAMETERS["token"], url_override=PARAMETERS["rest"]).get_account().id,
        account=[account.id, account.account_number, account.status.value, account.currency, account.multiplier],
        money=[account.cash, account.equity, account.buying_power],
        gone=[account.pattern_day_trader, account.daytrade_count],
        assets=[asset.symbol for asset in assets],
        crypto=[[asset.symbol, asset.min_order_size is not None] for asset in crypto],
        apple=client.get_asset("AAPL").id == assets[0].id,
        clock=[clock.is_open, clock.timestamp.tzinfo is not None, clock.next_close > clock.timestamp],
        calendar=[[str(day.date), str(day.open.time()), str(day.close.time())] for day in week],
        history=[len(history.timestamp) == len(history.equity), history.timeframe],
        configurations=[configurations.no_shorting, changed.no_shorting],
        empty=[client.get_all_positions(), client.get_orders()],
        noPosition=refusal(lambda: client.get_open_position("AAPL")),
        noOrder=refusal(lambda: client.get_order_by_id("00000000-0000-4000-8000-000000000000")),
    )
    client.set_account_configurations(configurations)


def watchlists(client):
    made = client.create_watchlist(CreateWatchlistRequest(name="mine", symbols=["AAPL", "SPY"]))
    added = client.add_asset_to_watchlist_by_id(made.id, "MSFT")
    removed = client.remove_asset_from_watchlist_by_id(made.id, "AAPL")
    renamed = client.update_watchlist_by_id(made.id, UpdateWatchlistRequest(name="ours"))
    listed = [watchlist.name for watchlist in client.get_watchlists()]
    read = client.get_watchlist_by_id(made.id)
    client.delete_watchlist_by_id(made.id)
    tell(
        made=[asset.symbol for asset in made.assets],
        added=[asset.symbol for asset in added.assets],
        removed=[asset.symbol for asset in removed.assets],
        renamed=[renamed.name, read.name, listed],
        left=client.get_watchlists(),
    )


def simple_orders(client, heard):
    """A market order, and a limit order that is replaced, replaced again by its price, and cancelled."""
    bought = client.submit_order(
        MarketOrderRequest(
            symbol="AAPL", qty=10, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, client_order_id="py-1"
        )
    )
    filled = heard.event(bought, "fill")
    position = client.get_open_position("AAPL")
    limit = client.submit_order(
        LimitOrderRequest(
            symbol="MSFT", qty=4, side=OrderSide.BUY, time_in_force=TimeInForce.GTC, limit_price=PARAMETERS["low"]
        )
    )
    heard.event(limit, "new")
    moved = client.replace_order_by_id(limit.id, ReplaceOrderRequest(qty=3, limit_price=PARAMETERS["low"] - 1))
    heard.event(limit, "replaced")
    resting = [order_facts(order) for order in client.get_orders(GetOrdersRequest(symbols=["MSFT"]))]
    client.cancel_order_by_id(moved.id)
    heard.event(moved, "canceled")
    again = LimitOrderRequest(
        symbol="MSFT", qty=3, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=5, client_order_id="py-1"
    )
    rich = MarketOrderRequest(symbol="SPY", qty=100_000, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
    fine = LimitOrderRequest(
        symbol="MSFT", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=100.123
    )
    tell(
        bought=order_facts(client.get_order_by_client_id("py-1")),
        fill=[filled.price, filled.qty, filled.position_qty, filled.order.filled_avg_price],
        execution=filled.execution_id,
        position=[position.symbol, position.qty, position.side.value, position.avg_entry_price, position.cost_basis],
        events=[heard.names(order) for order in (bought, limit, moved)],
        resting=resting,
        linked=[str(client.get_order_by_id(limit.id).replaced_by) == str(moved.id), moved.replaces == limit.id],
        duplicate=refusal(lambda: client.submit_order(again)),
        tooMuch=refusal(lambda: client.submit_order(rich)),
        subPenny=refusal(lambda: client.submit_order(fine)),
        tooLate=refusal(lambda: client.cancel_order_by_id(bought.id)),
    )


def rich_orders(client, heard):
    """A bracket whose exits are told apart, a trailing stop, and a limit that the test's next price fills."""
    bracket = client.submit_order(
        MarketOrderRequest(
            symbol="SPY",
            qty=2,
            side=OrderSide.BUY,
            time_in_force=TimeInForce.GTC,
            order_class=OrderClass.BRACKET,
            take_profit=TakeProfitRequest(limit_price=PARAMETERS["takeProfit"]),
            stop_loss=StopLossRequest(stop_price=PARAMETERS["stopLoss"]),
        )
    )
    heard.event(bracket, "fill")
    nested = client.get_order_by_id(bracket.id, GetOrderByIdRequest(nested=True))
    held = refusal(lambda: client.close_position("SPY"))
    trailing = client.submit_order(
        TrailingStopOrderRequest(
            symbol="AAPL", qty=5, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, trail_percent=2
        )
    )
    heard.event(trailing, "new")
    read = client.get_order_by_id(trailing.id)
    limit = client.submit_order(
        LimitOrderRequest(
            symbol="MSFT", qty=4, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, limit_price=PARAMETERS["low"]
        )
    )
    heard.event(limit, "new")
    tell(
        bracket=order_facts(nested),
        legs=[order_facts(leg) for leg in nested.legs],
        heldForOrders=held,
        trailing=[read.trail_percent, read.hwm, read.stop_price],
    )  # now the test moves the price of MSFT
    filled = heard.event(limit, "fill")
    rolled = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=True))
    flat = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=False, limit=500))
    tell(
        filled=[filled.price, filled.order.status.value, filled.order.limit_price],
        open=sorted([order.symbol, len(order.legs or [])] for order in rolled),
        flat=sorted(order.symbol for order in flat),
    )
    client.cancel_order_by_id(trailing.id)
    heard.event(trailing, "canceled")


def cut(client, heard):
    """What the stream says after it was cut: nothing of what happened meanwhile, everything afterwards."""
    tell(ready=heard.stream._running)  # now the test cuts the stream
    until(lambda: not heard.stream._running, "the cut")
    missed = client.submit_order(
        MarketOrderRequest(symbol="F", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
    )
    until(lambda: heard.stream._running, "the stream to be back")
    tell(missed=client.get_order_by_id(missed.id).status.value)  # the test waits until the simulator is listened to
    seen = client.submit_order(MarketOrderRequest(symbol="F", qty=2, side=OrderSide.BUY, time_in_force=TimeInForce.DAY))
    heard.event(seen, "fill")
    tell(missed=heard.names(missed), seen=heard.names(seen))


def position_facts(position):
    return {
        name: getattr(position, name)
        for name in ("symbol", "qty", "avg_entry_price", "current_price", "market_value", "unrealized_pl")
    } | {"id": str(position.asset_id), "side": position.side.value}


def closing(client, heard):
    """The account as it stands, then everything is closed."""
    account = client.get_account()
    tell(
        account=[account.cash, account.equity, account.initial_margin, account.long_market_value],
        positions=[position_facts(position) for position in client.get_all_positions()],
        orders=[str(order.id) for order in client.get_orders(GetOrdersRequest(nested=False))],
    )  # now the test compares with the truth, before anything moves
    part = client.close_position("AAPL", ClosePositionRequest(qty="4"))
    heard.event(part, "fill")
    left = client.get_open_position("AAPL").qty
    rest = client.close_all_positions(cancel_orders=True)
    until(lambda: not client.get_all_positions(), "a flat account")
    account = client.get_account()
    fills = client.get("/account/activities/FILL", {"direction": "asc", "page_size": 100})
    page = client.get("/account/activities", {"activity_types": "FILL", "page_size": 3})
    next_page = client.get("/account/activities", {"page_size": 3, "page_token": page[-1]["id"]})
    tell(
        part=[part.side.value, part.qty, left],
        closed=sorted([answer.symbol, answer.status] for answer in rest),
        account=[account.cash, account.equity, account.long_market_value],
        open=client.get_orders(),
        fills=[[fill["symbol"], fill["side"], fill["qty"], fill["price"], fill["id"]] for fill in fills],
        pages=[row["id"] for row in page] + [row["id"] for row in next_page],
        stopped=heard.stop(),
    )


def session():
    client = TradingClient(*KEYS, url_override=PARAMETERS["rest"])
    reads(client)
    watchlists(client)
    stream = TradingStream(*KEYS, url_override=PARAMETERS["stream"])
    heard = Heard(stream)
    stream.subscribe_trade_updates(heard.take)
    heard.start()
    tell(streaming=True)  # the test waits until the simulator is listened to
    simple_orders(client, heard)
    rich_orders(client, heard)
    cut(client, heard)
    closing(client, heard)


def data():
    stream = StockDataStream(*KEYS, url_override=PARAMETERS["data"])
    heard = Heard(stream)
    stream.subscribe_quotes(heard.take, "AAPL")
    stream.subscribe_trades(heard.take, "AAPL", "MSFT")
    heard.start()
    tell(streaming=True)  # now the test moves prices, or waits until it is subscribed to

    def kinds():
        return {(type(event).__name__, event.symbol) for event in heard.events}

    until(lambda: {("Quote", "AAPL"), ("Trade", "AAPL"), ("Trade", "MSFT")} <= kinds(), "quotes and trades")
    quote = next(event for event in heard.events if type(event).__name__ == "Quote")
    trade = next(event for event in heard.events if type(event).__name__ == "Trade" and event.symbol == "AAPL")
    stream.subscribe_bars(heard.take, "AAPL")
    tell(
        quote=[quote.bid_price, quote.ask_price, quote.timestamp.tzinfo is not None],
        trade=[trade.price, trade.size > 0, trade.timestamp.timestamp(), trade.id],
        uninvited=sorted(kinds() - {("Quote", "AAPL"), ("Trade", "AAPL"), ("Trade", "MSFT")}),
    )  # the test lets a minute go by
    wanted = PARAMETERS["barClose"]
    bar = until(
        lambda: next((e for e in heard.events if type(e).__name__ == "Bar" and e.close == wanted), None), "the bar"
    )
    stream.unsubscribe_trades("MSFT")
    tell(bar=[bar.low <= bar.open <= bar.high, bar.close, bar.trade_count])  # now the test cuts the stream
    until(lambda: not stream._running, "the cut")
    until(lambda: stream._running, "the stream to be back")
    heard.events.clear()
    tell(streaming=True)  # the test moves prices again
    until(lambda: ("Trade", "AAPL") in kinds(), "a trade after the cut")
    tell(after=sorted({symbol for _, symbol in kinds()}), stopped=heard.stop())


def refused():
    client = TradingClient(*KEYS, url_override=PARAMETERS["rest"])
    stream = TradingStream(*KEYS, url_override=PARAMETERS["stream"])
    failures = []

    async def never(event):
        failures.append(event)

    async def attempt():
        stream._trade_updates_handler = never
        try:
            await stream._start_ws()
        except ValueError as error:
            await stream.close()
            return str(error)
        return "let in"

    import asyncio

    try:
        client.get_account()
        rest = "let in"
    except APIError as error:
        rest = error.status_code
    tell(rest=rest, stream=asyncio.run(attempt()))


{"session": session, "data": data, "refused": refused}[sys.argv[1]]()
