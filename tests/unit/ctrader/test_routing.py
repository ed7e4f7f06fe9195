"""From a frame to its account: prices, foreign events, garbage, and what is ignored."""

import random
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader import codec
from bridge.brokers.ctrader.faults import Refusal
from bridge.brokers.ctrader.requests import Requests
from bridge.brokers.ctrader.routing import GARBAGE_IN_A_ROW, Router
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.ctrader.shared_quote import SharedQuote
from bridge.brokers.stats import Stats
from bridge.runtime.clock import ManualClock
from core.account import AccountMirror
from core.instruments import Catalogue
from core.secret import Secret
from protos.ctrader import common_messages_pb2, messages_pb2


class Account:
    """A route that remembers."""

    def __init__(self) -> None:
        self.mirror = AccountMirror("demo", "7", Catalogue())
        self.symbols = {1: "1"}
        self.holds: dict[int, SharedQuote] = {}
        self.events: list[int] = []
        self.invalidated = 0

    def event(self, payload_type: int, payload: bytes) -> None:
        self.events.append(payload_type)

    def ended(self, fault: BrokerFault) -> None:
        raise AssertionError("not in these tests")

    def token_invalidated(self) -> None:
        self.invalidated += 1

    def follow(self) -> None:
        raise AssertionError("not in these tests")


class Channel:
    """Whom the router tells."""

    def __init__(self) -> None:
        self.blocked = 0
        self.closed = 0
        self.errors: list[Refusal] = []

    def application_blocked(self) -> None:
        self.blocked += 1

    def unasked_error(self, refusal: Refusal) -> None:
        self.errors.append(refusal)

    def unreadable(self) -> None:
        self.closed += 1


class World:
    def __init__(self) -> None:
        self.stats = Stats()
        self.channel = Channel()
        settings = CtraderSettings("id", Secret("secret"))
        requests = Requests(settings, ManualClock(), random.Random(1), self.stats, lambda _: True, lambda: None)
        self.router = Router(self.channel, requests, self.stats)
        self.account = Account()
        self.router.routes[7] = self.account

    def receive(self, message: Any, payload_type: int | None = None) -> None:
        kind = payload_type if payload_type is not None else codec.PAYLOAD_TYPES[type(message)]
        self.router.receive(codec.encode(kind, message.SerializePartialToString()))


@pytest.fixture
def world() -> World:
    return World()


def spot(account: int = 7, symbol: int = 1, **sides: int) -> messages_pb2.ProtoOASpotEvent:
    return messages_pb2.ProtoOASpotEvent(ctidTraderAccountId=account, symbolId=symbol, **sides)


def test_price_reaches_the_mirror_when_its_symbol_is_subscribed(world: World) -> None:
    world.receive(spot(bid=108_950, ask=108_952))
    quote = world.account.mirror.quotes["1"]
    assert (quote.bid, quote.ask) == (108_950, 108_952)
    assert world.account.mirror.dirty


def test_absent_side_keeps_its_last_value_when_a_price_brings_one(world: World) -> None:
    world.receive(spot(bid=100, ask=102))
    world.receive(spot(ask=105))
    world.receive(spot(bid=0))
    quote = world.account.mirror.quotes["1"]
    assert (quote.bid, quote.ask) == (100, 105)


def test_price_is_ignored_when_nobody_wants_the_symbol(world: World) -> None:
    world.receive(spot(symbol=2, bid=1))
    assert world.account.mirror.quotes == {}
    assert world.stats.get("stray_prices") == 1


def test_price_is_quarantined_when_it_is_absurd(world: World) -> None:
    world.receive(spot(bid=10**15))
    assert world.account.mirror.quotes == {}
    assert world.stats.get("quarantined") == 1


@pytest.mark.parametrize(
    "message",
    [
        spot(account=8, bid=1),
        messages_pb2.ProtoOAMarginChangedEvent(ctidTraderAccountId=8, positionId=1, usedMargin=1),
        messages_pb2.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=8),
    ],
)
def test_event_is_dropped_and_counted_when_its_account_is_foreign(world: World, message: Any) -> None:
    world.receive(message)
    assert world.stats.get("foreign_events") == 1
    assert world.account.events == []
    assert world.account.mirror.events == 0


def test_event_is_late_not_foreign_when_its_account_has_just_left(world: World) -> None:
    world.router.depart(7)
    world.receive(spot(bid=1))
    assert world.stats.get("foreign_events") == 0
    assert world.stats.get("late_events") == 1


