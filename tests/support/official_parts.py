"""A script of an official client as a child process that tells what it saw part by part and waits in between.

Invariants: when the block ends the child is gone; a script that fails, fails the test with what it wrote to stderr.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PART_WITHIN_S = 60


class Parts:
    """The running script."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waits = False

    async def next(self) -> dict[str, Any]:
        """Let it go on, and return what it tells after its next part."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        if self._waits:
            stdin.write(b"\n")
            await stdin.drain()
        async with asyncio.timeout(PART_WITHIN_S):
            line = await stdout.readline()
            assert line, (await stderr.read()).decode()
        self._waits = True
        told: dict[str, Any] = json.loads(line)
        return told

    async def end(self) -> None:
        """Let it go on to its end. AssertionError when it has more to tell or fails."""
        async with asyncio.timeout(PART_WITHIN_S):
            out, err = await self._process.communicate(b"\n")
        assert (self._process.returncode, out) == (0, b""), err.decode()


@asynccontextmanager
async def script(
    *command: str | Path, parameters: Mapping[str, object], env: Mapping[str, str] | None = None
) -> AsyncIterator[Parts]:
    """Run `command` with the parameters as one JSON argument, in a clean environment."""
    process = await asyncio.create_subprocess_exec(
        *(str(each) for each in command),
        json.dumps(parameters),
        env={"PATH": os.environ["PATH"], **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Parts(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
