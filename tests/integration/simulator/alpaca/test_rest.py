"""The simulated Alpaca's REST, route by route, over real HTTP (reference/alpaca.md §1.2 to §1.4)."""

import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.alpaca_rest import Rest, rest
from tests.support.waiting import eventually

WITHIN_S = 5.0
LIMIT = {"symbol": "AAPL", "side": "buy", "type": "limit", "qty": "10", "limit_price": "100", "time_in_force": "gtc"}
MARKET = {"symbol": "AAPL", "side": "buy", "type": "market", "qty": "10", "time_in_force": "day"}
ORDER_KEYS = {
    *("id", "client_order_id", "created_at", "updated_at", "submitted_at", "filled_at", "expired_at", "expires_at"),
    *("canceled_at", "failed_at", "replaced_at", "replaced_by", "replaces", "asset_id", "symbol", "asset_class"),
    *("notional", "qty", "filled_qty", "filled_avg_price", "order_class", "order_type", "type", "side"),
    *("position_intent", "time_in_force", "limit_price", "stop_price", "status", "extended_hours", "legs"),
    *("trail_percent", "trail_price", "hwm"),
}
ACCOUNT_KEYS = {
    *("id", "account_number", "status", "crypto_status", "currency", "cash", "equity", "last_equity", "buying_power"),
    *("regt_buying_power", "non_marginable_buying_power", "options_buying_power", "long_market_value"),
    *("short_market_value", "initial_margin", "maintenance_margin", "last_maintenance_margin", "sma", "multiplier"),
    *("accrued_fees", "created_at", "shorting_enabled", "trading_blocked", "transfers_blocked", "account_blocked"),
    *("trade_suspended_by_user", "options_approved_level", "options_trading_level", "portfolio_value", "balance_asof"),
}
POSITION_KEYS = {
    *("asset_id", "symbol", "exchange", "asset_class", "asset_marginable", "avg_entry_price", "qty", "qty_available"),
    *("side", "market_value", "cost_basis", "unrealized_pl", "unrealized_plpc", "unrealized_intraday_pl"),
    *("unrealized_intraday_plpc", "current_price", "lastday_price", "change_today"),
}


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"requests_per_minute": 10_000}


@pytest.fixture
async def ask(sim: Simulator) -> AsyncIterator[Rest]:
    async with rest(sim.ports.alpaca) as client:
        yield client


async def ended(ask: Rest, order_id: str, status: str) -> dict[str, Any]:
    """The order, when it has come to that state."""

    async def there() -> dict[str, Any] | None:
        order: dict[str, Any] = await ask.ok("GET", f"/v2/orders/{order_id}")
        return order if order["status"] == status else None

    found = await eventually(there, within_s=WITHIN_S, what=f"order is {status}")
    assert found is not None
    return found


# ---- the account


async def test_an_account_is_shown_whole_when_asked(sim: Simulator, ask: Rest) -> None:
    account = await ask.ok("GET", "/v2/account")
    assert set(account) >= ACCOUNT_KEYS
    assert not {"pattern_day_trader", "daytrade_count", "daytrading_buying_power"} & set(account)
    assert str(uuid.UUID(account["id"])) == account["id"] == sim.actions.accounts()[0]["accountId"]
    assert (account["account_number"], account["status"], account["cash"]) == ("PA10000001", "ACTIVE", "100000")
    async with rest(sim.ports.alpaca_live, {"Authorization": "Bearer sim-alpaca-oauth-1"}) as live:
        other = await live.ok("GET", "/v2/account")
    assert (other["account_number"], other["cash"]) == ("10000001", "50000")


async def test_configurations_change_in_part_when_patched(ask: Rest) -> None:
    before = await ask.ok("GET", "/v2/account/configurations")
    assert {"dtbp_check", "pdt_check"}.isdisjoint(before)
    change = {"no_shorting": True, "trade_confirm_email": "none", "pdt_check": None}
    changed = await ask.ok("PATCH", "/v2/account/configurations", change)
    assert changed == before | {"no_shorting": True, "trade_confirm_email": "none"}
    assert await ask.ok("GET", "/v2/account/configurations") == changed
    assert (await ask("PATCH", "/v2/account/configurations", {"trade_confirm_email": "perhaps"})).status == 422
    short = await ask("POST", "/v2/orders", MARKET | {"side": "sell"})
    assert (short.status, short.body["code"]) == (403, 40310000)


