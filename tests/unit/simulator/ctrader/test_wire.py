"""Both wires give the same messages whatever the pieces they arrive in."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from bridge.simulator.ctrader.wire import MAX_MESSAGE_BYTES, TcpWire, TooLong, WebSocketWire, sniff


def never() -> None:
    return None


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def upgraded() -> tuple[WebSocketWire, ClientProtocol]:
    wire, client = WebSocketWire(), ClientProtocol(parse_uri("ws://localhost/"))
    client.send_request(client.connect())
    assert wire.feed(b"".join(client.data_to_send())) == []
    answer, closing = wire.replies()
    client.receive_data(answer)
    client.events_received()
    assert not closing
    return wire, client


@given(messages=st.lists(st.binary(max_size=300), max_size=8), cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_tcp_messages_come_out_whole_when_the_stream_is_cut_anywhere(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(struct.pack(">I", len(each)) + each for each in messages)
    wire = TcpWire()
    assert [message for piece in pieces(stream, cuts) for message in wire.feed(piece)] == messages


@given(messages=st.lists(st.binary(max_size=300), max_size=5), cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_websocket_messages_come_out_whole_when_the_stream_is_cut_anywhere(
    messages: list[bytes], cuts: list[int]
) -> None:
    wire, client = upgraded()
    for message in messages:
        client.send_binary(message[:100], fin=False)
        client.send_continuation(message[100:], fin=True)
    stream = b"".join(client.data_to_send())
    assert [message for piece in pieces(stream, cuts) for message in wire.feed(piece)] == messages


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_frame_reads_back_when_a_client_library_parses_it(length: int) -> None:
    wire, client = upgraded()
    message = bytes(length)
    client.receive_data(wire.header(length) + message)
    (frame,) = client.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.data) == (Opcode.BINARY, message)


def test_the_wire_is_known_when_four_bytes_have_come() -> None:
    assert sniff(b"GET", never) is None
    assert isinstance(sniff(b"GET / HTTP/1.1", never), WebSocketWire)
    assert isinstance(sniff(b"\x00\x00\x00\x10", never), TcpWire)


def test_a_message_is_refused_when_longer_than_the_limit() -> None:
    with pytest.raises(TooLong):
        TcpWire().feed(struct.pack(">I", MAX_MESSAGE_BYTES + 1))
    assert TcpWire().feed(struct.pack(">I", MAX_MESSAGE_BYTES)) == []


def test_nothing_may_be_sent_when_the_wire_has_closed() -> None:
    wire, _ = upgraded()
    assert wire.ready
    wire.close(1000, "")
    assert not wire.ready
    tcp = TcpWire()
    tcp.close(1000, "")
    assert not tcp.ready
