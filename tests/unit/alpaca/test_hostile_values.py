"""No value, wherever it stands in a document, raises anything but ProtocolViolation: a hostile broker breaks nothing.

Every place of every kind of document × every value that JSON or MessagePack can carry and nobody expects there. Raised
in the receive callback, anything else would end the connection from inside of the library, with frames in the trace.
"""

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgpack
import msgspec
import orjson
import pytest

from bridge.brokers.alpaca import frames, normalize, talk, updates, usual
from bridge.brokers.alpaca.activities import fill_of, read_activity
from bridge.brokers.alpaca.feed_trouble import of_code
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.reading import Executions, Reading, judge
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.snapshot import assemble, missing_orders
from bridge.brokers.alpaca.strangers import is_strange
from core.errors import ProtocolViolation
from core.events import BalanceChanged
from tests.unit.alpaca.documents import NOW, TIME, a_fill, a_mirror, a_position, an_account, an_activity, an_order

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**63, -(2**63), 10**15, 1.5, math.nan, math.inf, -math.inf, 1e308, 5e-324),
    *(
        "",
        " ",
        "x",
        "1",
        "-1",
        "NaN",
        "Infinity",
        "1e999",
        "9" * 400,
        "١",
        "\x00",
        "\n",
        "\ud7ff",
        "é" * 70,
        "x" * 10_000,
    ),
    *([], {}, [[]], [{}], [None], ["x"], [1], {"": {}}, {"id": []}, {"symbol": {}}, [{"id": {}}], [{"symbol": []}]),
    *("2026-11-20T14:30:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-11-20T14:30:00"),
)
LEG = an_order(id="l1", symbol="AAPL261218C00200000", side="buy")
MULTI = {
    "event": "fill",
    "timestamp": "2026-11-20T14:30:00Z",
    "price": "1",
    "qty": "1",
    "position_qtys": {"AAPL261218C00200000": "1"},
    "legs": [
        {"order_id": "l1", "execution_id": "e1", "symbol": LEG["symbol"], "side": "buy", "qty": "1", "price": "1"}
    ],
    "order": an_order(order_class="mleg", symbol="", asset_id="", legs=[LEG]),
}
BRACKET = an_order(order_class="bracket", legs=[an_order(id="l2", side="sell", status="held", stop_price="90")])