async def test_activities_are_filtered_and_paged_when_there_are_many(sim: Simulator, ask: Rest) -> None:
    account = sim.actions.accounts()[0]["accountId"]
    for _ in range(5):
        await ask.ok("POST", "/v2/orders", MARKET | {"qty": "1"})
    sim.actions.deposit(account, Decimal(5))
    sim.actions.pay(account, "DIV", Decimal("1.25"), "AAPL")
    newest_first = await ask.ok("GET", "/v2/account/activities")
    fills = await ask.ok("GET", "/v2/account/activities/FILL", direction="asc")
    assert [row["activity_type"] for row in newest_first] == ["DIV", "CSD", *["FILL"] * 5, "CSD"]
    assert [row["id"] for row in fills] == [row["id"] for row in newest_first[2:7]][::-1]
    assert {row["type"] for row in fills} == {"fill"}
    assert all(len(row["id"].partition("::")[0]) == 17 for row in fills)

    seen: list[str] = []
    token: dict[str, str] = {}
    while page := await ask.ok("GET", "/v2/account/activities/FILL", direction="asc", page_size="2", **token):
        seen += [row["id"] for row in page]
        token = {"page_token": page[-1]["id"]}
    assert seen == [row["id"] for row in fills]
    by_type = await ask.ok("GET", "/v2/account/activities", activity_types="DIV,CSD")
    by_category = await ask.ok("GET", "/v2/account/activities", category="non_trade_activity")
    assert by_type == by_category == [*newest_first[:2], newest_first[-1]]
    for wrong in ({"page_size": "101"}, {"activity_types": "FILL", "category": "trade_activity"}, {"direction": "up"}):
        assert (await ask("GET", "/v2/account/activities", **wrong)).status == 422


async def test_portfolio_history_is_numbers_when_asked(ask: Rest) -> None:
    history = await ask.ok("GET", "/v2/account/portfolio/history", period="1D", timeframe="5Min")
    lengths = {len(history[name]) for name in ("timestamp", "equity", "profit_loss", "profit_loss_pct")}
    assert len(lengths) == 1
    assert lengths.pop() > 0
    assert all(isinstance(each, int) for each in history["timestamp"])
    assert history["timeframe"] == "5Min"
    assert isinstance(history["base_value"], int | float)
    assert (await ask("GET", "/v2/account/portfolio/history", timeframe="2Min")).status == 422


# ---- orders


async def test_an_order_is_shown_alike_everywhere_when_placed(ask: Rest) -> None:
    placed = await ask.ok("POST", "/v2/orders", LIMIT | {"client_order_id": "mine 1/é"})
    assert set(placed) >= ORDER_KEYS
    assert (placed["order_class"], placed["legs"], placed["replaced_by"]) == ("", None, None)
    assert (placed["qty"], placed["limit_price"], placed["filled_qty"]) == ("10", "100", "0")
    assert str(uuid.UUID(placed["id"])) == placed["id"]
    by_id = await ask.ok("GET", f"/v2/orders/{placed['id']}")
    by_own_id = await ask.ok("GET", "/v2/orders:by_client_order_id", client_order_id="mine 1/é")
    assert by_id == by_own_id == (await ask.ok("GET", "/v2/orders"))[0]
    assert by_id["status"] == "new"
    again = await ask("POST", "/v2/orders", LIMIT | {"client_order_id": "mine 1/é"})
    assert (again.status, again.body) == (422, {"code": 40010001, "message": "client_order_id must be unique"})


@pytest.mark.parametrize(
    "written",
    [
        {"qty": 10, "limit_price": 100.25},
        {"qty": "10", "limit_price": "100.25"},
        {"qty": 10.0, "limit_price": 1.0025e2},
    ],
)
async def test_numbers_mean_what_was_written_when_sent_as_json_numbers(ask: Rest, written: dict[str, Any]) -> None:
    placed = await ask.ok("POST", "/v2/orders", LIMIT | written)
    assert (placed["qty"], placed["limit_price"]) == ("10", "100.25")


