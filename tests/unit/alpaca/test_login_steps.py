"""How an account is read: what is asked again, what is accepted, and what the stream says meanwhile. No sockets."""

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bridge.brokers.alpaca import login
from bridge.brokers.alpaca.activities import read_activity
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.context import make_context
from bridge.brokers.alpaca.gate import Gate
from bridge.brokers.alpaca.hub import BUFFER_CAP, AccountHub
from bridge.brokers.alpaca.members import Login
from bridge.brokers.alpaca.reading import Executions, Reading
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, ReasonCode
from bridge.brokers.stats import Stats
from bridge.runtime.clock import ManualClock
from bridge.runtime.tasks import Tasks
from core.secret import Secret
from tests.unit.alpaca.documents import AAPL, NOW, a_fill, a_position, an_account, an_activity, an_order

pytestmark = pytest.mark.looptime

MSFT = "b6d1aa75-5c9c-4353-a305-9e2caa1925ab"
KEYS = Credential("g", Environment.DEMO, {"keyId": Secret("SIMKEY1"), "secretKey": Secret("sim-alpaca-secret-1")})
Step = Callable[[], dict[str, Any]]


class Stream:
    up = True
    last_heard = 0.0


class Broker:
    """Answers each reading with the next step's parts; a step may do something first, as if it came in meanwhile."""

    heard_at = None

    def __init__(self, clock: ManualClock) -> None:
        self.steps: list[Step] = []
        self.readings = 0
        self._clock = clock

    async def reading(self, priority: Priority, memory: Executions) -> Reading:
        self.readings += 1
        mark = memory.mark(self._clock.now_ms())
        parts = (self.steps.pop(0) if len(self.steps) > 1 else self.steps[0])()
        fills = tuple(read_activity(row) for row in parts.get("fills", ()))
        account, before = parts.get("account", an_account()), frozenset(row.execution_id for row in fills)
        positions, orders = tuple(parts.get("positions", ())), tuple(parts.get("orders", ()))
        return Reading(account, positions, orders, fills, mark, before=before)

    async def asset(self, symbol: str, priority: Priority) -> None:
        return None


class Rig:
    def __init__(self, **changes: Any) -> None:
        settings = AlpacaSettings(**{"data_feed": "off", "lag_first_s": 0.01, "lag_cap_s": 0.01, **changes})
        self.clock = ManualClock(NOW)
        self.stats, self.tasks = Stats(), Tasks("test")
        context = make_context(settings, self.clock, random.Random(1), self.tasks, self.stats)
        gate = Gate(settings, self.clock, self.stats)
        self.hub = AccountHub(context, Environment.DEMO, "acc", gate, Login(KEYS, "f"), login)
        self.stream: Any = Stream()
        self.hub.stream = self.stream
        self.broker = Broker(self.clock)
        self.hub.requests = self.broker  # type: ignore[assignment]  # as far as readings go

    async def read(self, *steps: Step) -> int:
        """One synchronisation; returns the number of lost events."""
        self.broker.steps, self.broker.readings = list(steps), 0
        return await login._synchronise(self.hub, self.stream, Priority.LOGIN)

    async def live(self, **parts: Any) -> None:
        await self.read(lambda: parts)
        self.hub.live = True

    def held(self) -> dict[str, str]:
        return {key: str(each.units) for key, each in self.hub.mirror.positions.items()}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.hub.upkeep.stop()
    await rig.tasks.close()


def hearing(rig: Rig, *updates: dict[str, Any], **parts: Any) -> Step:
    """A reading during which these updates come in."""

    def step() -> dict[str, Any]:
        for update in updates:
            rig.hub.update(update)
        return parts

    return step


# ---------------------------------------------------------------- what is accepted


async def test_account_is_what_the_reading_says_when_nothing_happens_meanwhile(rig: Rig) -> None:
    parts = {"positions": [a_position()], "orders": [an_order()], "account": an_account(initial_margin="7")}
    assert await rig.read(lambda: parts) == 2
    mirror = rig.hub.mirror
    assert (rig.held(), list(mirror.orders), str(mirror.balance)) == ({AAPL: "4"}, ["o1"], "1000")
    assert str(mirror.used_margin) == "7"
    assert mirror.quotes[AAPL].bid == 101_500_000_000
    assert mirror.confirmed_at_ms == NOW
    assert await rig.read(lambda: parts) == 0
    assert rig.broker.readings == 1


async def test_reading_is_repeated_when_something_was_executed_meanwhile(rig: Rig) -> None:
    await rig.live()
    later = {"positions": [a_position()], "fills": [an_activity("e1")]}
    assert await rig.read(lambda: later) == 1
    assert rig.broker.readings == 2  # the first showed an execution that nobody knew
    (fill,) = rig.hub.mirror.fills
    assert (fill.execution_id, fill.recovered) == ("e1", True)
    assert rig.stats.get("fills_recovered") == rig.stats.get("readings.newer") == 1


async def test_reading_waits_for_rest_when_the_stream_is_ahead(rig: Rig) -> None:
    await rig.live(orders=[an_order()])
    rig.hub.update(a_fill("e1"))
    assert rig.held() == {AAPL: "4"}
    old = {"orders": [an_order()]}
    new = {
        "positions": [a_position()],
        "orders": [an_order(status="partially_filled", filled_qty="4")],
        "fills": [an_activity("e1")],
        "account": an_account(cash="600"),
    }
    assert await rig.read(lambda: old, lambda: old, lambda: new) == 0
    assert rig.broker.readings == 3
    assert rig.held() == {AAPL: "4"}
    assert [fill.recovered for fill in rig.hub.mirror.fills] == [False]
    assert rig.stats.get("readings.stale") == 2


