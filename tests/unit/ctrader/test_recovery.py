"""The search for missed executions, in virtual time: order, pages, a lagging history, failures and bounds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import normalize, recovery
from bridge.brokers.ctrader.deals import DealBook
from bridge.brokers.ctrader.recovery import Recovery
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from core.instruments import Catalogue
from core.orders import Order, OrderType, Side
from core.secret import Secret
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as e
from tests.support.fake_broker import LoopClock

pytestmark = pytest.mark.looptime

SETTINGS = CtraderSettings("id", Secret("secret"), history_lag_s=5.0, deals_overlap_s=60.0)
FROM_MS = LoopClock.BASE_MS


def deal(number: int, at_ms: int = FROM_MS) -> e.ProtoOADeal:
    return e.ProtoOADeal(
        dealId=number,
        orderId=number,
        positionId=1,
        volume=100,
        filledVolume=100,
        symbolId=1,
        createTimestamp=at_ms,
        executionTimestamp=at_ms,
        executionPrice=1.5,
        tradeSide=e.BUY,
        dealStatus=e.FILLED,
    )


class Account:
    """An account and its channel in one: answers from `history` in pages, or with the faults that wait in `faults`."""

    def __init__(self, number: int = 1, log: list[int] | None = None, *, holds: bool = False) -> None:
        self.number = number
        self.live = True
        self.channel: Any = self
        self.mirror = AccountMirror("demo", str(number), Catalogue())
        if holds:
            self.mirror.orders["1"] = Order("1", "1", Side.BUY, OrderType.LIMIT, normalize.units(100))
        self.deals = DealBook()
        self.deals.owed_since_ms = FROM_MS
        self.log = [] if log is None else log
        self.history: list[e.ProtoOADeal] = []
        self.page = 100
        self.lag_ms = 0
        self.faults: list[BrokerFault] = []
        self.asked: list[m.ProtoOADealListReq] = []
        self.judged: list[BrokerFault] = []
        self.found: list[str] = []

    async def call(
        self, request: m.ProtoOADealListReq, reply: Any, priority: Priority, timeout_s: float, account: int
    ) -> m.ProtoOADealListRes:
        assert (reply, priority, account) == (m.ProtoOADealListRes, Priority.HISTORY, self.number)
        self.asked.append(request)
        self.log.append(self.number)
        await asyncio.sleep(0.25)
        if self.faults:
            raise self.faults.pop(0)
        known_ms = LoopClock().now_ms() - self.lag_ms
        rows = [
            one
            for one in self.history
            if request.fromTimestamp <= one.executionTimestamp <= min(request.toTimestamp, known_ms)
        ]
        return m.ProtoOADealListRes(
            ctidTraderAccountId=self.number, deal=rows[: self.page], hasMore=len(rows) > self.page
        )

    def deal(self, one: e.ProtoOADeal, *, recovered: bool = False) -> None:
        fill = normalize.fill(one, recovered=recovered)
        if fill is not None and self.deals.note(fill):
            assert fill.recovered
            self.found.append(fill.execution_id)

    def judge(self, fault: BrokerFault) -> None:
        self.judged.append(fault)


class World:
    def __init__(self) -> None:
        self.tasks = Tasks("test")
        self.stats = Stats()
        self.recovery = Recovery(SETTINGS, LoopClock(), self.tasks, self.stats)

    async def done(self) -> None:
        while len(self.tasks):
            await asyncio.sleep(0.1)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.close()
    assert world.tasks.crashes == 0


def throttled(retry_after_s: float | None = None) -> BrokerFault:
    reason = Reason(ReasonCode.RATE_LIMITED, "Too fast.")
    return BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=retry_after_s)


async def test_nothing_is_asked_when_nothing_is_owed(world: World) -> None:
    account = Account()
    account.deals.owed_since_ms = None
    world.recovery.ask(account)
    assert len(world.tasks) == 0


async def test_window_begins_an_overlap_before_what_is_owed(world: World) -> None:
    account = Account()
    account.history = [deal(1, FROM_MS - 60_001), deal(2, FROM_MS - 60_000), deal(3)]
    world.recovery.ask(account)
    await world.done()
    assert account.asked[0].fromTimestamp == FROM_MS - 60_000
    assert account.asked[0].toTimestamp >= FROM_MS + 60_000
    assert account.found == ["2", "3"]
    assert account.deals.owed_since_ms is None
    assert world.stats.get("deal_searches") == 1


async def test_history_is_asked_again_when_it_may_lag(world: World) -> None:
    account = Account()
    account.lag_ms = 3_000
    account.history = [deal(1, FROM_MS), deal(2, FROM_MS - 4_000)]
    begun = asyncio.get_running_loop().time()
    world.recovery.ask(account)
    await world.done()
    assert account.found == ["2", "1"]
    assert len(account.asked) == 2
    assert asyncio.get_running_loop().time() - begun >= 5.0


async def test_one_look_is_enough_when_it_comes_late_enough(world: World) -> None:
    accounts = [Account(number) for number in range(40)]  # 10 s of looking
    for account in accounts:
        world.recovery.ask(account)
    await world.done()
    assert [len(account.asked) for account in accounts] == [2] * 20 + [1] * 20


async def test_every_page_is_read_when_there_are_many(world: World) -> None:
    account = Account()
    account.page = 2
    account.history = [deal(number, FROM_MS + number // 2) for number in range(9)]
    world.recovery.ask(account)
    await world.done()
    assert account.found == [str(number) for number in range(9)]


async def test_search_goes_on_when_a_page_ends_within_a_millisecond(world: World) -> None:
    account = Account()
    account.page = 2
    account.history = [deal(number, FROM_MS) for number in range(4)] + [deal(4, FROM_MS + 1)]
    world.recovery.ask(account)
    await world.done()
    assert "4" in account.found  # what shares a millisecond beyond a page cannot be told apart, the rest is found
    assert account.deals.owed_since_ms is None


async def test_holders_go_first_and_pages_of_one_do_not_hold_up_others(world: World) -> None:
    log: list[int] = []
    empty, big, holder = Account(1, log), Account(2, log), Account(3, log, holds=True)
    big.page = 1
    big.history = [deal(number, FROM_MS + number) for number in range(3)]
    for account in (empty, big, holder):
        world.recovery.ask(account)
    await asyncio.sleep(2)
    assert log[:5] == [3, 1, 2, 2, 2]
    await world.done()


async def test_wait_is_kept_when_the_broker_throttles(world: World) -> None:
    account, other = Account(1), Account(2)
    account.faults = [throttled(30.0)]
    account.history = [deal(1)]
    begun = asyncio.get_running_loop().time()
    world.recovery.ask(account)
    world.recovery.ask(other)
    await world.done()
    assert asyncio.get_running_loop().time() - begun >= 30.0
    assert account.found == ["1"]
    assert account.judged[0].kind is FaultKind.THROTTLE
    assert other.deals.owed_since_ms is None


async def test_search_is_left_to_the_next_reconcile_when_it_keeps_failing(world: World) -> None:
    account = Account()
    account.faults = [throttled() for _ in range(recovery.TRIES)]
    account.history = [deal(1)]
    world.recovery.ask(account)
    await world.done()
    assert len(account.asked) == recovery.TRIES
    assert account.deals.owed_since_ms == FROM_MS
    assert world.stats.get("deal_lists_failed") == recovery.TRIES
    world.recovery.ask(account)
    await world.done()
    assert account.found == ["1"]


async def test_account_still_owes_when_it_is_lost_meanwhile(world: World) -> None:
    account = Account()
    account.live = False
    world.recovery.ask(account)
    await world.done()
    assert account.asked == []
    assert account.deals.owed_since_ms == FROM_MS


async def test_search_begins_anew_when_more_is_found_missing_meanwhile(world: World) -> None:
    account = Account()
    world.recovery.ask(account)
    await asyncio.sleep(0.1)
    account.history = [deal(1, FROM_MS + 100)]
    world.recovery.ask(account)
    assert len(world.tasks) == 1
    await world.done()
    assert account.found == ["1"]


async def test_search_begins_anew_when_more_is_found_missing_during_its_last_page(world: World) -> None:
    account = Account()
    world.recovery.ask(account)
    await asyncio.sleep(5.1)
    assert len(account.asked) == 2
    world.recovery.ask(account)
    account.history = [deal(1, FROM_MS + 100)]
    account.lag_ms = 7_000
    await world.done()
    assert account.found == ["1"]


async def test_unusable_deal_is_counted_and_the_others_count(world: World) -> None:
    account = Account()
    absurd = deal(1)
    absurd.executionPrice = -1.0
    account.history = [absurd, deal(2)]
    world.recovery.ask(account)
    await world.done()
    assert account.found == ["2"]
    assert world.stats.get("quarantined") >= 1


async def test_queue_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "QUEUE_CAP", 3)
    accounts = [Account(number) for number in range(5)]
    for account in accounts:
        world.recovery.ask(account)
    assert world.stats.get("deal_searches_refused") == 2
    await world.done()
    assert [account.deals.owed_since_ms for account in accounts] == [None, None, None, FROM_MS, FROM_MS]
