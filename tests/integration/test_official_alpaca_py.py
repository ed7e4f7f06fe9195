"""The unmodified `alpaca-py`, in its own environment, judges the simulated Alpaca: REST, trading and data stream."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.official_alpaca import last_price, listened_to, paper_account, simulated
from tests.support.official_parts import script
from tests.support.waiting import eventually

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "official_alpaca_script.py"
KEYS = {"key": "SIMKEY1", "secret": "sim-alpaca-secret-1"}
CENT = Decimal("0.01")
HELD = {"AAPL": "10", "SPY": "2", "MSFT": "4", "F": "3"}

pytestmark = pytest.mark.slow  # the client waits at least half a second before it connects again


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with simulated(speed=60) as running:  # a minute of bars takes a second
        yield running


def addresses(simulator: Simulator) -> dict[str, object]:
    at = f"127.0.0.1:{simulator.ports.alpaca}"
    return {**KEYS, "rest": f"http://{at}", "stream": f"ws://{at}/stream", "data": f"ws://{at}/v2/iex"}


def cut(clients: set[Any]) -> None:
    """End the sockets without a word, as a broken network does."""
    for client in list(clients):
        client.abort(orderly=False)


async def test_alpaca_py_passes_a_session_when_it_talks_to_the_simulator(
    alpaca_py_python: Path, simulator: Simulator
) -> None:
    account = paper_account(simulator)
    low = last_price(simulator, "MSFT") - 10
    parameters = {
        **addresses(simulator),
        "token": "sim-alpaca-oauth-1",
        "low": float(low),
        "takeProfit": float(last_price(simulator, "SPY") + 20),
        "stopLoss": float(last_price(simulator, "SPY") - 20),
    }
    async with script(alpaca_py_python, SCRIPT, "session", parameters=parameters) as client:
        reads = await client.next()
        assert reads["account"] == [account, "PA10000001", "ACTIVE", "USD", reads["account"][4]]
        assert reads["consented"] == account
        assert [Decimal(amount) for amount in reads["money"][:2]] == [100_000, 100_000]
        assert reads["gone"] == [None, None]
        assert reads["assets"][0] == "AAPL"
        assert {"MSFT", "SPY", "BTC/USD"} <= set(reads["assets"])
        assert ["BTC/USD", True] in reads["crypto"]
        assert reads["apple"] is True
        assert reads["clock"] == [True, True, True]
        assert reads["calendar"][0] == ["2026-11-16", "09:30:00", "16:00:00"]
        assert len(reads["calendar"]) == 5
        assert reads["history"] == [True, "15Min"]
        assert reads["configurations"] == [False, True]
        assert reads["empty"] == [[], []]
        assert reads["noPosition"][:2] == [404, 40410000]
        assert reads["noOrder"][:2] == [404, 40410000]

        lists = await client.next()
        assert lists["made"] == ["AAPL", "SPY"]
        assert lists["added"] == ["AAPL", "SPY", "MSFT"]
        assert lists["removed"] == ["SPY", "MSFT"]
        assert lists["renamed"] == ["ours", "ours", ["ours"]]
        assert lists["left"] == []

        assert await client.next() == {"streaming": True}
        await listened_to(simulator)

        orders = await client.next()
        assert orders["bought"]["status"] == "filled"
        price = Decimal(orders["bought"]["filled_avg_price"])
        assert orders["fill"] == [float(price), 10.0, 10.0, str(price)]
        assert UUID(orders["execution"])
        assert orders["position"][:3] == ["AAPL", "10", "long"]
        assert Decimal(orders["position"][3]) == price
        assert Decimal(orders["position"][4]) == 10 * price
        assert orders["events"] == [
            ["new", "fill"],
            ["new", "pending_replace", "replaced"],
            ["new", "pending_cancel", "canceled"],
        ]
        (resting,) = orders["resting"]
        assert (resting["status"], resting["qty"], Decimal(resting["limit_price"])) == ("new", "3", low - 1)
        assert orders["linked"] == [True, True]
        assert orders["duplicate"] == [422, 40010001, "client_order_id must be unique"]
        assert orders["tooMuch"][:2] == [403, 40310000]
        assert orders["subPenny"][:2] == [422, 42210000]
        assert orders["tooLate"][:2] == [422, 42210000]

        rich = await client.next()
        assert (rich["bracket"]["class"], rich["bracket"]["status"]) == ("bracket", "filled")
        assert sorted((leg["type"], leg["status"]) for leg in rich["legs"]) == [("limit", "new"), ("stop", "new")]
        assert rich["heldForOrders"][:2] == [403, 40310000]
        percent, high, stop = (Decimal(value) for value in rich["trailing"])
        assert (percent, stop) == (2, high * Decimal("0.98"))
        simulator.actions.quote("MSFT", price=low - 1)

        filled = await client.next()
        assert filled["filled"][:2] == [float(low - 1), "filled"]
        assert Decimal(filled["filled"][2]) == low
        assert filled["open"] == [["AAPL", 0], ["SPY", 0], ["SPY", 0]]  # the bracket's entry is filled and gone
        assert filled["flat"] == ["AAPL", "SPY", "SPY"]

        assert await client.next() == {"ready": True}
        cut(simulator.services.streams.trading.clients)
        assert await client.next() == {"missed": "filled"}
        await listened_to(simulator)
        assert await client.next() == {"missed": [], "seen": ["new", "fill"]}

        standing = await client.next()
        truth = simulator.actions.truth(account)
        assert Decimal(standing["account"][0]) == Decimal(str(truth["balance"]))
        assert Decimal(standing["account"][1]) == Decimal(str(truth["equity"]))
        assert Decimal(standing["account"][2]) == Decimal(str(truth["usedMargin"]))
        assert {each["symbol"]: each["qty"] for each in standing["positions"]} == HELD
        assert same_positions(standing["positions"], truth["positions"])
        assert sorted(standing["orders"]) == sorted(order["id"] for order in truth["orders"])

        closed = await client.next()
        assert closed["part"] == ["sell", "4", "6"]
        assert closed["closed"] == [[symbol, 200] for symbol in sorted(HELD)]
        assert closed["open"] == []
        truth = simulator.actions.truth(account)
        assert truth["positions"] == []
        assert Decimal(closed["account"][0]) == Decimal(closed["account"][1]) == Decimal(str(truth["balance"]))
        assert cash_of(closed["fills"]) == Decimal(str(truth["balance"]))
        assert closed["pages"] == [fill[4] for fill in reversed(closed["fills"])][:6]
        assert closed["stopped"] is True
        await client.end()
    assert simulator.counters.budget_violations == 0


def same_positions(seen: list[dict[str, str]], truth: list[dict[str, Any]]) -> bool:
    """Whether the client read what the simulator holds."""

    def told(each: dict[str, str]) -> tuple[object, ...]:
        side = {"long": "buy", "short": "sell"}[each["side"]]
        figures = (each["qty"], each["avg_entry_price"], each["current_price"], each["unrealized_pl"])
        return (each["id"], side, *(Decimal(figure) for figure in figures))

    def held(each: dict[str, Any]) -> tuple[object, ...]:
        figures = (each["units"], each["entryPrice"], each["currentPrice"], each["unrealizedPnl"])
        return (each["id"], each["side"], *(Decimal(str(figure)) for figure in figures))

    return sorted(map(told, seen)) == sorted(map(held, truth))


def cash_of(fills: list[list[str]]) -> Decimal:
    """What is left of the deposit after these fills (symbol, side, qty, price, …)."""
    spent = [Decimal(qty) * Decimal(price) * (1 if side == "buy" else -1) for _, side, qty, price, *_ in fills]
    return 100_000 - sum(spent)


async def test_alpaca_py_gets_quotes_trades_and_bars_when_it_reads_the_stock_data_stream(
    alpaca_py_python: Path, simulator: Simulator
) -> None:
    data = simulator.services.streams.data
    price = last_price(simulator, "AAPL")

    async def subscribed() -> None:
        """Until the client has subscribed."""
        await eventually(
            lambda: any(client.state.subscriptions.wants("trades", "AAPL") for client in data.clients), within_s=10
        )

    parameters = {**addresses(simulator), "barClose": float(price + 1)}
    async with script(alpaca_py_python, SCRIPT, "data", parameters=parameters) as client:
        assert await client.next() == {"streaming": True}
        await subscribed()
        for symbol in ("AAPL", "MSFT", "SPY"):
            simulator.actions.quote(symbol, price=price, bid=price - CENT, ask=price + CENT)
        seen = await client.next()
        assert seen["quote"] == [float(price - CENT), float(price + CENT), True]
        assert seen["trade"][:2] == [float(price), True]
        assert abs(seen["trade"][2] * 1000 - simulator.services.clock.now_ms()) < 60_000
        assert seen["trade"][3] > 0
        assert seen["uninvited"] == []

        simulator.actions.quote("AAPL", price=price + 1)  # the minute of these two prices ends within a second
        bar = await client.next()
        assert bar["bar"] == [True, float(price + 1), bar["bar"][2]]
        assert bar["bar"][2] >= 1

        cut(data.clients)
        assert await client.next() == {"streaming": True}
        await subscribed()
        for symbol in ("MSFT", "AAPL"):
            simulator.actions.quote(symbol, price=price + 2)
        assert await client.next() == {"after": ["AAPL"], "stopped": True}
        await client.end()


async def test_alpaca_py_is_refused_when_its_secret_is_wrong(alpaca_py_python: Path, simulator: Simulator) -> None:
    parameters = {**addresses(simulator), "secret": "wrong"}
    async with script(alpaca_py_python, SCRIPT, "refused", parameters=parameters) as client:
        assert await client.next() == {"rest": 401, "stream": "failed to authenticate"}
        await client.end()