def test_event_is_late_not_foreign_when_its_channel_is_being_closed(world: World) -> None:
    world.router.end()
    world.receive(spot(bid=1))
    assert world.stats.get("foreign_events") == 0
    assert world.stats.get("late_events") == 1


def test_account_is_told_when_its_event_holds_an_unknown_value(world: World) -> None:
    event = messages_pb2.ProtoOAExecutionEvent(ctidTraderAccountId=7, executionType=2)
    raw = event.SerializeToString().replace(b"\x18\x02", b"\x18\x63")  # executionType 99
    world.router.receive(codec.encode(codec.EXECUTION, raw))
    assert world.account.events == [codec.EXECUTION]  # the account sees that it is not whole, and reconciles


def test_unknown_payload_type_is_ignored_and_counted(world: World) -> None:
    world.receive(common_messages_pb2.ProtoHeartbeatEvent(), payload_type=9999)
    assert world.stats.get("unknown_payload_types") == 1
    assert world.channel.closed == 0


def test_channel_is_closed_when_ten_frames_in_a_row_are_garbage(world: World) -> None:
    for _ in range(GARBAGE_IN_A_ROW - 1):
        world.router.receive(b"\xff\xff\xff")
    assert world.channel.closed == 0
    world.router.receive(b"\xff\xff\xff")
    assert world.channel.closed == 1


def test_channel_stays_when_garbage_is_scattered(world: World) -> None:
    for _ in range(4 * GARBAGE_IN_A_ROW):
        world.router.receive(b"\xff\xff\xff")
        world.receive(spot(bid=5))
    assert world.channel.closed == 0
    assert world.stats.get("garbage_frames") == 4 * GARBAGE_IN_A_ROW


def test_empty_frame_is_garbage(world: World) -> None:
    world.router.receive(b"")
    assert world.stats.get("garbage_frames") == 1


def test_every_account_here_is_told_when_a_token_ends(world: World) -> None:
    event = messages_pb2.ProtoOAAccountsTokenInvalidatedEvent(ctidTraderAccountIds=[7, 8], reason="revoked")
    world.receive(event)
    assert world.account.invalidated == 1
    assert world.stats.get("foreign_events") == 0


def test_channel_hears_of_blocks_and_unasked_errors(world: World) -> None:
    world.receive(messages_pb2.ProtoOAClientDisconnectEvent(reason="blocked"))
    world.receive(messages_pb2.ProtoOAErrorRes(errorCode="CANT_ROUTE_REQUEST"))
    assert world.channel.blocked == 1
    assert [error.code for error in world.channel.errors] == ["CANT_ROUTE_REQUEST"]


def test_heartbeat_is_taken_without_an_answer(world: World) -> None:
    world.router.receive(codec.HEARTBEAT_FRAME)
    assert world.stats.read().get("ignored_messages") is None
    assert world.stats.get("garbage_frames") == 0


@given(st.binary(max_size=80))
def test_nothing_raises_and_no_account_changes_when_bytes_are_random(data: bytes) -> None:
    world = World()
    world.router.receive(data)
    assert world.account.mirror.quotes == {}


VALID = codec.encode(codec.SPOT, spot(bid=108_950, ask=108_952).SerializeToString(), "abc")


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255), st.integers(0, len(VALID)))
def test_nothing_raises_when_a_valid_frame_is_mutated_or_cut(index: int, value: int, length: int) -> None:
    world = World()
    frame = bytearray(VALID)
    frame[index] = value
    world.router.receive(bytes(frame)[:length])
    for quote in world.account.mirror.quotes.values():
        assert quote.bid is None or 0 < quote.bid < 10**15
        assert quote.ask is None or 0 < quote.ask < 10**15


def test_memory_does_not_grow_with_what_was_ever_received() -> None:
    """A message object keeps the memory of all that was parsed into it; months of frames must leave nothing behind."""
    world = World()
    payload = b"x" * 2000
    frame = common_messages_pb2.ProtoMessage(payloadType=codec.HEARTBEAT, payload=payload).SerializeToString()
    process = psutil.Process()
    world.router.receive(frame)
    before = process.memory_info().rss
    for _ in range(50_000):  # 100 MB in all
        world.router.receive(frame)
    assert process.memory_info().rss - before < 20 * 2**20
