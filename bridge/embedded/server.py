"""One embedded server as a process: started and waited for, killed, frozen, ended, whatever its program is.

Invariant: a server is only ever signalled by its own process id, and is gone after `stop`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from bridge.embedded.surroundings import free_port, refuse_on_platform

START_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0
LOOK_S = 0.01


class EmbeddedServer(ABC):
    """Port and folder stay the same over `kill`, `restart` and `start`, so that clients can come back."""

    NAME: ClassVar[str]
    STOP: ClassVar[signal.Signals]  # ends it in order
    KILL: ClassVar[signal.Signals]  # ends it at once, as a crash would

    def __init__(self) -> None:
        self.port = free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._alive()

    def _alive(self) -> bool:  # a method, since a type checker takes a property for the same a line later
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError with its log when it does not."""
        refuse_on_platform()
        if self._alive():
            return
        self._process = self._launch()
        deadline = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if not self._alive() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.NAME} did not start on port {self.port}:\n{self.log()[-2000:]}")
            time.sleep(LOOK_S)  # until it answers, START_WITHIN_S at most; nobody calls this on a loop

    def stop(self) -> None:
        """End the server for good and remove its folder."""
        self._end(self.STOP)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the server and its sessions at once, as a crash would."""
        self._end(self.KILL)

    def restart(self) -> None:
        """Crash and start again on the same port."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze the process that accepts: its connections stay open."""
        assert self._process is not None  # noqa: S101  callers hold a running server
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def log(self) -> str:
        """What the server has written to its log."""
        return self._log_file(self._folder).read_text(errors="replace") if self._folder else ""

    def _log_file(self, folder: Path) -> Path:
        return folder / f"{self.NAME}.log"

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process, with its folder made and its output in its log."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it takes commands."""

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(with_signal)  # does nothing when it has ended already
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.send_signal(self.KILL)
            process.wait(STOP_WITHIN_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
