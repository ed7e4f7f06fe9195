"""A journal in a file: the one module of the optimizer that does I/O.

Each line is on the disk before the run goes on. One process at a time holds a journal; a second one is refused.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from core.errors import Conflict
from core.optimizer.errors import BadInput


class JournalFile:
    """`JournalText` over a file; use it as a context. Raises Conflict when another process holds the file."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            os.close(self._file)
            raise Conflict(f"another optimisation is writing {path}") from cause

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)  # gives the lock back too

    def text(self) -> str:
        """The whole file. Raises BadInput when it is no ASCII, so no journal."""
        size = os.fstat(self._file).st_size
        try:
            return os.pread(self._file, size, 0).decode("ascii")
        except UnicodeDecodeError as cause:
            raise BadInput("journal", "is no journal: journals are ASCII") from cause

    def keep(self, characters: int) -> None:
        os.ftruncate(self._file, characters)  # ASCII: a character is a byte

    def append(self, line: str) -> None:
        rest = line.encode("ascii")
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fdatasync(self._file)
