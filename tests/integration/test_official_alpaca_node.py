"""The unmodified npm package `@alpacahq/alpaca-trade-api` 3.x judges the simulated Alpaca: REST and trading stream."""

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from bridge.simulator.alpaca import Simulator
from tests.support.official_alpaca import last_price, listened_to, paper_account, simulated
from tests.support.official_client import NODE_PROJECT, Node
from tests.support.official_parts import Parts, script

SCRIPT = NODE_PROJECT / "session.cjs"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with simulated() as running:
        yield running


async def test_npm_client_passes_a_session_when_it_talks_to_the_simulator(
    alpaca_node: Node, simulator: Simulator
) -> None:
    account = paper_account(simulator)
    parameters = {
        "key": "SIMKEY1",
        "secret": "sim-alpaca-secret-1",
        "rest": f"http://127.0.0.1:{simulator.ports.alpaca}",
        "low": float(last_price(simulator, "MSFT") - 10),
    }
    command, env = (alpaca_node.program, SCRIPT, "session"), {"NODE_PATH": str(alpaca_node.modules)}
    async with script(*command, parameters=parameters, env=env) as client:
        reads = await client.next()
        assert reads["account"][:3] == [account, "PA10000001", "ACTIVE"]
        assert [Decimal(amount) for amount in reads["account"][3:]] == [100_000, 100_000]
        assert reads["assets"][0] == "AAPL"
        assert "BTC/USD" not in reads["assets"]
        assert reads["apple"] is True
        assert reads["clock"] == [True, True]
        assert reads["calendar"][0] == ["2026-11-16", "09:30", "16:00"]
        assert reads["history"] is True
        assert reads["configurations"] == ["all", "none"]
        assert reads["watchlists"] == [["AAPL", "SPY"], ["SPY"]]
        assert reads["renamed"] == ["ours", ["ours"], 0]
        assert reads["empty"] == [[], []]
        assert reads["noPosition"][:2] == [404, 40410000]

        assert await client.next() == {"states": ["connecting", "authenticating", "connected"]}
        await listened_to(simulator)

        await check_orders(client, last_price(simulator, "MSFT") - 11)

        assert await client.next() == {"state": "connected"}
        for stream in list(simulator.services.streams.trading.clients):
            stream.abort(orderly=False)
        assert await client.next() == {"missed": "filled"}
        await listened_to(simulator)
        assert await client.next() == {"missed": [], "seen": ["new", "fill"]}

        standing = await client.next()
        truth = simulator.actions.truth(account)
        figures = [Decimal(str(truth[name])) for name in ("balance", "equity", "usedMargin")]
        assert [Decimal(amount) for amount in standing["account"]] == figures
        assert sorted((each[0], each[2], Decimal(each[3])) for each in standing["positions"]) == sorted(
            (each["id"], str(each["units"]), Decimal(str(each["unrealizedPnl"]))) for each in truth["positions"]
        )
        assert sorted(standing["orders"]) == sorted(order["id"] for order in truth["orders"])

        closed = await client.next()
        assert set(closed["cancelled"]) == {200}
        assert len(closed["cancelled"]) >= 2  # the trailing stop and the bracket
        assert closed["closed"] == ["AAPL", "sell", "10"]
        assert closed["rest"] == [["F", 200]]
        spent = sum(Decimal(qty) * Decimal(price) * sign(side) for _, side, qty, price in closed["fills"])
        assert Decimal(closed["cash"]) == 100_000 - spent == Decimal(str(simulator.actions.truth(account)["balance"]))
        missed = set(closed["executions"]) - set(closed["streamed"])
        assert len(missed) == 1  # the fill during the cut
        await client.end()
    assert simulator.counters.budget_violations == 0


def sign(side: str) -> int:
    return 1 if side == "buy" else -1


async def check_orders(client: Parts, low: Decimal) -> None:
    """What the client saw of its first orders; `low`: the limit of the replaced one."""
    orders = await client.next()
    same, price = orders["bought"]
    assert same is True
    assert orders["fill"] == [price, "10", "10"]
    assert orders["position"][:3] == ["AAPL", "10", "long"]
    assert Decimal(orders["position"][3]) == Decimal(price)
    assert orders["events"] == [
        ["new", "fill"],
        ["new", "pending_replace", "replaced"],
        ["new", "pending_cancel", "canceled"],
    ]
    assert [(same, qty, Decimal(limit), status) for same, qty, limit, status in orders["open"]] == [
        (True, "3", low, "new")
    ]
    trail, high, stop = (Decimal(value) for value in orders["trailing"])
    assert (trail, stop) == (3, high - 3)
    assert sorted(orders["rolled"]) == [["AAPL", "trailing_stop", []], ["MSFT", "limit", ["held", "held"]]]
    assert orders["duplicate"][:2] == [422, 40010001]
    assert orders["tooMuch"][:2] == [403, 40310000]


async def test_npm_client_is_refused_when_its_secret_is_wrong(alpaca_node: Node, simulator: Simulator) -> None:
    rest = f"http://127.0.0.1:{simulator.ports.alpaca}"
    command, env = (alpaca_node.program, SCRIPT, "refused"), {"NODE_PATH": str(alpaca_node.modules)}
    async with script(*command, parameters={"key": "SIMKEY1", "secret": "wrong", "rest": rest}, env=env) as client:
        assert await client.next() == {"rest": 401, "errors": ["bad key id or secret"]}
        await client.end()