async def test_orders_are_filtered_ordered_and_paged_when_listed(ask: Rest) -> None:
    wishes = [LIMIT | {"symbol": symbol, "limit_price": "50"} for symbol in ("AAPL", "MSFT", "SPY", "AAPL")]
    crypto = {"symbol": "BTC/USD", "side": "buy", "type": "limit", "qty": "0.01", "limit_price": "1000"}
    placed = [await ask.ok("POST", "/v2/orders", wish) for wish in [*wishes, crypto | {"time_in_force": "gtc"}]]
    ids = [order["id"] for order in placed]
    await ask.ok("DELETE", f"/v2/orders/{ids[2]}")
    await ended(ask, ids[2], "canceled")

    async def listed(**query: str) -> list[str]:
        return [order["id"] for order in await ask.ok("GET", "/v2/orders", **query)]

    still = [ids[0], ids[1], ids[3], ids[4]]
    assert await listed() == still[::-1]
    assert await listed(direction="asc") == still
    assert await listed(status="closed") == [ids[2]]
    assert await listed(status="all", direction="asc") == ids
    assert await listed(symbols="MSFT,SPY", status="all") == [ids[2], ids[1]]
    assert await listed(asset_class="crypto") == [ids[4]]
    assert await listed(side="sell") == []
    assert await listed(limit="2", direction="asc") == ids[:2]
    assert await listed(status="all", direction="asc", after=placed[1]["submitted_at"]) == ids[2:]
    assert await listed(status="all", direction="asc", until=placed[1]["submitted_at"]) == ids[:1]
    assert await listed(status="all", direction="asc", after_order_id=ids[1]) == ids[2:]
    assert await listed(status="all", before_order_id=ids[1]) == ids[:1]
    wrong: list[dict[str, str]] = [
        {"status": "odd"},
        {"limit": "501"},
        {"limit": "9" * 5000},
        {"direction": "up"},
        {"after": "yesterday"},
        {"after_order_id": ids[0], "before_order_id": ids[1]},
        {"after_order_id": ids[0], "after": placed[1]["submitted_at"]},
        {"after_order_id": "nobody"},
    ]
    for query in wrong:
        assert (await ask("GET", "/v2/orders", **query)).status == 422, query


async def test_exits_are_nested_in_their_entry_when_asked_so(ask: Rest) -> None:
    exits = {"take_profit": {"limit_price": 120}, "stop_loss": {"stop_price": "90"}}
    placed = await ask.ok("POST", "/v2/orders", LIMIT | {"order_class": "bracket", **exits})
    assert {leg["status"] for leg in placed["legs"]} == {"held"}
    (nested,) = await ask.ok("GET", "/v2/orders", nested="True")
    flat = await ask.ok("GET", "/v2/orders", nested="false")
    one = await ask.ok("GET", f"/v2/orders/{placed['id']}", nested="true")
    assert {leg["id"] for leg in nested["legs"]} == {leg["id"] for leg in placed["legs"]}
    assert {leg["id"] for leg in one["legs"]} == {leg["id"] for leg in placed["legs"]}
    assert {order["id"] for order in flat} == {placed["id"], *(leg["id"] for leg in placed["legs"])}
    assert all(order["legs"] is None for order in flat)


async def test_an_order_is_replaced_by_a_new_one_when_patched(ask: Rest) -> None:
    old = await ask.ok("POST", "/v2/orders", LIMIT)
    new = await ask.ok("PATCH", f"/v2/orders/{old['id']}", {"qty": 7, "limit_price": "99.5"})
    assert new["id"] != old["id"]
    assert (new["replaces"], new["qty"], new["limit_price"]) == (old["id"], "7", "99.5")
    replaced = await ended(ask, old["id"], "replaced")
    assert replaced["replaced_by"] == new["id"]
    assert (await ended(ask, new["id"], "new"))["replaces"] == old["id"]
    same = await ask("PATCH", f"/v2/orders/{new['id']}", {"qty": "7"})
    gone = await ask("PATCH", f"/v2/orders/{old['id']}", {"qty": "8"})
    assert (same.status, same.body["code"]) == (422, 42210000)
    assert (gone.status, gone.body["code"]) == (422, 42210000)


