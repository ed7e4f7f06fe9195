"""A real process under thousands of sockets, drippers, pipelined requests and forged headers: it answers as ever.

No broker and no store are needed for that; rates and caps are those of production.
"""

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.fault_table import fault
from tests.support.processes import BridgeProcess, bridge_process
from tests.support.raw_http import exchange, read_answer
from tests.support.world import API_KEY_SECRET, api_keys

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
DRIPPERS = 2_000
SOCKETS = 3_000
PIPELINED = 10_000
FORGED = 4_000
MIB = 2**20
GOOD = b"HTTP/1.1 200 OK"
PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Edge:
    process: BridgeProcess
    port: int

    def memory(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def probed(self, times: int) -> list[float]:
        """How long probes took, each on a connection of its own."""
        took = []
        for _ in range(times):
            begun = time.monotonic()
            assert (await exchange(self.port, PROBE)).status == 200
            took.append(time.monotonic() - begun)
        return took


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[Edge]:
    env = {"PORT": "0", "HOST": "127.0.0.1", "API_KEYS": api_keys(), "API_KEY_SECRET": API_KEY_SECRET}
    async with bridge_process("serve", env={**env, "LOG_LEVEL": "INFO"}) as process:
        line = await process.line(lambda text: '"message":"serving"' in text)
        yield Edge(process, int(line.partition('"port":')[2].partition(",")[0]))


async def many(edge: Edge, count: int, data: bytes) -> list[asyncio.StreamWriter]:
    """So many connections that each send a little."""
    writers = []
    for _ in range(count):
        with contextlib.suppress(OSError):  # refused: the cap is reached
            _, writer = await edge.dial()
            writer.write(data)
            writers.append(writer)
    return writers


def close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()


@fault("I03", "2,000 sockets that drip heads and bodies", "probes answered within 0.1 s (median); memory below +64 MiB")
async def test_probes_are_answered_among_thousands_of_drippers(edge: Edge) -> None:
    before = edge.memory()
    head = b"POST /api/start-session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    body = head + b"Content-Length: 60000\r\n\r\n"
    drippers = [
        *await many(edge, DRIPPERS // 2, b"GET /health HTTP/1.1\r\nX-Slow: "),
        *await many(edge, DRIPPERS // 2, body),
    ]
    try:
        took = []
        for _ in range(5):
            for writer in drippers:
                if not writer.is_closing():
                    writer.write(b"y")
            took += await edge.probed(10)
        assert statistics.median(took) < 0.1, took
        assert edge.memory() - before < 64 * MIB
    finally:
        close(drippers)


@fault("I18", "3,000 sockets, then 10,000 requests on one of them", "all answered in turn; memory below +64 MiB")
async def test_thousands_of_sockets_and_pipelined_requests_are_bounded(edge: Edge) -> None:
    before = edge.memory()
    idle = await many(edge, SOCKETS, PROBE)
    try:
        assert statistics.median(await edge.probed(20)) < 0.1
        reader, writer = await edge.dial()

        async def send() -> None:
            for _ in range(PIPELINED // 100):
                writer.write(PROBE * 100)
                await writer.drain()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(send())
            answered, rest = 0, b""
            while answered < PIPELINED:
                rest += await reader.read(65_536)
                assert rest, "the connection ended"
                answered += rest.count(GOOD)
                rest = rest[-len(GOOD) + 1 :]  # too short to be counted twice
        writer.close()
        assert edge.memory() - before < 64 * MIB
    finally:
        close(idle)


@fault("I16", "4,000 requests with forged forwarding headers in all forms", "no more let through than the rate admits")
async def test_forged_forwarding_headers_do_not_evade_the_limit(edge: Edge) -> None:
    statuses: Counter[int] = Counter()
    begun = time.monotonic()

    async def caller(number: int) -> None:
        reader, writer = await edge.dial()
        for each in range(FORGED // 20):
            address = f"10.{number}.{each % 256}.{each // 256}"
            forged = f"X-Forwarded-For: {address}\r\nX-Real-IP: {address}\r\nForwarded: for={address}\r\n"
            writer.write(f"GET /account HTTP/1.1\r\nHost: x\r\n{forged}\r\n".encode())
            statuses[(await read_answer(reader)).status] += 1
        writer.close()

    await asyncio.gather(*(caller(number) for number in range(20)))
    windows = int(time.monotonic() - begun) + 2  # of a second, begun ones included
    assert statuses.keys() == {401, 429}
    assert statuses.total() == FORGED
    assert statuses[401] <= 20 * windows
