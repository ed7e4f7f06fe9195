"""Logging: one event is one line, no secret in it, and the event loop never waits for it (faults.md P15, S05, S10).

The line is made where the event happens and handed to a thread through a bounded queue; when nobody reads our output
the queue fills and lines are dropped and counted. Loggers that are not ours stay at WARNING, all of them: libraries
print frames, headers and URLs.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from bridge.telemetry.redaction import REDACTOR, Redactor

LINES_KEPT = 10_000
CLOSE_WITHIN_S = 0.3
OURS = ("bridge", "core")
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_BREAKS = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029)}  # what JSON itself leaves as it is
_ESCAPES = {code: f"\\x{code:02x}" for code in range(32)} | _BREAKS


class JsonFormatter(logging.Formatter):
    """`{"at": …, "level": …, "logger": …, "message": …, extras…}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {name: value for name, value in _extras(record).items() if name not in event}
        if trace := _trace(self, record):
            event["trace"] = trace
        try:
            line = orjson.dumps(event, default=str)
        except TypeError:  # a number beyond 64 bit or broken Unicode somewhere: print everything as clean text
            line = orjson.dumps({name: _clean(str(value)) for name, value in event.items()})
        return line.decode().translate(_BREAKS)


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123 INFO logger message name=value`, for people; control characters are shown, not sent."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        extras = "".join(f" {name}={value}" for name, value in _extras(record).items())
        trace = _trace(self, record)
        text = f"{at} {record.levelname:<7} {record.name} {record.getMessage()}{extras}{' | ' + trace if trace else ''}"
        return _clean(text.translate(_ESCAPES))


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        return formatter.formatException(record.exc_info)
    return record.stack_info or ""


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class LineHandler(logging.Handler):
    """Formats, redacts and queues; a thread writes. `dropped` counts lines that found the queue full."""

    def __init__(self, write: Callable[[bytes], None], redactor: Redactor, *, lines_kept: int = LINES_KEPT) -> None:
        super().__init__()
        self._write = write
        self._redactor = redactor
        self._lines: queue.Queue[bytes | None] = queue.Queue(lines_kept)
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._redactor.redact(self.format(record))
            self._lines.put_nowait(line.encode("utf-8", "replace") + b"\n")
        except queue.Full:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - last resort: a record that cannot be formatted must not end its caller
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, but never wait long: the reader of our output may be gone."""
        try:
            self._lines.put(None, timeout=CLOSE_WITHIN_S)
        except queue.Full:
            self.dropped += 1
        self._thread.join(CLOSE_WITHIN_S)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError:  # the pipe is closed
                self.dropped += 1


def write_to(descriptor: int) -> Callable[[bytes], None]:
    """A writer on a file descriptor, past Python's buffered streams and their locks."""

    def write(line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write


def setup_logs(
    level: str, form: str, *, write: Callable[[bytes], None] | None = None, redactor: Redactor = REDACTOR
) -> LineHandler:
    """Send all logging through one handler on stdout. `form`: json or console. Close what it returns at exit."""
    handler = LineHandler(write or write_to(1), redactor)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    root.setLevel(max(logging.WARNING, logging.getLogger(OURS[0]).level))
    logging.captureWarnings(True)
    return handler
