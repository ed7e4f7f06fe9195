"""`python -m bridge ...` as a child process: started, watched for a line, stopped by its own process id.

The child gets a clean environment (PATH, HOME and what the test names), so that nobody's shell changes a test, and logs
at DEBUG unless the test says otherwise.

Invariants: when the `async with` block ends the child is gone; everything it said has been searched for secrets.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.negative_controls.applying import VARIABLE as BREAK
from tests.negative_controls.applying import broken_module
from tests.support.canaries import assert_clean, secrets_of

ROOT = Path(__file__).resolve().parents[2]
LINES_KEPT = 20_000


class BridgeProcess:
    """A running `python -m bridge` with its output captured line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Condition()
        self._readers: list[asyncio.Task[None]] = []
        self._open_streams = 2
        self.said = bytearray()  # all of it, both streams
        self.stdout: list[str] = []
        self.stderr: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def output(self) -> str:
        """Everything it said, for the message of a failed assertion."""
        return "\n".join(["-- stdout", *self.stdout[-200:], "-- stderr", *self.stderr[-200:]])

    def lines(self, text: str) -> int:
        """How many of its lines so far contain `text`."""
        return sum(text in line for line in [*self.stdout, *self.stderr])

    async def line(self, matches: Callable[[str], object], *, within_s: float = 20.0) -> str:
        """The first line, of stdout or stderr, that `matches` accepts. AssertionError when it ends or is late."""
        try:
            async with asyncio.timeout(within_s), self._changed:
                while True:
                    for line in [*self.stdout, *self.stderr]:
                        if matches(line):
                            return line
                    if self._open_streams == 0:
                        raise AssertionError(
                            f"ended with {await self._process.wait()} before the line came\n{self.output}"
                        )
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no such line within {within_s} s\n{self.output}") from None

    def send(self, what: signal.Signals) -> None:
        self._process.send_signal(what)

    async def ended(self, *, within_s: float = 10.0) -> int:
        """Wait for it to end by itself and return its exit code. AssertionError when it does not."""
        try:
            async with asyncio.timeout(within_s):
                code = await self._process.wait()
                await asyncio.gather(*self._readers)
                return code
        except TimeoutError:
            raise AssertionError(f"still running after {within_s} s\n{self.output}") from None

    async def stop(self, *, within_s: float = 10.0) -> int:
        """SIGTERM, and the exit code that follows."""
        if self._process.returncode is None:
            self._process.terminate()
        return await self.ended(within_s=within_s)

    def watch(self) -> None:
        """Begin to read its output."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout, self.stdout)),
            asyncio.create_task(self._read(self._process.stderr, self.stderr)),
        ]

    async def close(self) -> None:
        """Make sure it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for raw in stream:
            self.said += raw
            async with self._changed:
                lines.append(raw.decode(errors="replace").rstrip("\n"))
                del lines[:-LINES_KEPT]
                self._changed.notify_all()
        async with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()


PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "BRIDGE_TRANSPORT", BREAK)


@asynccontextmanager
async def bridge_process(
    *arguments: str, env: Mapping[str, str] | None = None, module: str = "bridge", prints: Collection[str] = ()
) -> AsyncIterator[BridgeProcess]:
    """Run `python -m bridge <arguments>` (or another module) from the root of the checkout until the block ends.

    AssertionError when it said a secret. `prints`: secrets that it is asked to print.
    """
    secrets = secrets_of(env or {})
    clean = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *broken_module(module),
        *arguments,
        cwd=ROOT,
        env={**clean, "PYTHONUNBUFFERED": "1", "LOG_LEVEL": "DEBUG", **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,  # bytes in one line
    )
    running = BridgeProcess(process)
    running.watch()
    try:
        yield running
    finally:
        await running.close()
        also = secrets | secrets_of(env or {})  # tokens have been renewed
        assert_clean(bytes(running.said), f"the output of {module} {' '.join(arguments)}", also=also, but=prints)
