"""What a live account asks for and when, to the second; and what it makes of the answers."""

import itertools
import math
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca.differences import Contents, doubtful, lost_events
from bridge.brokers.alpaca.pace import Pace
from bridge.brokers.alpaca.polling import Act, Held, Plan
from bridge.brokers.alpaca.pricing import disagrees, forget_unfed, take_prices
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from core.account import AccountMirror, Snapshot
from core.events import (
    AccountChanged,
    BalanceChanged,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
)
from core.instruments import Catalogue
from core.orders import Order, OrderStatus, OrderType, Side
from core.positions import Position

SETTINGS = AlpacaSettings()  # poll 10 s and 30 s, a reading 1 s after an execution and at most every 2 s


@pytest.fixture
def plan() -> Plan:
    """A plan whose account was read at 100."""
    made = Plan(SETTINGS)
    made.done(Act.READ, 100.0)
    return made


# ---------------------------------------------------------------- the plan


def test_nothing_is_due_when_nothing_is_held_and_nothing_happened(plan: Plan) -> None:
    assert plan.due_at(Held.NOTHING) == math.inf
    assert plan.next(10_000.0, Held.NOTHING) is None


def test_positions_are_polled_every_ten_seconds_when_no_socket_tells_a_price(plan: Plan) -> None:
    asked = []
    now = 100.0
    for _ in range(4):
        now = plan.due_at(Held.UNFED)
        assert plan.next(now, Held.UNFED) is Act.POLL
        asked.append(now)
        plan.begin(Act.POLL)
        plan.done(Act.POLL, now)
    assert asked == [110, 120, 130, 140]
    assert plan.due_at(Held.FED) == 170


def test_poll_is_due_at_once_when_the_socket_was_lost_long_after_the_last_one(plan: Plan) -> None:
    assert plan.next(125.0, Held.FED) is None
    assert plan.next(125.0, Held.UNFED) is Act.POLL


def test_one_reading_follows_when_executions_come_in_a_burst(plan: Plan) -> None:
    assert plan.ask(200.0, 1.0)
    assert not plan.ask(200.5, 1.0)  # the first wish stands
    assert plan.due_at(Held.NOTHING) == 201
    assert plan.next(201.0, Held.NOTHING) is Act.READ
    plan.begin(Act.READ)
    assert plan.due_at(Held.NOTHING) == math.inf
    assert plan.ask(201.2, 1.0)  # while it is read: another one
    plan.done(Act.READ, 201.4)
    assert plan.due_at(Held.NOTHING) == 203.4  # not closer than two seconds


def test_readings_keep_their_distance_when_executions_never_end(plan: Plan) -> None:
    now, begun = 200.0, []
    while now < 260.0:
        plan.ask(now, 1.0)
        if plan.next(now, Held.UNFED) is Act.READ:
            begun.append(now)
            plan.begin(Act.READ)
            plan.done(Act.READ, now + 0.4)
        now = round(now + 0.1, 1)
    gaps = [round(later - earlier, 1) for earlier, later in itertools.pairwise(begun)]
    assert min(gaps) >= 2.0
    assert max(gaps) <= 3.5


def test_reading_goes_first_when_a_poll_is_due_as_well(plan: Plan) -> None:
    plan.ask(109.0, 1.0)
    assert plan.next(110.0, Held.UNFED) is Act.READ
    plan.begin(Act.READ)
    plan.done(Act.READ, 111.0)
    assert plan.due_at(Held.UNFED) == 121  # it told the prices too


def test_pauses_grow_when_it_fails_and_a_failed_reading_is_still_wanted(plan: Plan) -> None:
    plan.ask(200.0, 0.0)
    pauses = []
    now = 200.0
    for _ in range(6):
        plan.begin(Act.READ)
        plan.failed(Act.READ, now, None)
        pauses.append(plan.due_at(Held.NOTHING) - now)
        now = plan.due_at(Held.NOTHING)
        assert plan.next(now, Held.NOTHING) is Act.READ
    assert pauses == [2, 4, 8, 16, 30, 30]
    plan.begin(Act.READ)
    plan.done(Act.READ, now)
    plan.ask(now, 1.0)
    assert plan.due_at(Held.NOTHING) == now + 2


def test_nothing_is_asked_before_the_broker_allows_it(plan: Plan) -> None:
    plan.failed(Act.POLL, 110.0, 45.0)
    assert plan.next(154.9, Held.UNFED) is None
    assert plan.next(155.0, Held.UNFED) is Act.POLL


def test_prices_are_outdated_when_two_polls_were_missed(plan: Plan) -> None:
    assert not plan.outdated(119.9)
    assert plan.outdated(120.0)


@given(st.lists(st.tuples(st.sampled_from(["ask", "go", "fail"]), st.floats(0, 20)), max_size=40))
def test_wish_for_a_reading_is_never_forgotten(steps: list[tuple[str, float]]) -> None:
    plan, now, wanted = Plan(SETTINGS), 1000.0, False
    plan.done(Act.READ, now)
    for what, passes in steps:
        now += passes
        if what == "ask":
            plan.ask(now, 1.0)
            wanted = True
        elif plan.next(now, Held.NOTHING) is Act.READ:
            plan.begin(Act.READ)
            wanted = what == "fail"
            if wanted:
                plan.failed(Act.READ, now, None)
            else:
                plan.done(Act.READ, now)
        assert (plan.due_at(Held.NOTHING) < math.inf) == wanted


# ---------------------------------------------------------------- pace


def fault(retry_after_s: float | None = None) -> BrokerFault:
    reason = Reason(ReasonCode.CONNECTION_LOST, "Lost.")
    return BrokerFault(FaultKind.TRANSIENT, reason, retry_after_s=retry_after_s, broker_code="7")