@pytest.mark.parametrize("late", [{"positions": [a_position(qty="1")]}, {"account": an_account()}])
async def test_reading_waits_for_rest_when_executions_are_listed_sooner_than_what_they_changed(
    rig: Rig, late: dict[str, Any]
) -> None:
    await rig.live(positions=[a_position(qty="1")], orders=[an_order()])
    rig.hub.update(a_fill("e1"))
    rig.clock.advance(0.1)
    new = {
        "positions": [a_position()],
        "orders": [an_order(status="partially_filled", filled_qty="4")],
        "fills": [an_activity("e1")],
        "account": an_account(cash="600"),
    }
    assert await rig.read(lambda: {**new, **late}, lambda: new) == 0
    assert rig.broker.readings == 2
    assert (rig.held(), str(rig.hub.mirror.balance)) == ({AAPL: "4"}, "600")


async def test_live_account_keeps_what_the_stream_said_when_rest_never_shows_it(rig: Rig) -> None:
    await rig.live(orders=[an_order()])
    rig.hub.update(a_fill("e1"))
    with pytest.raises(BrokerFault) as refused:
        await rig.read(lambda: {"orders": [an_order()]})
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.TRANSIENT, ReasonCode.SNAPSHOT_REFUSED)
    assert rig.broker.readings == rig.hub.context.settings.reading_tries
    assert rig.held() == {AAPL: "4"}
    assert str(rig.hub.mirror.balance) == "600"
    assert rig.hub.buffer is None


async def test_login_takes_the_last_reading_with_what_came_meanwhile_when_rest_lags() -> None:
    rig = Rig(reading_tries=1)
    step = hearing(rig, a_fill("e1"), orders=[an_order()])
    await rig.read(step)
    assert rig.held() == {AAPL: "4"}
    assert str(rig.hub.mirror.balance) == "600"
    assert str(rig.hub.mirror.orders["o1"].filled_units) == "4"
    assert [fill.execution_id for fill in rig.hub.mirror.fills] == ["e1"]


async def test_last_reading_is_taken_when_the_account_trades_without_a_pause(rig: Rig) -> None:
    await rig.live()
    rows: list[dict[str, Any]] = []

    def trading() -> dict[str, Any]:
        rows.append(an_activity(f"e{len(rows)}"))
        return {"positions": [a_position(qty=str(len(rows)))], "fills": list(rows)}

    await rig.read(trading)
    assert rig.broker.readings == rig.hub.context.settings.reading_tries
    assert rig.held() == {AAPL: str(len(rows))}


# ---------------------------------------------------------------- what is doubted


async def test_reading_that_empties_the_account_is_confirmed_by_another(rig: Rig) -> None:
    full = {"positions": [a_position()], "orders": [an_order()]}
    await rig.live(**full)
    assert await rig.read(dict, lambda: full) == 0
    assert rig.broker.readings == 2
    assert rig.held() == {AAPL: "4"}
    assert await rig.read(dict) == 2
    assert rig.broker.readings == 2
    assert rig.held() == {}


async def test_emptied_account_is_not_believed_when_no_try_is_left_to_confirm_it() -> None:
    rig = Rig(reading_tries=1)
    await rig.live(positions=[a_position()])
    with pytest.raises(BrokerFault):
        await rig.read(dict)
    assert rig.held() == {AAPL: "4"}


@pytest.mark.parametrize(
    ("account", "kind", "code"),
    [
        (an_account(id="other"), FaultKind.FATAL_USER, ReasonCode.ACCOUNT_NOT_COVERED),
        (an_account(status="ACCOUNT_CLOSED"), FaultKind.FATAL_USER, ReasonCode.ACCOUNT_DISABLED),
        ({"cash": "1"}, FaultKind.TRANSIENT, ReasonCode.SNAPSHOT_REFUSED),
        (an_account(cash="NaN"), FaultKind.TRANSIENT, ReasonCode.SNAPSHOT_REFUSED),
    ],
    ids=["foreign", "closed", "nameless", "absurd"],
)
async def test_mirror_stays_when_the_reading_is_of_no_use(
    rig: Rig, account: dict[str, Any], kind: FaultKind, code: ReasonCode
) -> None:
    await rig.live(positions=[a_position()])
    with pytest.raises(BrokerFault) as refused:
        await rig.read(lambda: {"account": account})
    assert (refused.value.kind, refused.value.reason.code) == (kind, code)
    assert rig.held() == {AAPL: "4"}
    assert str(rig.hub.mirror.balance) == "1000"


async def test_mirror_stays_when_the_stream_is_cut_while_it_is_read(rig: Rig) -> None:
    await rig.live(positions=[a_position()])

    def cut() -> dict[str, Any]:
        rig.stream.up = False
        return {}

    with pytest.raises(BrokerFault) as refused:
        await rig.read(cut)
    assert refused.value.reason.code is ReasonCode.CONNECTION_LOST
    assert rig.held() == {AAPL: "4"}


async def test_reading_starts_over_when_more_comes_meanwhile_than_is_kept(rig: Rig) -> None:
    await rig.live()
    flood = [{"event": "new", "order": an_order(id=f"o{number}")} for number in range(BUFFER_CAP + 1)]
    orders = [one["order"] for one in flood]
    await rig.read(hearing(rig, *flood, orders=orders), lambda: {"orders": orders})
    assert rig.broker.readings == 2
    assert rig.stats.get("buffer_overflows") == 1
    assert len(rig.hub.mirror.orders) == len(flood)