async def test_orders_end_with_an_empty_answer_when_cancelled(ask: Rest) -> None:
    first, second, third = [await ask.ok("POST", "/v2/orders", LIMIT) for _ in range(3)]
    reply = await ask("DELETE", f"/v2/orders/{first['id']}")
    assert (reply.status, reply.body) == (204, None)
    await ended(ask, first["id"], "canceled")
    again = await ask("DELETE", f"/v2/orders/{first['id']}")
    assert (again.status, again.body["code"]) == (422, 42210000)
    rest_of_them = await ask("DELETE", "/v2/orders")
    assert rest_of_them.status == 207
    assert {row["id"]: row["status"] for row in rest_of_them.body} == {second["id"]: 200, third["id"]: 200}
    await ended(ask, third["id"], "canceled")
    assert await ask.ok("GET", "/v2/orders") == []
    assert (await ask("DELETE", "/v2/orders")).body == []


# ---- positions


async def test_a_position_is_shown_and_closed_when_bought(ask: Rest) -> None:
    await ask.ok("POST", "/v2/orders", MARKET)
    (listed,) = await ask.ok("GET", "/v2/positions")
    assert set(listed) >= POSITION_KEYS
    assert (listed["qty"], listed["side"], listed["symbol"]) == ("10", "long", "AAPL")
    assert await ask.ok("GET", "/v2/positions/AAPL") == listed
    assert await ask.ok("GET", f"/v2/positions/{listed['asset_id']}") == listed
    part = await ask.ok("DELETE", "/v2/positions/AAPL", qty="4")
    assert (part["side"], part["qty"]) == ("sell", "4")
    half = await ask.ok("DELETE", "/v2/positions/AAPL", percentage="50")
    assert half["qty"] == "3"
    for query in ({"qty": "1", "percentage": "1"}, {"percentage": "101"}, {"qty": "x"}):
        assert (await ask("DELETE", "/v2/positions/AAPL", **query)).status == 422, query
    assert (await ask.ok("DELETE", "/v2/positions/AAPL"))["qty"] == "3"
    gone = await ask("GET", "/v2/positions/AAPL")
    assert (gone.status, gone.body) == (404, {"code": 40410000, "message": "position does not exist"})
    assert (await ask("DELETE", "/v2/positions/AAPL")).status == 404


async def test_a_crypto_position_answers_to_both_names_when_bought(ask: Rest) -> None:
    order = {"symbol": "BTC/USD", "side": "buy", "type": "market", "qty": "0.1", "time_in_force": "gtc"}
    assert (await ask.ok("POST", "/v2/orders", order))["symbol"] == "BTC/USD"
    assert (await ask.ok("GET", "/v2/positions/BTCUSD"))["symbol"] == "BTCUSD"
    assert (await ask.ok("GET", "/v2/positions/BTC%2FUSD"))["symbol"] == "BTCUSD"
    assert (await ask.ok("GET", "/v2/assets/BTC%2FUSD"))["symbol"] == "BTC/USD"


async def test_every_position_is_closed_when_all_are(ask: Rest) -> None:
    for symbol in ("AAPL", "MSFT"):
        await ask.ok("POST", "/v2/orders", MARKET | {"symbol": symbol})
    await ask.ok("POST", "/v2/orders", LIMIT | {"side": "sell", "limit_price": "900"})
    held = await ask("DELETE", "/v2/positions/AAPL")
    assert (held.status, held.body["code"]) == (403, 40310000)
    assert held.body["held_for_orders"] == "10"
    rows = await ask("DELETE", "/v2/positions", cancel_orders="True")
    assert rows.status == 207
    assert {row["symbol"]: row["status"] for row in rows.body} == {"AAPL": 200, "MSFT": 200}
    assert all(row["body"]["side"] == "sell" for row in rows.body)

    async def flat() -> bool:
        return await ask.ok("GET", "/v2/positions") == [] and await ask.ok("GET", "/v2/orders") == []

    await eventually(flat, within_s=WITHIN_S)


async def test_an_option_is_exercised_or_not_when_held(ask: Rest) -> None:
    contracts = (await ask.ok("GET", "/v2/options/contracts", underlying_symbols="AAPL"))["option_contracts"]
    call = next(each for each in contracts if each["type"] == "call")
    buy = {"symbol": call["symbol"], "side": "buy", "type": "market", "qty": "1", "time_in_force": "day"}
    await ask.ok("POST", "/v2/orders", buy)
    assert (await ask("POST", f"/v2/positions/{call['symbol']}/do-not-exercise")).status == 200
    assert (await ask("POST", f"/v2/positions/{call['symbol']}/exercise")).status in (200, 403)
    assert (await ask("POST", "/v2/positions/AAPL_NOT/exercise")).status in (404, 422)