def places(document: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document, the document itself first."""
    yield way
    if isinstance(document, dict):
        for name, value in document.items():
            yield from places(value, (*way, name))
    elif isinstance(document, list):
        for at, value in enumerate(document):
            yield from places(value, (*way, at))


def with_value(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """The document with this value there."""
    if not way:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[way[0]] = with_value(document[way[0]], way[1:], value)
    return copy


def hostile(document: Any) -> Iterator[Any]:
    for way in places(document):
        for value in ODD:
            yield with_value(document, way, value)


def accepted(act: Callable[[Any], object], document: Any) -> bool:
    """Whether it was used. Anything but ProtocolViolation fails the test, and names the document."""
    try:
        act(document)
    except ProtocolViolation:
        return False
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {document!r:.600}") from error
    return True


@pytest.mark.parametrize("message", [a_fill(), MULTI, a_fill(order=BRACKET), {"event": "new", "order": BRACKET}])
def test_a_trade_update_is_used_or_refused_when_any_value_in_it_is_odd(message: dict[str, Any]) -> None:
    def act(data: Any) -> None:
        assets = Assets()
        mirror, memory = a_mirror(assets), Executions(AlpacaSettings())
        update = updates.read(data)
        is_strange(update, mirror, memory)
        facts = updates.facts(update, mirror, assets, memory.included)
        mirror.apply(facts.execution, NOW)
        memory.heard(facts, 1.0)
        for fill in facts.fills:
            mirror.note_fill(fill)

    used = [accepted(act, data) for data in hostile(message)]
    assert {True, False} <= set(used)


PLAIN = [
    an_order(status="new"),
    an_order(status="canceled"),
    an_order(type="stop_limit", stop_price="90", side="sell", status="pending_cancel"),
]


@pytest.mark.parametrize(
    "data",
    [
        *({"event": "new", "timestamp": TIME, "order": order} for order in PLAIN),
        a_fill(),
        a_fill(event="fill", qty="3", position_qty="-3", order=an_order(status="filled", filled_qty="10", side="sell")),
    ],
)
def test_the_short_way_says_what_the_long_way_says_or_nothing_when_any_value_is_odd(data: dict[str, Any]) -> None:
    assets = Assets()
    mirror = a_mirror(assets)
    known = updates.facts(updates.read({"event": "new", "order": an_order()}), mirror, assets, lambda key: False)
    mirror.apply(known.execution, NOW)
    mirror.apply_all([BalanceChanged(Decimal(1000))], NOW)
    taken = 0
    for document in hostile({"stream": "trade_updates", "data": data}):
        try:
            frame = msgspec.json.encode(document)
        except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
            continue
        short = usual.facts(frame, mirror, assets, lambda key: False)
        if short is None:
            continue
        taken += 1
        same = frames.read(frame)
        assert talk.meaning(same) is talk.Said.UPDATE, document
        update = updates.read(same["data"])
        assert short == (update.event, updates.facts(update, mirror, assets, lambda key: False)), document
    assert taken > 20, "the way must be taken, or nothing is compared"


@pytest.mark.parametrize("part", ["account", "positions", "orders", "fills"])
def test_a_reading_is_used_or_refused_when_any_value_in_it_is_odd(part: str) -> None:
    documents: dict[str, Any] = {
        "account": an_account(multiplier="4", initial_margin="10", trading_blocked=False),
        "positions": [a_position()],
        "orders": [BRACKET, MULTI["order"]],
        "fills": [an_activity("e1")],
    }

    def act(document: Any) -> None:
        assets = Assets()
        mirror, memory = a_mirror(assets), Executions(AlpacaSettings())
        told = {**documents, part: document}
        if not isinstance(told["account"], dict) or any(
            not isinstance(told[name], list) or not all(isinstance(each, dict) for each in told[name])
            for name in ("positions", "orders", "fills")
        ):
            raise ProtocolViolation("refused by `document` and `documents`")
        rows = tuple(read_activity(each) for each in told["fills"])
        reading = Reading(
            told["account"], tuple(told["positions"]), tuple(told["orders"]), rows, memory.mark(NOW), True
        )
        normalize.account_id(reading.account)
        normalize.closed(reading.account)
        judge(reading, memory, missing_orders(reading, mirror), 1.0)
        assemble(reading, mirror, assets, memory)
        for fill in rows:
            fill_of(fill, assets, recovered=True)

    used = [accepted(act, document) for document in hostile(documents[part])]
    assert {True, False} <= set(used)


def test_an_asset_is_used_or_refused_when_any_value_in_it_is_odd() -> None:
    asset = {
        **{"id": "a1", "symbol": "BTC/USD", "class": "crypto", "price_increment": "0.01"},
        **{"min_order_size": "0.0001", "min_trade_increment": "0.0001"},
    }
    used = [accepted(lambda document: Assets().of_asset(with_document(document)), each) for each in hostile(asset)]
    assert {True, False} <= set(used)


def with_document(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ProtocolViolation("refused by `document`")
    return value


def test_a_stream_message_has_a_meaning_when_any_value_in_it_is_odd() -> None:
    for message in (
        {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}},
        {"stream": "listening", "data": {"streams": ["trade_updates"]}},
        {"action": "error", "data": {"error_message": "no"}},
    ):
        for document in hostile(message):
            assert accepted(talk.meaning, document)
    for code in (0, -1, 10**9, 406):
        of_code(code)


DEEP = 100_000
FRAMES = {
    "deep JSON": b"[" * DEEP + b"]" * DEEP,
    "deep JSON objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "NaN": b'{"T":NaN}',
    "Infinity": b'[{"T":"t","p":Infinity}]',
    "deep MessagePack": b"\x91" * DEEP + b"\xc0",
    "deep MessagePack maps": b"\x81\xa1a" * DEEP + b"\xc0",
    "a list said to be huge": b"\xdd\xff\xff\xff\xff",
    "a map said to be huge": b"\xdf\xff\xff\xff\xff",
    "a text said to be huge": b"\x91\xdb\xff\xff\xff\xff",
    "bytes said to be huge": b"\x91\xc6\xff\xff\xff\xff",
    "keys that are no text": b"\x81\x01\x01",
    "a key that is a list": b"\x81\x90\x01",
    "bytes as key": b"\x81\xc4\x01a\x01",
    "a time before all times": b"\x81\xa1t\xc7\x0c\xff\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00",
    "a time after all times": b"\x81\xa1t\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a time of impossible parts": b"\x81\xa1t\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "an extension nobody knows": b"\x81\xa1t\xc7\x02\x05ab",
    "text that is none": b"\x91\xa2\xff\xfe",
    "two documents": b"\x80\x80",
    "nothing": b"",
    "a gzip stream": b"\x1f\x8b\x08\x00" + bytes(40),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_is_read_or_refused_when_it_is_hostile(name: str, kind: Any) -> None:
    frame = kind(FRAMES[name])
    for read in (frames.read, frames.unpack, lambda data: frames.unpack(data, times=True)):
        accepted(read, frame)


def test_a_message_is_packed_the_same_when_it_came_as_json_or_messagepack() -> None:
    message = a_fill()
    assert frames.read(orjson.dumps(message)) == frames.read(msgpack.packb(message)) == message
