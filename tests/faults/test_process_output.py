"""Nobody reads what the process says, or there is no room for it: it serves on, and counts what it could not say."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from bridge.embedded.surroundings import free_port
from tests.support.fault_table import fault
from tests.support.hurt_bridge import CHATTER, number
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
ANSWERS_S = 0.1


@contextmanager
def unread_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(unread_pipe, marks=fault("P15", "a pipe that nobody reads"), id="P15-unread pipe"),
        pytest.param(full_disk, marks=fault("P15", "stdout on a full disk"), id="P15-full disk"),
    ],
)
async def test_the_process_serves_on_and_counts_lost_lines_when_its_output_goes_nowhere(
    output: Callable[[], AbstractContextManager[int]], observed: Callable[[str], None]
) -> None:
    port = str(free_port())
    with output() as descriptor:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.hurt_bridge", "serve"),
            cwd=ROOT,
            env={"PORT": port, "PATH": "/usr/bin:/bin", "LOG_LEVEL": "DEBUG"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

                async def alive() -> bool:
                    assert process.returncode is None
                    try:
                        async with http.get("/health/live") as answer:
                            return answer.status == 200
                    except aiohttp.ClientError:
                        return False

                async def dropped() -> float:
                    async with http.get("/metrics") as answer:
                        lines = (await answer.text()).splitlines()
                    return next(float(line.split()[1]) for line in lines if line.startswith("bridge_log_lines_dropped"))

                await eventually(alive, within_s=20, what="it serves")
                process.send_signal(number(CHATTER))
                await eventually(lambda: _some(dropped), within_s=20, every_s=0.2, what="lines were dropped")
                took = []
                for _ in range(50):
                    begun = time.monotonic()
                    assert await alive()
                    took.append(time.monotonic() - begun)
                assert statistics.median(took) < ANSWERS_S, took
            process.terminate()
            async with asyncio.timeout(10):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    observed("answers within 0.1 s (median), lost lines counted, exit 0 within the drain time")


async def _some(dropped: Callable[[], Awaitable[float]]) -> bool:
    return await dropped() > 0