def test_first_attempt_is_soon_and_later_ones_further_apart_when_a_stream_will_not_open() -> None:
    pace = Pace(SETTINGS, random.Random(5))
    waits = []
    for _ in range(200):
        told = pace.lost(fault(), 0.0)
        assert told.retry_after_s is not None
        assert told.shared
        waits.append(told.retry_after_s)
    assert waits[0] <= 1
    assert max(waits) <= 60
    assert max(waits[10:]) > 30


def test_account_is_blocked_until_the_wait_is_over_and_says_how_long() -> None:
    pace = Pace(SETTINGS, random.Random(5))
    assert pace.blocked(0.0) is None
    told = pace.lost(fault(95.0), 100.0)
    assert told.retry_after_s == 95
    blocked = pace.blocked(150.0)
    assert blocked is not None
    assert (blocked.retry_after_s, blocked.broker_code, blocked.shared) == (45, "7", True)
    assert pace.blocked(195.0) is None
    pace.up(196.0)
    assert pace.blocked(196.0) is None


# ---------------------------------------------------------------- answers


class Sockets:
    """What the sockets tell."""

    def __init__(self, **priced_at: float | None) -> None:
        self.priced = priced_at
        self.doubted: list[str] = []

    def covers(self, instrument_id: str) -> bool:
        return instrument_id in self.priced

    def priced_at(self, instrument_id: str) -> float | None:
        return self.priced.get(instrument_id)

    def doubt(self, instrument_id: str) -> None:
        self.doubted.append(instrument_id)


def position(name: str, units: int = 2, side: Side = Side.BUY) -> Position:
    return Position(name, name, side, Decimal(units), Decimal(10))


def order(name: str, status: OrderStatus = OrderStatus.WORKING, stop: int | None = None) -> Order:
    price = None if stop is None else Decimal(stop)
    return Order(name, "a", Side.BUY, OrderType.TRAILING_STOP, Decimal(2), stop_price=price, status=status)


def mirror(*held: Position | Order, cash: int = 100) -> AccountMirror:
    made = AccountMirror("demo", "1", Catalogue(), 9)
    made.positions = {each.id: each for each in held if isinstance(each, Position)}
    made.orders = {each.id: each for each in held if isinstance(each, Order)}
    made.balance = Decimal(cash)
    return made


def test_polled_prices_are_taken_but_for_those_a_socket_told_lately() -> None:
    one = mirror(position("fed"), position("silent"), position("unfed"), position("unpriced"))
    one.set_quote("fed", 50, 50)
    one.set_quote("silent", 60, 60)
    sockets = Sockets(fed=90.0, silent=60.0)
    take_prices(one, sockets, {"fed": 1, "silent": 2, "unfed": 3, "foreign": 4}, fresh_since=70.0)
    assert {key: quote.bid for key, quote in one.quotes.items()} == {"fed": 50, "silent": 2, "unfed": 3}
    assert sockets.doubted == ["silent"]


def test_mirror_stays_clean_when_the_polled_price_is_the_one_it_has() -> None:
    one = mirror(position("a"))
    one.set_quote("a", 3, 3)
    one.clean()
    take_prices(one, Sockets(a=None), {"a": 3}, fresh_since=0.0)
    assert not one.dirty


def test_prices_that_nobody_renews_are_forgotten_and_that_is_a_change() -> None:
    one = mirror(position("a"), position("b"))
    one.set_quote("a", 1, 1)
    one.set_quote("b", 1, 1)
    one.clean()
    forget_unfed(one, Sockets(a=5.0))
    assert list(one.quotes) == ["a"]
    assert one.dirty


@pytest.mark.parametrize(
    ("theirs", "cash", "differs"),
    [
        ([position("a")], 100, False),
        ([position("a"), None], 100, False),
        ([position("a", 3)], 100, True),
        ([position("a", 2, Side.SELL)], 100, True),
        ([], 100, True),
        ([position("a"), position("b")], 100, True),
        ([position("a")], 101, True),
        ([position("a")], None, False),
    ],
)
def test_poll_disagrees_when_quantities_or_cash_differ(
    theirs: list[Position | None], cash: int | None, differs: bool
) -> None:
    balance = None if cash is None else BalanceChanged(Decimal(cash))
    assert disagrees(mirror(position("a")), theirs, balance) is differs


def test_lost_events_are_those_that_an_update_should_have_told() -> None:
    before = Contents.of(mirror(position("a"), position("b"), order("x"), order("y", stop=5)))
    told_by_none = [
        AccountChanged(used_margin=Decimal(7)),
        BalanceChanged(Decimal(7)),
        PositionChanged(Position("a", "a", Side.BUY, Decimal(2), Decimal("10.000000001"))),
        OrderChanged(order("y", stop=6)),
    ]
    assert lost_events(before, told_by_none) == 0
    lost = [
        PositionChanged(position("b", 3)),
        PositionChanged(position("c")),
        PositionClosed("a"),
        OrderChanged(order("x", OrderStatus.PENDING_CANCEL)),
        OrderChanged(order("z")),
        OrderGone("y"),
    ]
    assert lost_events(before, [*told_by_none, *lost]) == len(lost)


@pytest.mark.parametrize(
    ("positions", "orders", "doubt"),
    [
        ((position("a"),), (order("x"),), False),
        ((position("a", 9), position("b")), (order("x"), order("y")), False),
        ((), (order("x"),), True),
        ((position("a"),), (), True),
        ((), (), True),
    ],
)
def test_reading_is_doubted_when_it_removes_what_nobody_closed(
    positions: tuple[Position, ...], orders: tuple[Order, ...], doubt: bool
) -> None:
    reading = Snapshot(AccountChanged(), None, positions, orders)
    assert doubtful(mirror(position("a"), order("x")), reading) is doubt
