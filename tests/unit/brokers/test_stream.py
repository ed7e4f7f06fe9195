"""The socket of a broker: it gives way in a flood of frames, puts parts together, and pings when told."""

import asyncio
from typing import Any

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from bridge.brokers.stream import SLICE_BYTES, Socket

FRAME_BYTES = 100


class Listener:
    def __init__(self) -> None:
        self.messages = 0
        self.texts: list[bytes] = []
        self.pongs = 0

    def heard(self, socket: Socket, size: int) -> None:
        pass

    def receive(self, data: object) -> None:
        self.messages += 1

    def receive_text(self, data: object) -> None:
        self.texts.append(bytes(data))  # type: ignore[call-overload]

    def pong(self, socket: Socket) -> None:
        self.pongs += 1

    def ended(self, socket: Socket) -> None:
        pass


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.calls: list[str] = []
        self.closing = False
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.reading = False
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.reading = True
        self.calls.append("resume")

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def opened() -> tuple[Socket, Listener, Transport]:
    listener, transport = Listener(), Transport()
    socket = Socket(listener, ClientProtocol(parse_uri("ws://127.0.0.1:1"), state=State.OPEN))
    socket.connection_made(transport)
    socket.response = Response(101, "Switching Protocols", Headers())
    return socket, listener, transport


def frames(size: int) -> bytes:
    """At least `size` bytes of whole frames."""
    frame = Frame(Opcode.BINARY, b"x" * (FRAME_BYTES - 2)).serialize(mask=False)
    return frame * (size // len(frame) + 1)


async def test_large_read_is_taken_in_slices_and_in_order_when_it_comes_at_once() -> None:
    socket, listener, transport = opened()
    data = frames(3 * SLICE_BYTES)
    socket.data_received(data)
    assert listener.messages == SLICE_BYTES // FRAME_BYTES
    assert transport.calls == ["pause"]
    turns = 0
    while transport.calls == ["pause"]:
        seen = listener.messages
        await asyncio.sleep(0)
        assert listener.messages - seen <= SLICE_BYTES // FRAME_BYTES + 1
        turns += 1
    assert turns == 4  # three slices and a bit, then the word to read on
    assert listener.messages == len(data) // FRAME_BYTES
    assert transport.calls == ["pause", "resume"]


async def test_late_read_waits_for_its_turn_when_an_earlier_one_is_not_done() -> None:
    socket, listener, transport = opened()
    data = frames(2 * SLICE_BYTES)
    socket.data_received(data[:-FRAME_BYTES])
    socket.data_received(data[-FRAME_BYTES:])
    while transport.calls == ["pause"]:
        await asyncio.sleep(0)
    assert listener.messages == len(data) // FRAME_BYTES


async def test_reading_goes_on_when_reads_are_small() -> None:
    socket, listener, transport = opened()
    socket.data_received(frames(SLICE_BYTES - FRAME_BYTES))
    assert listener.messages == SLICE_BYTES // FRAME_BYTES
    await asyncio.sleep(0)
    assert transport.calls == []


async def test_rest_of_a_read_is_dropped_when_the_transport_closed_meanwhile() -> None:
    socket, listener, transport = opened()
    socket.data_received(frames(3 * SLICE_BYTES))
    seen = listener.messages
    transport.closing = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert listener.messages <= seen + SLICE_BYTES // FRAME_BYTES + 1
    assert transport.calls == ["pause"]


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


async def test_message_is_whole_and_of_its_kind_when_it_comes_in_parts() -> None:
    socket, listener, _ = opened()
    socket.data_received(
        frame(Opcode.TEXT, b"one")
        + frame(Opcode.TEXT, b"t", fin=False)
        + frame(Opcode.PONG, b"")
        + frame(Opcode.CONT, b"wo")
        + frame(Opcode.BINARY, b"x", fin=False)
        + frame(Opcode.CONT, b"y")
    )
    assert listener.texts == [b"one", b"two"]
    assert listener.messages == 1
    assert listener.pongs == 1


async def test_ping_is_written_only_when_the_socket_is_open() -> None:
    socket, _, transport = opened()
    assert socket.transmit_ping()
    assert socket.transmit_text(b"{}")
    assert [data[:1] for data in transport.written] == [b"\x89", b"\x81"]
    transport.closing = True
    assert not socket.transmit_ping()
    assert not socket.transmit_text(b"{}")
    assert len(transport.written) == 2
