"""What arrives is the same however it was framed and cut, whichever implementation takes the frames apart."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from bridge.brokers.sockets import MAX_MESSAGE_BYTES, SLICE_BYTES, Socket
from tests.support.sockets import TRANSPORTS, dialled, opened

each_transport = pytest.mark.parametrize("kind", TRANSPORTS)


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


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


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


@each_transport
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(MESSAGES, max_size=12),
    cuts=st.lists(st.one_of(st.integers(1, 5), st.integers(1, 3 * SLICE_BYTES)), max_size=30),
)
def test_messages_are_the_same_however_their_bytes_are_cut(
    kind: str, messages: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    async def story() -> None:
        listener = Told()
        _, transport = opened(kind, listener)
        data, expected = b"", list[Any]()
        for number, (what, size, parts) in enumerate(messages):
            raw, told = written(what, size, parts, number)
            data += raw
            expected += told
        for cut in cuts:
            transport.arrive(data[:cut])
            data = data[cut:]
            await transport.drained()
        transport.arrive(data)
        await transport.drained()
        assert listener.told == expected
        pongs = sum(raw[:1] == b"\x8a" for raw in transport.written)
        pings = sum((what == "ping") + (parts - 1) for what, _, parts in messages)
        assert pongs == pings
        transport.close()

    asyncio.run(story())


@each_transport
async def test_what_arrived_is_handed_over_at_once_when_a_frame_is_the_shortest_there_is(kind: str) -> None:
    listener = Told()
    _, transport = opened(kind, listener)
    transport.arrive(frame(Opcode.PONG))
    assert listener.told == ["pong!"]
    transport.arrive(frame(Opcode.BINARY) + frame(Opcode.BINARY, b"x")[:1])
    assert listener.told == ["pong!", b""]
    transport.arrive(frame(Opcode.BINARY, b"x")[1:])
    assert listener.told == ["pong!", b"", b"x"]


@pytest.mark.parametrize(
    "bad",
    [
        frame(Opcode.BINARY, b"x", mask=True),
        frame(Opcode.BINARY, b"x" * 200, mask=True),
        b"\xc2\x01x",  # a reserved bit: compression that was not agreed on
        b"\x83\x01x",  # an unknown kind
        b"\x80\x01x",  # a continuation of nothing
        b"\x09\x00",  # a ping in parts
        b"\x89\x7e\x01\x00" + b"x" * 256,  # a ping with more than it may hold
        frame(Opcode.BINARY, b"a", fin=False) + frame(Opcode.BINARY, b"b"),  # a message within a message
        b"\x82\x7f" + (2**31).to_bytes(8, "big"),  # announces two gigabytes
        b"\x82\x7f" + (2**63).to_bytes(8, "big"),
        b"\x82\x7f" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"),
    ],
    ids=[
        *("masked", "masked-long", "reserved-bit", "kind", "continuation", "ping-in-parts", "large-ping", "within"),
        *("two-gigabytes", "length", "a-byte-too-many"),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
@each_transport
async def test_connection_ends_when_the_framing_is_broken(kind: str, bad: bytes, cut: int) -> None:
    listener = Told()
    socket, transport = opened(kind, listener)
    good = frame(Opcode.BINARY, b"good")
    for part in (good + bad[:cut], bad[cut:] + good * 3):
        transport.arrive(part)
        await transport.drained()
    assert listener.told == [b"good", "ended!"]
    assert not socket.transmit(b"more")
    assert b"".join(transport.written)[:1] == b"\x88"  # said why


@each_transport
async def test_connection_ends_when_a_message_in_parts_is_too_large(kind: str) -> None:
    listener = Told()
    socket, transport = opened(kind, listener)
    part = b"x" * (MAX_MESSAGE_BYTES // 4)
    transport.arrive(frame(Opcode.BINARY, part, fin=False))
    for _ in range(3):
        transport.arrive(frame(Opcode.CONT, part, fin=False))
    await transport.drained()
    assert listener.told == []
    transport.arrive(frame(Opcode.CONT, b"x"))
    await transport.drained()
    assert listener.told == ["ended!"]
    assert not socket.transmit(b"more")


@each_transport
async def test_message_is_told_when_it_is_as_large_as_it_may_be(kind: str) -> None:
    listener = Told()
    _, transport = opened(kind, listener)
    transport.arrive(frame(Opcode.BINARY, b"x" * MAX_MESSAGE_BYTES) + frame(Opcode.BINARY, b"y"))
    await transport.drained()
    assert [len(one) for one in listener.told] == [MAX_MESSAGE_BYTES, 1]


@each_transport
async def test_nothing_is_told_after_a_close_frame(kind: str) -> None:
    listener = Told()
    _, transport = opened(kind, listener)
    good = frame(Opcode.BINARY, b"good")
    transport.arrive(good + frame(Opcode.CLOSE, b"\x03\xe8") + good)
    transport.arrive(good)
    assert listener.told == [b"good", "ended!"]
    assert [data[:1] for data in transport.written] == [b"\x88"]


@each_transport
async def test_close_is_completed_when_messages_still_come(kind: str) -> None:
    listener = Told()
    socket, transport = opened(kind, listener)
    closing = asyncio.get_running_loop().create_task(socket.close())
    await asyncio.sleep(0)
    assert [data[:1] for data in transport.written] == [b"\x88"]
    assert not socket.transmit(b"too late")
    good = frame(Opcode.BINARY, b"good")
    transport.arrive(good + frame(Opcode.PONG) + good + frame(Opcode.CLOSE, b"\x03\xe8"))
    assert listener.told[:1] == [b"good"]
    assert listener.told[-1] == "ended!"
    transport.protocol.connection_lost(None)
    await closing


@pytest.mark.parametrize("cut", [10, -30, -6, -4, -3, -2, -1])
@each_transport
async def test_messages_follow_the_handshake_however_its_bytes_are_cut(kind: str, cut: int) -> None:
    told = Told()
    _, transport, response = dialled(kind, told)
    frames = frame(Opcode.TEXT, b"welcome") + frame(Opcode.BINARY, b"x" * 300)
    whole, at = response + frames, len(response) + cut
    for part in (whole[: at if cut < 0 else cut], whole[at if cut < 0 else cut : -100], whole[-100:]):
        transport.arrive(part)
    assert told.told == ["welcome", b"x" * 300]


@pytest.mark.parametrize(("kind", "told"), [("websockets", [b"at", "last"]), ("picows", ["ended!"])])
async def test_short_message_with_a_long_length_is_told_or_ends_the_connection(kind: str, told: list[Any]) -> None:
    """RFC 6455 §5.2 forbids it; only one of the two forgives it."""
    listener = Told()
    _, transport = opened(kind, listener)
    transport.arrive(b"\x82\x7f" + (2).to_bytes(8, "big") + b"at" + frame(Opcode.TEXT, b"last"))
    assert listener.told == told


class Faulty(Told):
    def receive(self, data: Any) -> None:
        raise ZeroDivisionError


async def test_bug_of_a_listener_reaches_the_loop_when_picows_would_keep_it() -> None:
    listener, seen = Faulty(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    _, transport = opened("picows", listener)
    transport.arrive(frame(Opcode.BINARY, b"x"))
    assert transport.closing
    assert listener.told == ["ended!"]
    transport.protocol.connection_lost(None)
    assert [type(one) for one in seen] == [ZeroDivisionError]
