"""The socket of a broker: it gives way in a flood of frames, puts parts together, and pings when told."""

import asyncio

import pytest
from websockets.frames import Frame, Opcode

from bridge.brokers.sockets import SLICE_BYTES, Socket
from bridge.brokers.transports.websockets import WebsocketsSocket
from tests.support.sockets import TRANSPORTS, opened

FRAME_BYTES = 100
each_transport = pytest.mark.parametrize("kind", TRANSPORTS)


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


def frames(size: int) -> bytes:
    """At least `size` bytes of whole frames."""
    frame = Frame(Opcode.BINARY, b"x" * (FRAME_BYTES - 2)).serialize(mask=False)
    return frame * (size // len(frame) + 1)


@each_transport
async def test_flood_is_taken_in_slices_and_in_order_when_it_comes_at_once(kind: str) -> None:
    listener = Listener()
    _, transport = opened(kind, listener)
    data = frames(6 * SLICE_BYTES)
    transport.arrive(data)
    assert listener.messages <= 3 * SLICE_BYTES // FRAME_BYTES  # a buffer that grew meanwhile has seen three slices
    turns = 0
    while listener.messages < len(data) // FRAME_BYTES:
        seen = listener.messages
        await asyncio.sleep(0)
        assert listener.messages - seen <= SLICE_BYTES // FRAME_BYTES + 1
        turns += 1
    assert turns >= 4
    await transport.drained()
    assert listener.messages == len(data) // FRAME_BYTES
    assert transport.calls[-1] == "resume"


async def test_late_read_waits_for_its_turn_when_an_earlier_one_is_not_done() -> None:
    listener = Listener()
    socket, transport = opened("websockets", listener)
    data = frames(2 * SLICE_BYTES)
    socket.data_received(data[:-FRAME_BYTES])
    socket.data_received(data[-FRAME_BYTES:])  # a transport may still hold some when it is told to pause
    await transport.drained()
    assert isinstance(socket, WebsocketsSocket)
    assert listener.messages == len(data) // FRAME_BYTES


@each_transport
async def test_reading_goes_on_when_reads_are_small(kind: str) -> None:
    listener = Listener()
    _, transport = opened(kind, listener)
    for _ in range(40):
        transport.arrive(frames(1000))
    assert listener.messages == 40 * 11
    await asyncio.sleep(0)
    assert transport.calls == []


@each_transport
async def test_rest_of_a_flood_is_dropped_when_the_transport_closed_meanwhile(kind: str) -> None:
    listener = Listener()
    _, transport = opened(kind, listener)
    transport.arrive(frames(6 * SLICE_BYTES))
    seen = listener.messages
    transport.close()
    for _ in range(8):
        await asyncio.sleep(0)
    assert listener.messages <= seen + SLICE_BYTES // FRAME_BYTES + 1
    assert transport.calls[-1] == "pause"


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


@each_transport
async def test_message_is_whole_and_of_its_kind_when_it_comes_in_parts(kind: str) -> None:
    listener = Listener()
    _, transport = opened(kind, listener)
    transport.arrive(
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


@each_transport
async def test_ping_is_written_only_when_the_socket_is_open(kind: str) -> None:
    socket, transport = opened(kind, Listener())
    assert socket.transmit_ping()
    assert socket.transmit_text(b"{}")
    assert [data[:1] for data in transport.written] == [b"\x89", b"\x81"]
    transport.close()
    assert not socket.transmit_ping()
    assert not socket.transmit_text(b"{}")
    assert len(transport.written) == 2