# ---- the market


async def test_clock_and_calendar_are_new_yorks_when_asked(sim: Simulator, ask: Rest) -> None:
    assert set(await ask.ok("GET", "/v2/clock")) == {"timestamp", "is_open", "next_open", "next_close"}
    sim.actions.set_market("closed")
    assert (await ask.ok("GET", "/v2/clock"))["is_open"] is False
    accepted = await ask.ok("POST", "/v2/orders", MARKET)
    assert accepted["status"] == "accepted"
    days = await ask.ok("GET", "/v2/calendar", start="2026-11-20", end="2026-11-24")
    assert [day["date"] for day in days] == ["2026-11-20", "2026-11-23", "2026-11-24"]
    assert set(days[0]) == {"date", "open", "close", "session_open", "session_close", "settlement_date"}
    assert (days[0]["open"], days[0]["session_open"]) == ("09:30", "0400")
    assert (await ask("GET", "/v2/calendar", start="soon")).status in (400, 422)


async def test_assets_and_contracts_are_found_when_asked(ask: Rest) -> None:
    assets = await ask.ok("GET", "/v2/assets")
    assert assets[0]["symbol"] == "AAPL"
    assert {"id", "class", "exchange", "symbol", "status", "tradable", "fractionable", "easy_to_borrow"} <= set(
        assets[0]
    )
    crypto = await ask.ok("GET", "/v2/assets", asset_class="crypto", status="active")
    assert {each["symbol"] for each in crypto} == {"BTC/USD", "ETH/USD", "DOGE/USD"}
    assert {"min_order_size", "min_trade_increment", "price_increment"} <= set(crypto[0])
    assert await ask.ok("GET", f"/v2/assets/{assets[0]['id']}") == await ask.ok("GET", "/v2/assets/AAPL")
    assert (await ask("GET", "/v2/assets/NOPE")).status == 404
    page = await ask.ok("GET", "/v2/options/contracts", limit="1")
    following = await ask.ok("GET", "/v2/options/contracts", limit="1", page_token=page["next_page_token"])
    (first,), (second,) = page["option_contracts"], following["option_contracts"]
    assert first["id"] != second["id"]
    assert await ask.ok("GET", f"/v2/options/contracts/{first['symbol']}") == first
    assert (await ask("GET", "/v2/options/contracts/NOPE")).status == 404
    assert await ask.ok("GET", "/v2/corporate_actions/announcements", ca_types="dividend") == []


async def test_watchlists_are_kept_by_id_and_by_name_when_changed(ask: Rest) -> None:
    made = await ask.ok("POST", "/v2/watchlists", {"name": "my list", "symbols": ["AAPL"]})
    assert [asset["symbol"] for asset in made["assets"]] == ["AAPL"]
    path, named = f"/v2/watchlists/{made['id']}", "/v2/watchlists:by_name"
    await ask.ok("POST", path, {"symbol": "MSFT"})
    await ask.ok("POST", named, {"symbol": "BTC/USD"}, name="my list")
    assert await ask.ok("GET", path) == await ask.ok("GET", named, name="my list")
    assert [asset["symbol"] for asset in (await ask.ok("GET", path))["assets"]] == ["AAPL", "MSFT", "BTC/USD"]
    left = await ask.ok("DELETE", f"{path}/BTC%2FUSD")
    assert [asset["symbol"] for asset in left["assets"]] == ["AAPL", "MSFT"]
    await ask.ok("PUT", named, {"symbols": ["SPY"]}, name="my list")
    await ask.ok("PUT", path, {"name": "yours"})
    (listed,) = await ask.ok("GET", "/v2/watchlists")
    assert (listed["name"], "assets" in listed) == ("yours", False)
    assert (await ask("GET", named, name="my list")).status == 404
    assert (await ask("POST", "/v2/watchlists", {"name": "yours"})).status == 422
    second = await ask.ok("POST", "/v2/watchlists", {"name": "second", "symbols": None})
    assert (await ask("DELETE", path)).status == 204
    assert (await ask("DELETE", named, name="second")).status == 204
    assert (await ask("DELETE", f"/v2/watchlists/{second['id']}")).status == 404
    assert await ask.ok("GET", "/v2/watchlists") == []
