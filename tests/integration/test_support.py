"""The test helpers themselves: a wait that ends, a real Valkey that dies and comes back, a process that is watched."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.asyncio

from bridge.embedded.valkey import ValkeyServer
from tests.support.processes import bridge_process
from tests.support.waiting import eventually


async def test_eventually_returns_the_answer_when_it_comes_late() -> None:
    box: list[int] = []
    asyncio.get_running_loop().call_later(0.03, box.append, 7)
    assert await eventually(lambda: box, within_s=5) == [7]


async def test_eventually_accepts_a_coroutine_function_when_given_one() -> None:
    async def answer() -> str:
        return "yes"

    assert await eventually(answer, within_s=5) == "yes"


async def test_eventually_says_what_it_waited_for_when_time_is_up() -> None:
    with pytest.raises(AssertionError, match=r"^not within 0\.05 s: a moon; last: None$"):
        await eventually(lambda: None, within_s=0.05, what="a moon")


async def test_valkey_is_empty_when_a_test_begins(redis_url: str) -> None:
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


test_valkey_is_empty_when_another_test_begins = test_valkey_is_empty_when_a_test_begins


async def test_valkey_comes_back_empty_on_the_same_port_when_killed(
    valkey_factory: Callable[[], ValkeyServer],
) -> None:
    server = valkey_factory()
    async with redis.asyncio.from_url(server.url) as client:
        await client.set("key", "value")
    server.kill()
    assert not server.running
    with pytest.raises(OSError, match="refused"):
        server.command("PING")
    server.start()
    assert server.command("EXISTS", "key") == b":0"


async def test_valkey_answers_nothing_and_keeps_its_data_when_paused(
    valkey_factory: Callable[[], ValkeyServer],
) -> None:
    server = valkey_factory()
    server.command("SET", "key", "value")
    with server.paused(), pytest.raises(TimeoutError):
        server.command("PING")
    assert server.command("EXISTS", "key") == b":1"


async def test_process_is_gone_and_its_output_kept_when_the_block_ends() -> None:
    async with bridge_process("--no-such-option") as process:
        assert await process.ended() != 0
        assert process.stderr
    with pytest.raises(AssertionError, match="before the line came"):
        await process.line(lambda line: line == "never said")


def test_official_client_imports_when_its_environment_is_made(official_client_python: Path) -> None:
    code = "import ctrader_open_api, google.protobuf as p; print(ctrader_open_api.Client.__name__, p.__version__)"
    done = subprocess.run([official_client_python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "Client 3.20.1\n", done.stderr
