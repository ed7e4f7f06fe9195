"""A child process of the demonstration: started in its own folder, its last lines kept, ended by its process id."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import BridgeError

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 5.0
LINES_KEPT = 200
ROOT = str(Path(__file__).resolve().parents[1])


class DemoFailed(BridgeError):
    """The demonstration could not show what it promises."""


class Child:
    """A child process with its last lines kept; ended by its own process id."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._output = process.stdout or asyncio.StreamReader()  # always a pipe, see start
        self._lines: list[str] = []

    @classmethod
    async def start(cls, name: str, arguments: list[str], *, env: Mapping[str, str], folder: Path) -> Child:
        paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge", *arguments),
            cwd=folder,  # no .env of the user's here
            env={**env, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
            start_new_session=True,  # Ctrl-C comes to us alone; we end the children in order
        )
        return cls(name, process)

    async def ready(self, read: Callable[[str], Any]) -> Any:
        """The first thing that `read` makes of a line. Raises DemoFailed when the child ends or is late."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                async for raw in self._output:
                    self._keep(raw)
                    if (found := read(self._lines[-1])) is not None:
                        return found
        except TimeoutError:
            raise DemoFailed(f"{self.name} was not ready within {READY_WITHIN_S:g} s\n{self.tail()}") from None
        raise DemoFailed(f"{self.name} ended at once\n{self.tail()}")

    async def drain_output(self) -> None:
        """Read on, so that the child never waits for us; returns when it ends."""
        async for raw in self._output:
            self._keep(raw)

    async def stop(self) -> None:
        """Ask it to end, then make it end."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is None:
                self._process.send_signal(number)
                try:
                    async with asyncio.timeout(STOP_WITHIN_S):
                        await self._process.wait()
                except TimeoutError:
                    continue

    def tail(self) -> str:
        return "\n".join(f"  {self.name}: {line}" for line in self._lines[-15:])

    def _keep(self, raw: bytes) -> None:
        self._lines.append(raw.decode(errors="replace").rstrip("\n"))
        del self._lines[:-LINES_KEPT]
