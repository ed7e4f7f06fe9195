"""What the trading stream says, in every kind of frame it says it in."""

import msgpack
import orjson
import pytest

from bridge.brokers.alpaca import frames
from bridge.brokers.alpaca.talk import LISTEN, Said, meaning
from core.errors import ProtocolViolation

UPDATE = {"stream": "trade_updates", "data": {"event": "new", "order": {"id": "1"}}}


@pytest.mark.parametrize("pack", [orjson.dumps, msgpack.packb], ids=["json", "msgpack"])
def test_document_is_the_same_when_it_comes_in_another_frame(pack) -> None:  # type: ignore[no-untyped-def]
    assert frames.read(pack(UPDATE)) == UPDATE
    assert frames.read(memoryview(pack([UPDATE] * 20))) == [UPDATE] * 20


def test_times_become_text_with_nanoseconds_when_they_are_messagepack_ones() -> None:
    packed = msgpack.packb(
        {"at": msgpack.Timestamp(1_700_000_000, 5), "order": {"at": msgpack.Timestamp(0, 999_999_999)}}
    )
    assert frames.read(packed) == {
        "at": "2023-11-14T22:13:20.000000005Z",
        "order": {"at": "1970-01-01T00:00:00.999999999Z"},
    }
    assert frames.unpack(packed)["at"].nanoseconds == 5


def test_heartbeat_is_nothing_when_it_is_one_byte() -> None:
    assert frames.read(b"\x01") is None
    assert frames.read(memoryview(b"\x01")) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x02",
        b"{",
        b"<html>no</html>",
        b"\xff\xfe",
        b"\xc1",
        b"\x81\xa1a",
        b"\x91" * 5000,
        b"[" * 5000,
        msgpack.packb({1: 2}),
        msgpack.packb(UPDATE) + b"x",
        msgpack.packb({"at": msgpack.Timestamp(2**40, 0)}),
        b'{"a": NaN}',
    ],
)
def test_frame_is_refused_when_it_cannot_be_read(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        frames.read(frame)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (UPDATE, Said.UPDATE),
        ({"stream": "trade_updates", "data": None}, Said.EMPTY),
        ({"stream": "trade_updates"}, Said.EMPTY),
        ({"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}, Said.AUTHORISED),
        ({"stream": "authorization", "data": {"status": "authorized", "action": "auth"}}, Said.AUTHORISED),
        ({"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}, Said.REFUSED),
        ({"stream": "authorization", "data": {"status": "exceeded"}}, Said.EXCEEDED),
        ({"stream": "authorization", "data": {"status": "who knows"}}, Said.NOISE),
        ({"stream": "authorization", "data": {"status": ["authorized"]}}, Said.NOISE),
        ({"stream": "authorization", "data": None}, Said.NOISE),
        ({"stream": "listening", "data": {"streams": ["trade_updates"]}}, Said.LISTENING),
        ({"stream": "listening", "data": {"streams": []}}, Said.DEAF),
        ({"stream": "listening", "data": {"streams": None}}, Said.DEAF),
        ({"stream": "listening", "data": {"streams": "trade_updates"}}, Said.DEAF),
        ({"action": "error", "data": {"error_message": "no"}}, Said.ERROR),
        ({"stream": "account_updates", "data": {}}, Said.NOISE),
        (None, Said.NOISE),
        ([UPDATE], Said.NOISE),
        ({}, Said.NOISE),
        (7, Said.NOISE),
    ],
)
def test_message_means_what_it_says_when_it_is_known(document: object, said: Said) -> None:
    assert meaning(document) is said


def test_trade_updates_are_all_that_is_listened_to() -> None:
    assert orjson.loads(LISTEN) == {"action": "listen", "data": {"streams": ["trade_updates"]}}
