"""The REST door of the simulated Alpaca (reference/alpaca.md §1.5, §1.6): credentials, budgets, scopes, odd bodies."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.runtime.clock import ManualClock
from bridge.simulator.alpaca import Simulator, SimulatorSettings
from bridge.simulator.alpaca.rest import ROUTES
from tests.support.alpaca_probe import keys, live_keys
from tests.support.alpaca_rest import Rest, rest
from tests.support.raw_http import exchange

LIMIT = {"symbol": "AAPL", "side": "buy", "type": "limit", "qty": "1", "limit_price": "1", "time_in_force": "gtc"}


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"requests_per_minute": 1_000_000}


@pytest.fixture
async def ask(sim: Simulator) -> AsyncIterator[Rest]:
    async with rest(sim.ports.alpaca) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, {"message": "unauthorized."}),
        ({"APCA-API-KEY-ID": "SIMKEY1"}, {"message": "unauthorized."}),
        ({"APCA-API-KEY-ID": "SIMKEY1", "APCA-API-SECRET-KEY": "wrong"}, {"message": "unauthorized."}),
        ({"Authorization": "Bearer nobody"}, {"message": "unauthorized."}),
        ({"Authorization": "Basic c2ltOnNpbQ=="}, {"message": "unauthorized."}),
        (live_keys(), {"code": 40110000, "message": "request is not authorized"}),
    ],
)
async def test_a_stranger_is_turned_away_when_the_credential_does_not_fit(
    sim: Simulator, headers: dict[str, str], body: Any
) -> None:
    async with rest(sim.ports.alpaca, headers) as client:
        reply = await client("GET", "/v2/account")
    assert (reply.status, reply.body) == (401, body)
    assert "X-Request-ID" in reply.headers
    assert "X-RateLimit-Limit" not in reply.headers
    assert sim.counters.unauthorized == 1


async def test_keys_and_tokens_open_the_account_of_their_environment_when_good(sim: Simulator) -> None:
    token = {"Authorization": "bearer sim-alpaca-oauth-1"}
    numbers = []
    for port, headers in (
        (sim.ports.alpaca, keys()),
        (sim.ports.alpaca, token),
        (sim.ports.alpaca_live, live_keys()),
        (sim.ports.alpaca_live, token),
    ):
        async with rest(port, headers) as client:
            numbers.append((await client.ok("GET", "/v2/account"))["account_number"])
    assert numbers == ["PA10000001", "PA10000001", "10000001", "10000001"]
    async with rest(sim.ports.alpaca_live, {"Authorization": "Bearer sim-alpaca-oauth-2"}) as client:
        assert (await client("GET", "/v2/account")).status == 401  # user 2 has no live account


async def test_the_budget_is_told_and_kept_when_many_ask_for_one_account() -> None:
    clock = ManualClock()
    settings = SimulatorSettings(users=2, prices="frozen", requests_per_minute=3)
    async with (
        Simulator(settings, clock) as sim,
        rest(sim.ports.alpaca) as by_key,
        rest(sim.ports.alpaca, {"Authorization": "Bearer sim-alpaca-oauth-1"}) as by_token,
        rest(sim.ports.alpaca, keys(2)) as neighbour,
    ):
        replies = [await client("GET", "/v2/clock") for client in (by_key, by_token, by_key, by_token)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert [reply.headers["X-RateLimit-Remaining"] for reply in replies] == ["2", "1", "0", "0"]
        assert {reply.headers["X-RateLimit-Limit"] for reply in replies} == {"3"}
        assert len({reply.headers["X-Request-ID"] for reply in replies}) == 4
        assert replies[3].body == {"code": 42910000, "message": "too many requests."}
        refused = await by_key("POST", "/v2/orders", LIMIT)
        assert refused.status == 429
        assert (await neighbour("GET", "/v2/clock")).status == 200
        reset = int(replies[3].headers["X-RateLimit-Reset"])
        clock.advance(reset - clock.now_ms() / 1000)
        assert await by_key.ok("GET", "/v2/orders") == []  # and nothing was done
        counters = sim.actions.counters()
    account = sim.actions.accounts()[0]["accountId"]
    assert counters["budgetViolations"] == 2
    assert counters["budgetViolationsByAccount"] == {account: 2}
    assert counters["requests"]["GET /v2/clock"] == 5
    assert counters["requestsByAccount"][account] == 6
    assert counters["answers"]["429"] == counters["errors"]["42910000"] == 2


async def test_a_token_does_only_what_its_scopes_allow_when_they_are_few(sim: Simulator) -> None:
    code = sim.actions.mint_code(1, scope="data", environment="paper")
    grant = sim.services.access.exchange(code, None, sim.services.clock.now_ms())
    assert grant is not None
    async with rest(sim.ports.alpaca, {"Authorization": f"Bearer {grant.token}"}) as client:
        assert (await client("GET", "/v2/orders")).status == 200
        for method, path, body in (
            ("POST", "/v2/orders", LIMIT),
            ("DELETE", "/v2/positions", None),
            ("PATCH", "/v2/account/configurations", {"no_shorting": True}),
            ("POST", "/v2/watchlists", {"name": "x"}),
        ):
            reply = await client(method, path, body)
            assert (reply.status, reply.body["code"]) == (403, 40310000), path
    assert sim.actions.truth(sim.actions.accounts()[0]["accountId"])["orders"] == []


async def test_a_revoked_credential_is_refused_until_given_anew_when_revoked(sim: Simulator, ask: Rest) -> None:
    async with rest(sim.ports.alpaca, {"Authorization": "Bearer sim-alpaca-oauth-1"}) as by_token:
        sim.actions.revoke(1, "tokens")
        assert ((await by_token("GET", "/v2/account")).status, (await ask("GET", "/v2/account")).status) == (401, 200)
    sim.actions.revoke(1, "keys")
    assert (await ask("GET", "/v2/account")).status == 401
    assert sim.actions.restore_keys(1) == 2
    assert (await ask("GET", "/v2/account")).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v2/nothing"),
        ("PUT", "/v2/orders"),
        ("GET", "/v2/positions/AAPL/exercise"),
        ("GET", "/v2beta1/events/activities"),
        ("GET", "/v2/orders%3Aby_client_order_id/x"),
    ],
)
async def test_an_unknown_address_is_answered_in_json_when_asked(ask: Rest, method: str, path: str) -> None:
    reply = await ask(method, path)
    assert (reply.status, reply.body["code"]) == (404, 40410000)
    assert reply.headers["Content-Type"].startswith("application/json")
    assert "X-Request-ID" in reply.headers


async def test_a_colon_may_be_escaped_when_a_client_does_so(ask: Rest) -> None:
    placed = await ask.ok("POST", "/v2/orders", LIMIT | {"client_order_id": "a"})
    assert (await ask.ok("GET", "/v2/orders%3Aby_client_order_id?client_order_id=a"))["id"] == placed["id"]


async def test_a_body_is_refused_when_it_is_too_large_or_no_object(ask: Rest) -> None:
    assert (await ask("POST", "/v2/orders", raw=b"x" * (1 << 19))).status == 413
    for raw in (b"{", b"[]", b"\xff\xfe", b"null", b"1"):
        reply = await ask("POST", "/v2/orders", raw=raw)
        assert (reply.status, reply.body["code"]) == (422, 40010001), raw


async def test_a_get_with_rubbish_in_its_body_is_answered_when_asked(ask: Rest) -> None:
    assert (await ask("GET", "/v2/clock", raw=b"{")).status == 200


async def test_a_path_that_is_no_text_is_answered_when_sent_raw(sim: Simulator) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in keys().items())
    for target in ("/v2/orders/%ff%fe", "/v2/assets/%00", "/v2/positions/%ED%A0%80", "/v2/orders?limit=%ff&side=%ed"):
        answer = await exchange(sim.ports.alpaca, f"GET {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        assert answer.status in (404, 422), target


# ---- anything at all

NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    0.5,
    1e300,
    1e-300,
    10**18,
    2**70,
    "1",
    "-1",
    "1e5",
    "NaN",
    "Infinity",
    "1.123456789",
)
TEXTS: tuple[Any, ...] = (
    "",
    "x",
    "AAPL",
    "aapl",
    "BTC/USD",
    "BTCUSD",
    "é\u0000",
    "x" * 3000,
    "9" * 5000,
    "٣",
    "\ud7ff",
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"limit_price": 1}, [{"symbol": "AAPL"}], ["AAPL", 7])
WORDS: tuple[Any, ...] = (
    *("buy", "sell", "market", "limit", "stop", "stop_limit", "trailing_stop", "day", "gtc", "opg", "ioc", "simple"),
    *("bracket", "oco", "oto", "mleg", "buy_to_open", "sell_to_close", "AAPL250117C00230000", "FILL", "all", "asc"),
    *("1D", "5Min", "2026-11-20", "2026-11-20T10:00:00Z", "9999-12-31", "0001-01-01", "2026-11-20T10:00:00+25:00"),
)
ORDER_FIELDS = (
    *("symbol", "side", "type", "time_in_force", "qty", "notional", "limit_price", "stop_price", "trail_price"),
    *("trail_percent", "extended_hours", "client_order_id", "order_class", "take_profit", "stop_loss", "legs"),
    *("position_intent", "advanced_instructions", "name", "symbols", "trail", "no_shorting", "max_margin_multiplier"),
)
QUERY_FIELDS = (
    *("status", "limit", "after", "until", "direction", "nested", "symbols", "side", "asset_class", "before_order_id"),
    *("after_order_id", "client_order_id", "activity_types", "category", "date", "page_size", "page_token", "period"),
    *("timeframe", "intraday_reporting", "start", "end", "pnl_reset", "cashflow_types", "exchange", "attributes"),
    *("qty", "percentage", "cancel_orders", "name", "underlying_symbols", "expiration_date", "strike_price_gte"),
)


def anything(dice: random.Random) -> Any:
    return dice.choice(dice.choice((NUMBERS, TEXTS, OTHERS, WORDS)))


def order_of(dice: random.Random) -> dict[str, Any]:
    """A body that is nearly an order."""
    body: dict[str, Any] = {
        "symbol": dice.choice(("AAPL", "BTC/USD", "PENY", "HTB")),
        "side": dice.choice(("buy", "sell")),
        "type": dice.choice(("market", "limit", "stop", "stop_limit", "trailing_stop")),
        "time_in_force": dice.choice(("day", "gtc", "ioc", "fok", "opg")),
        "qty": dice.choice((1, "2", 0.5)),
    }
    for field in dice.sample(ORDER_FIELDS, dice.randrange(6)):
        body[field] = anything(dice)
    if dice.random() < 0.3:
        body["take_profit"], body["stop_loss"] = {"limit_price": anything(dice)}, {"stop_price": anything(dice)}
    return body


async def test_no_request_breaks_the_server_when_everything_is_random(sim: Simulator, ask: Rest) -> None:
    dice = random.Random(40)
    routes = [(method, path) for method, path, _, _ in ROUTES]
    known: list[str] = ["AAPL", "BTCUSD", "x"]
    statuses: set[int] = set()
    for number in range(2_500):
        method, path = dice.choice(routes) if number % 3 else ("POST", "/v2/orders")
        for variable in ("id", "asset", "type", "symbol"):
            path = path.replace(f"{{{variable}}}", dice.choice(known))
        query = {field: str(anything(dice)) for field in dice.sample(QUERY_FIELDS, dice.choice((0, 0, 1, 2)))}
        if sum(map(len, query.values())) > 6_000:  # a longer line is refused before it is read
            query = {}
        body = order_of(dice) if method in ("POST", "PATCH", "PUT") else None
        reply = await ask(method, path, body, **query)
        assert reply.status < 500, (method, path, query, body, reply.body)
        statuses.add(reply.status)
        if reply.status == 200 and isinstance(reply.body, dict) and "id" in reply.body:
            known = [*known[-40:], reply.body["id"]]
        if reply.status >= 400:
            assert reply.body["message"], (method, path)
            assert str(reply.body["code"])[:3] == str(reply.status) or reply.body["code"] == 40010001
    assert statuses >= {200, 207, 403, 404, 422}
    for account in sim.actions.accounts():
        assert sim.actions.truth(account["accountId"])["login"] == account["login"]
