"""The bad line of the fault suites does what its tests believe it does, in front of a plain server."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.fault_proxy import CHUNK, FaultProxy, Lane, fault_proxy
from tests.support.waiting import eventually

PATIENCE_S = 5.0
Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Answers each byte with the same byte, and remembers what it heard and how connections ended."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[str] = []
        self.last_word = b""  # said once the client has ended its direction

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                self.heard += data
                writer.write(data)
                await writer.drain()
            self.ends.append("closed")
            writer.write(self.last_word)
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()


@asynccontextmanager
async def behind() -> AsyncIterator[tuple[FaultProxy, Server]]:
    server = Server()
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    async with asyncio.timeout(30), fault_proxy(listening.sockets[0].getsockname()[1], seed=7) as proxy:
        yield proxy, server
    listening.close()


@asynccontextmanager
async def dialled(proxy: FaultProxy) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def said(talk: Talk, data: bytes) -> bytes:
    """Say this and hear as much."""
    talk[1].write(data)
    return await talk[0].readexactly(len(data))


async def hears_nothing(talk: Talk, for_s: float = 0.2) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(talk[0].read(1), for_s)


async def test_bytes_ends_and_last_words_pass_when_nothing_is_wrong() -> None:
    data = bytes(range(256)) * 4_000
    async with behind() as (proxy, server), dialled(proxy) as talk:
        server.last_word = b"goodbye"
        before_ms = proxy.last_sent_ms
        await asyncio.sleep(0.01)  # a later millisecond
        assert await said(talk, data) == data
        assert (proxy.upstream.passed, proxy.downstream.passed) == (len(data), len(data))
        assert proxy.last_sent_ms > before_ms
        talk[1].write_eof()
        assert await talk[0].read() == b"goodbye"
        assert server.ends == ["closed"]


async def test_a_reset_is_passed_on_as_a_reset() -> None:
    async with behind() as (proxy, server), dialled(proxy) as talk:
        await said(talk, b"hello")
        plug = talk[1].get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        talk[1].transport.abort()
        await eventually(lambda: server.ends == ["reset"], within_s=PATIENCE_S)


@pytest.mark.parametrize(("lane", "both_ways_s"), [("upstream", 0.2), ("downstream", 0.2), ("both", 0.4)])
async def test_everything_is_later_and_in_order_when_a_lane_is_slow(lane: str, both_ways_s: float) -> None:
    async with behind() as (proxy, _), dialled(proxy) as talk:
        (proxy if lane == "both" else getattr(proxy, lane)).set(latency_s=0.2, jitter_s=0.05)
        begun = time.monotonic()
        for number in range(10):  # pieces of their own, all on their way at once
            talk[1].write(bytes([number]))
            await asyncio.sleep(0.002)
        assert await talk[0].readexactly(10) == bytes(range(10))
        assert both_ways_s <= time.monotonic() - begun < both_ways_s + 1
        proxy.set(latency_s=0.0, jitter_s=0.0)

        async def took_s() -> float:
            begun = time.monotonic()
            await said(talk, b"quick")
            return time.monotonic() - begun

        assert min([await took_s() for _ in range(5)]) < both_ways_s / 2


async def test_no_more_than_the_width_passes_when_a_lane_is_narrow() -> None:
    async with behind() as (proxy, _), dialled(proxy) as talk:
        proxy.upstream.set(bytes_per_s=10_000)
        begun = time.monotonic()
        await said(talk, b"x" * 4_000)
        assert time.monotonic() - begun >= 0.35


async def test_pieces_are_small_when_a_lane_slices() -> None:
    async with behind() as (proxy, _), dialled(proxy) as talk:
        proxy.downstream.set(slice_bytes=3, slice_gap_s=0.05)
        begun, heard = time.monotonic(), b""
        talk[1].write(b"0123456789")
        while len(heard) < 10:
            heard += await talk[0].read(CHUNK)
            assert len(heard) in (3, 6, 9, 10)  # who is late finds two together
        assert heard == b"0123456789"
        assert time.monotonic() - begun >= 0.15


async def test_a_connection_is_closed_when_its_limit_has_passed_and_the_next_one_too() -> None:
    async with behind() as (proxy, server):
        async with dialled(proxy) as talk:
            await said(talk, b"0123456789")
            proxy.downstream.set(limit_bytes=4)
            talk[1].write(b"abcdefgh")
            assert await talk[0].read() == b"abcd"
        async with dialled(proxy) as talk:
            talk[1].write(b"ABCDEFGH")
            assert await talk[0].read() == b"ABCD"
        await eventually(lambda: len(server.ends) == 2, within_s=PATIENCE_S)
        proxy.downstream.set(limit_bytes=None)
        async with dialled(proxy) as talk:
            assert await said(talk, b"whole again") == b"whole again"


async def test_the_same_bits_are_flipped_when_the_seed_is_the_same() -> None:
    zeros = bytes(20_000)

    async def flipped(slice_bytes: int | None) -> bytes:
        async with behind() as (proxy, server):
            proxy.upstream.set(flip_every=500, slice_bytes=slice_bytes)
            async with dialled(proxy) as talk:
                assert await said(talk, zeros) == server.heard
            return server.heard

    spoilt = await flipped(None)
    bits = sum(byte.bit_count() for byte in spoilt)
    assert 20 < bits < 80
    assert len(spoilt) - spoilt.count(0) == bits
    assert spoilt == await flipped(777)


async def test_an_end_comes_late_when_closes_are_slow() -> None:
    async with behind() as (proxy, server), dialled(proxy) as talk:
        await said(talk, b"hello")
        proxy.upstream.set(close_after_s=0.3)
        begun = time.monotonic()
        talk[1].write_eof()
        await eventually(lambda: server.ends == ["closed"], within_s=PATIENCE_S)
        assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("lane", ["upstream", "downstream"])
async def test_nothing_arrives_and_nobody_is_told_when_a_lane_swallows(lane: str) -> None:
    async with behind() as (proxy, server):
        async with dialled(proxy) as talk:
            await said(talk, b"hello")
            getattr(proxy, lane).set(swallow=True)
            talk[1].write(b"lost")
            await hears_nothing(talk)
            arrived = b"hello" if lane == "upstream" else b"hellolost"
            await eventually(lambda: server.heard == arrived, within_s=PATIENCE_S)
            await eventually(lambda: getattr(proxy, lane).swallowed == 4, within_s=PATIENCE_S)
            talk[1].write_eof()
            await hears_nothing(talk)
            await proxy.heal()  # what lost bytes can never be right again
            with pytest.raises(ConnectionResetError):
                await talk[0].read()
        async with dialled(proxy) as talk:
            assert await said(talk, b"again") == b"again"


async def test_nothing_is_lost_when_a_half_open_line_comes_back() -> None:
    async with behind() as (proxy, server), dialled(proxy) as talk:
        proxy.hold()
        talk[1].write(b"late")
        talk[1].write_eof()
        await hears_nothing(talk)
        assert (server.heard, server.ends) == (b"", [])
        proxy.let_go()
        assert await talk[0].read() == b"late"
        await eventually(lambda: server.ends == ["closed"], within_s=PATIENCE_S)


@pytest.mark.parametrize(("ends", "clients", "server"), [(2, True, True), (1, True, False), (1, False, True)])
async def test_the_chosen_ends_are_reset_when_a_line_is_cut(ends: int, clients: bool, server: bool) -> None:
    async with behind() as (proxy, serving), dialled(proxy) as talk:
        await said(talk, b"hello")
        assert proxy.cut(clients=clients, server=server) == ends
        if clients:
            with pytest.raises(ConnectionResetError):
                await talk[0].read()
        else:
            assert await talk[0].read() == b""
        await eventually(lambda: serving.ends == ["reset" if server else "closed"], within_s=PATIENCE_S)


async def test_dials_are_refused_ignored_and_served_again_at_the_same_port() -> None:
    async with behind() as (proxy, _), dialled(proxy) as talk:
        await said(talk, b"before")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.ignore()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", proxy.port), 0.3)
        assert await said(talk, b"still here") == b"still here"
        await proxy.heal()
        async with dialled(proxy) as anew:
            assert await said(anew, b"after") == b"after"
        assert proxy.connections == 2


async def test_a_client_is_reset_when_there_is_no_server_behind() -> None:
    async with behind() as (proxy, _):
        with socket.socket() as plug:
            plug.bind(("127.0.0.1", 0))
            proxy.target = plug.getsockname()[1]
            async with dialled(proxy) as talk:
                with pytest.raises(ConnectionResetError):
                    await talk[0].read()


async def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="latency"):
        Lane().set(latency=1)
