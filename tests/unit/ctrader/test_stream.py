"""The socket of a channel gives way: a flood of frames must not keep the event loop from everything else."""

import asyncio
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from bridge.brokers.ctrader.stream import FLOOD_BYTES, Socket


class Listener:
    def __init__(self) -> None:
        self.messages = 0

    def heard(self, socket: Socket, size: int) -> None:
        pass

    def receive(self, data: object) -> None:
        self.messages += 1

    def garbage(self, what: str) -> None:
        raise AssertionError(what)

    def ended(self, socket: Socket) -> None:
        pass


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.calls: list[str] = []
        self.closing = False

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
    return socket, listener, transport


def frames(size: int) -> bytes:
    """At least `size` bytes of whole frames."""
    frame = Frame(Opcode.BINARY, b"x" * 98).serialize(mask=False)
    return frame * (size // len(frame) + 1)


async def test_reading_pauses_for_one_turn_when_a_read_was_large() -> None:
    socket, listener, transport = opened()
    data = frames(FLOOD_BYTES)
    socket.data_received(data)
    assert listener.messages == len(data) // 100
    assert not transport.reading
    await asyncio.sleep(0)
    assert transport.calls == ["pause", "resume"]


async def test_reading_goes_on_when_reads_are_small() -> None:
    socket, listener, transport = opened()
    socket.data_received(frames(1000))
    await asyncio.sleep(0)
    assert listener.messages == 11
    assert transport.calls == []


async def test_nothing_is_resumed_when_the_transport_closed_meanwhile() -> None:
    socket, _, transport = opened()
    socket.data_received(frames(FLOOD_BYTES))
    transport.closing = True
    await asyncio.sleep(0)
    assert transport.calls == ["pause"]
