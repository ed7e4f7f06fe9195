"""Child processes of a measurement: `python -m scripts.benchmarks.<module>`, a line of JSON when ready, more on demand.

A child ends when its standard input closes, so none outlives the command, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import orjson

from scripts.benchmarks.measure import on_core
from tests.support.processes import ROOT

ANSWER_WITHIN_S = 120.0

T = TypeVar("T")


class Child:
    """A running module of this package, spoken to in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def answer(self, within_s: float = ANSWER_WITHIN_S) -> Any:
        """Its next line. Raises RuntimeError when it ended, TimeoutError when it is late."""
        async with asyncio.timeout(within_s):
            line = await _given(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"a measuring process ended with {await self._process.wait()}")
        return orjson.loads(line)

    async def ask(self, within_s: float = ANSWER_WITHIN_S, **words: object) -> Any:
        """Send one line and return the next one it answers."""
        stdin = _given(self._process.stdin)
        stdin.write(orjson.dumps(words) + b"\n")
        await stdin.drain()
        return await self.answer(within_s)


def _given(pipe: T | None) -> T:
    if pipe is None:
        raise RuntimeError("the process was started without pipes")
    return pipe


@asynccontextmanager
async def child(
    module: str, *arguments: str, core: int | None = None, python: str | Path = sys.executable
) -> AsyncIterator[Child]:
    """Run a module of this package until the block ends, on one core if one is given, or under another Python."""
    async with program(str(python), "-m", f"scripts.benchmarks.{module}", *arguments, core=core) as running:
        yield running


@asynccontextmanager
async def program(*command: str, core: int | None = None, env: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """Run any program that speaks lines of JSON, from the root of the checkout, until the block ends."""
    with on_core(core) if core is not None else nullcontext():
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def say(**words: object) -> None:
    """In a child: one line to the parent."""
    sys.stdout.buffer.write(orjson.dumps(words) + b"\n")
    sys.stdout.buffer.flush()


def end_with_parent() -> None:
    """In a child that reads no commands: end at once when the parent has gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


async def commands() -> AsyncIterator[Any]:
    """In a child: the parent's lines, until it closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield orjson.loads(line)
