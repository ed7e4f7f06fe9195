"""Whole messages in small frames do not go through the library's parser: what arrives must be the same all the same."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import accept_key

from bridge.brokers.stream import SLICE_BYTES, Socket
from tests.unit.brokers.test_stream import Transport


class Told:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def heard(self, socket: Socket, size: int) -> None:
        pass

    def receive(self, data: Any) -> None:
        self.told.append(bytes(data))

    def receive_text(self, data: Any) -> None:
        self.told.append(bytes(data).decode())

    def pong(self, socket: Socket) -> None:
        self.told.append("pong!")

    def ended(self, socket: Socket) -> None:
        if self.told[-1:] != ["ended!"]:
            self.told.append("ended!")


def opened() -> tuple[Socket, Told, Transport]:
    told, transport = Told(), Transport()
    socket = Socket(told, ClientProtocol(parse_uri("ws://127.0.0.1:1"), state=State.OPEN, max_size=1_000_000))
    socket.connection_made(transport)
    socket.response = Response(101, "Switching Protocols", Headers())
    return socket, told, transport


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


async def drained(transport: Transport) -> None:
    while not transport.reading:
        await asyncio.sleep(0)


SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
MESSAGES = st.one_of(
    st.tuples(st.just("binary"), SIZES, st.just(1)),
    st.tuples(st.just("text"), SIZES, st.just(1)),
    st.tuples(st.just("ping"), st.integers(0, 125), st.just(1)),
    st.tuples(st.just("pong"), st.integers(0, 125), st.just(1)),
    st.tuples(st.sampled_from(["binary", "text"]), SIZES, st.integers(2, 4)),
)


def written(kind: str, size: int, parts: int, number: int) -> tuple[bytes, list[Any]]:
    """Bytes of one message, and what must be told of it. Parts may have a ping between them."""
    data = bytes([65 + number % 26]) * size
    if kind in ("ping", "pong"):
        return frame(Opcode.PING if kind == "ping" else Opcode.PONG, data), ["pong!"] if kind == "pong" else []
    opcode = Opcode.BINARY if kind == "binary" else Opcode.TEXT
    told = [data if kind == "binary" else data.decode()]
    if parts == 1:
        return frame(opcode, data), told
    cut = size // parts
    pieces = [data[cut * at : cut * (at + 1) if at < parts - 1 else size] for at in range(parts)]
    frames = [frame(opcode if at == 0 else Opcode.CONT, piece, fin=at == parts - 1) for at, piece in enumerate(pieces)]
    return frame(Opcode.PING, b"?").join(frames), told


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(MESSAGES, max_size=12),
    cuts=st.lists(st.one_of(st.integers(1, 5), st.integers(1, 3 * SLICE_BYTES)), max_size=30),
)
def test_messages_are_the_same_however_their_bytes_are_cut(
    messages: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    async def story() -> None:
        socket, listener, transport = opened()
        data, expected = b"", list[Any]()
        for number, (kind, size, parts) in enumerate(messages):
            raw, told = written(kind, size, parts, number)
            data += raw
            expected += told
        for cut in cuts:
            socket.data_received(data[:cut])
            data = data[cut:]
            await drained(transport)
        socket.data_received(data)
        await drained(transport)
        assert listener.told == expected
        pongs = sum(raw[:1] == b"\x8a" for raw in transport.written)
        pings = sum((kind == "ping") + (parts - 1) for kind, _, parts in messages)
        assert pongs == pings

    asyncio.run(story())


async def test_what_arrived_is_handed_over_at_once_when_a_frame_is_the_shortest_there_is() -> None:
    socket, listener, _ = opened()
    socket.data_received(frame(Opcode.PONG))
    assert listener.told == ["pong!"]
    socket.data_received(frame(Opcode.BINARY) + frame(Opcode.BINARY, b"x")[:1])
    assert listener.told == ["pong!", b""]
    socket.data_received(frame(Opcode.BINARY, b"x")[1:])
    assert listener.told == ["pong!", b"", b"x"]


@pytest.mark.parametrize(
    "bad",
    [
        frame(Opcode.BINARY, b"x", mask=True),
        frame(Opcode.BINARY, b"x" * 200, mask=True),
        b"\xc2\x01x",  # a reserved bit: compression that was not agreed on
        b"\x83\x01x",  # an unknown kind
        b"\x80\x01x",  # a continuation of nothing
        frame(Opcode.BINARY, b"a", fin=False) + frame(Opcode.BINARY, b"b"),  # a message within a message
        b"\x82\x7f" + (2**31).to_bytes(8, "big"),  # announces two gigabytes
        b"\x82\x7f" + (2**63).to_bytes(8, "big"),
    ],
    ids=["masked", "masked-long", "reserved-bit", "kind", "continuation", "within", "two-gigabytes", "length"],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
async def test_connection_ends_when_the_framing_is_broken(bad: bytes, cut: int) -> None:
    socket, listener, transport = opened()
    good = frame(Opcode.BINARY, b"good")
    for part in (good + bad[:cut], bad[cut:] + good * 3):
        socket.data_received(part)
        await drained(transport)
    assert listener.told == [b"good", "ended!"]
    assert socket.protocol.state is not State.OPEN


async def test_nothing_is_told_after_a_close_frame() -> None:
    socket, listener, _ = opened()
    good = frame(Opcode.BINARY, b"good")
    socket.data_received(good + frame(Opcode.CLOSE, b"\x03\xe8") + good)
    socket.data_received(good)
    assert listener.told == [b"good", "ended!"]


async def test_close_is_completed_when_messages_still_come() -> None:
    socket, listener, _ = opened()
    socket.protocol.send_close(1000)
    good = frame(Opcode.BINARY, b"good")
    socket.data_received(good + frame(Opcode.PONG) + good + frame(Opcode.CLOSE, b"\x03\xe8"))
    assert listener.told[:1] == [b"good"]
    assert socket.protocol.close_rcvd is not None


RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


@pytest.mark.parametrize("cut", [10, -30, -6, -4, -3, -2, -1])
async def test_messages_follow_the_handshake_however_its_bytes_are_cut(cut: int) -> None:
    told, transport = Told(), Transport()
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1:1"))
    socket = Socket(told, protocol)
    socket.connection_made(transport)
    protocol.send_request(protocol.connect())
    assert protocol.key is not None
    response = RESPONSE % accept_key(protocol.key).encode()
    frames = frame(Opcode.TEXT, b"welcome") + frame(Opcode.BINARY, b"x" * 300)
    whole, at = response + frames, len(response) + cut
    for part in (whole[: at if cut < 0 else cut], whole[at if cut < 0 else cut : -100], whole[-100:]):
        socket.data_received(part)
    assert told.told == ["welcome", b"x" * 300]


async def test_next_message_is_told_when_a_short_one_gives_its_length_at_length() -> None:
    socket, listener, _ = opened()
    socket.data_received(b"\x82\x7f" + (2).to_bytes(8, "big") + b"at" + frame(Opcode.TEXT, b"last"))
    assert listener.told == [b"at", "last"]
