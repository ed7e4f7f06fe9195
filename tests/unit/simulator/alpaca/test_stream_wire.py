"""The server's end of a WebSocket: handshake, fragments, compression, limits. Judge: the client core of websockets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from bridge.simulator.alpaca.streams.wire import Message, StreamWire, header


def pair(*, deflate: bool = False, max_bytes: int = 1 << 20) -> tuple[StreamWire, ClientProtocol]:
    """A wire and a client that have shaken hands."""
    extensions = [ClientPerMessageDeflateFactory()] if deflate else None
    client = ClientProtocol(parse_uri("ws://localhost/stream"), extensions=extensions, max_size=None)
    client.send_request(client.connect())
    wire = StreamWire(max_bytes)
    assert wire.upgrade(b"".join(client.data_to_send())).status_code == 101
    client.receive_data(wire.replies()[0])
    client.events_received()
    assert client.state is State.OPEN
    return wire, client


def from_client(wire: StreamWire, client: ClientProtocol) -> list[Message]:
    return wire.feed(b"".join(client.data_to_send()))


def at_client(client: ClientProtocol, raw: bytes) -> list[Frame]:
    client.receive_data(raw)
    return [event for event in client.events_received() if isinstance(event, Frame)]


def test_a_plain_request_is_answered_426() -> None:
    assert StreamWire(1000).upgrade(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").status_code == 426


def test_what_is_no_request_is_an_error() -> None:
    with pytest.raises(ValueError, match="head"):
        StreamWire(1000).upgrade(b"hello")


def test_fragments_are_one_message_even_with_a_ping_between_them() -> None:
    wire, client = pair()
    client.send_binary(b"one ", fin=False)
    client.send_ping(b"?")
    client.send_continuation(b"two ", fin=False)
    client.send_continuation(b"three", fin=True)
    assert from_client(wire, client) == [Message(b"one two three", False)]
    (pong,) = at_client(client, wire.replies()[0])
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"?")


def test_bytes_may_come_one_by_one() -> None:
    wire, client = pair()
    client.send_text(b'{"a":1}')
    raw = b"".join(client.data_to_send())
    messages = [message for byte in raw for message in wire.feed(bytes((byte,)))]
    assert messages == [Message(b'{"a":1}', True)]


@settings(max_examples=30)
@given(size=st.sampled_from([0, 1, 125, 126, 65_535, 65_536, 100_000]), is_text=st.booleans(), deflate=st.booleans())
def test_what_is_sent_arrives_whole(size: int, is_text: bool, deflate: bool) -> None:
    wire, client = pair(deflate=deflate)
    for content in (b"x" * size, b"y" * size):
        (frame,) = at_client(client, wire.frame(content, is_text=is_text))
        assert bytes(frame.data) == content
        assert frame.opcode is (Opcode.TEXT if is_text else Opcode.BINARY)
        (client.send_text if is_text else client.send_binary)(content)
        assert from_client(wire, client) == [Message(content, is_text)]


def test_deflate_is_used_when_it_was_offered() -> None:
    wire, _ = pair(deflate=True)
    assert len(wire.frame(b"x" * 10_000, is_text=False)) < 200
    wire, _ = pair()
    assert wire.frame(b"x" * 10, is_text=True) == header(10, is_text=True) + b"x" * 10


def test_a_message_that_is_too_long_closes_with_1009() -> None:
    wire, client = pair(max_bytes=1000)
    client.send_binary(b"x" * 600, fin=False)
    client.send_continuation(b"x" * 600, fin=True)
    assert from_client(wire, client) == []
    raw, closing = wire.replies()
    at_client(client, raw)
    assert closing
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == CloseCode.MESSAGE_TOO_BIG
    assert wire.frame(b"more", is_text=True) == b""
    assert not wire.client_closed


def test_a_goodbye_of_the_client_is_told_and_answered() -> None:
    wire, client = pair()
    client.send_close(1000)
    assert from_client(wire, client) == []
    assert wire.client_closed
    raw, closing = wire.replies()
    at_client(client, raw)
    assert closing
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1000
    wire.close(1001, "too late")  # nothing left to say, and no error
