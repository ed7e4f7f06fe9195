"""The joined spot frames are byte for byte what separate messages would be."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.ctrader.connection import Authorisation
from bridge.simulator.ctrader.counters import Counters
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.spots import SpotBoard, Tick, varint
from bridge.simulator.ctrader.wire import TcpWire
from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m

PRICES = st.one_of(st.none(), st.integers(1, 2**40))


class FakeConnection:
    """Takes what the board writes."""

    def __init__(self) -> None:
        self.wire = TcpWire()
        self.paused = False
        self.missed: set[tuple[str, int]] = set()
        self.data = b""
        self.sent: list[Any] = []

    def write(self, data: bytes) -> None:
        self.data += data

    def send(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing.message)


def board() -> SpotBoard:
    return SpotBoard(Counters(), lambda server, symbol: None, lambda server, symbol, period: None)


@given(
    accounts=st.lists(st.integers(1, 2**45), min_size=1, max_size=30, unique=True),
    symbol_id=st.integers(1, 2**21),
    bid=PRICES,
    ask=PRICES,
)
def test_every_account_gets_its_own_event_when_a_tick_is_joined(
    accounts: list[int], symbol_id: int, bid: int | None, ask: int | None
) -> None:
    spots, connection = board(), FakeConnection()
    for account_id in accounts:
        held = Authorisation(account_id, True, spots={symbol_id: False})
        spots.join(connection, held, "S", symbol_id)  # type: ignore[arg-type]

    spots.publish(Tick("S", symbol_id, bid, ask, 0), faulty=False)

    events = []
    for raw in TcpWire().feed(connection.data):
        envelope = common.ProtoMessage.FromString(raw)
        assert envelope.payloadType == 2131
        events.append(m.ProtoOASpotEvent.FromString(envelope.payload))
    expected = [m.ProtoOASpotEvent(ctidTraderAccountId=each, symbolId=symbol_id, bid=bid, ask=ask) for each in accounts]
    assert sorted(events, key=lambda each: each.ctidTraderAccountId) == sorted(
        expected, key=lambda each: each.ctidTraderAccountId
    )


@given(st.integers(0, 2**63 - 1))
def test_a_varint_is_what_protobuf_writes_when_encoded(number: int) -> None:
    assert m.ProtoOASpotEvent(ctidTraderAccountId=number, symbolId=1).SerializeToString() == (
        b"\x10" + varint(number) + b"\x18\x01"
    )


def test_nobody_is_told_when_the_subscription_has_ended() -> None:
    spots, connection = board(), FakeConnection()
    held = Authorisation(7, True, spots={1: False})
    spots.join(connection, held, "S", 1)  # type: ignore[arg-type]
    spots.leave(connection, held)  # type: ignore[arg-type]
    spots.publish(Tick("S", 1, 1, 2, 0), faulty=False)
    assert connection.data == b""
    assert not spots.subscribed("S", 1)


def test_a_tick_is_kept_for_later_when_the_connection_is_paused() -> None:
    spots, connection = board(), FakeConnection()
    spots.join(connection, Authorisation(7, True, spots={1: False}), "S", 1)  # type: ignore[arg-type]
    connection.paused = True
    spots.publish(Tick("S", 1, 1, 2, 0), faulty=False)
    assert connection.data == b""
    assert connection.missed == {("S", 1)}
