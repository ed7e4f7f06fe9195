"""Takes down actions without waiting, and writes them to the database in batches, each exactly once.

The queue is bounded: what does not fit is counted, said in the log and in the next entry that fits. While the database
is away entries wait; a batch of which nobody knows whether it was committed is tried again under the same ids. What
cannot be written by the end is left in the log lines. Must never let its caller wait or fail.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping

from bridge.audit.chain import Head, Sealer
from bridge.audit.entries import clean, make_entry, word
from bridge.audit.table import Pending, append
from bridge.db.database import Database
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.telemetry.audit import Action, Detail
from core.errors import BridgeError, Unavailable
from core.user_key import short_key

log = logging.getLogger(__name__)

QUEUE = 10_000  # entries; about 10 MB at most
BATCH = 500
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
PAUSE_S = 5.0  # a process that freezes while it appends holds up the others for no longer
CLOSE_S = 1.0
BACKLOG = 1000  # entries that wait before somebody is told


class LoggedAudit:
    """Writes each action as a structured log line, where there is no database. Nothing to start, nothing waits."""

    def start(self) -> None:
        """Nothing."""

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        """One line."""
        _say(action, None if user_key is None else short_key(user_key), actor, outcome, clean(detail or {}))

    async def close(self) -> None:
        """Nothing."""

    def metrics(self) -> Mapping[str, float]:
        """Nothing is counted: the lines are where they go."""
        return {}

    def trouble(self) -> str | None:
        """None."""
        return None


class AuditLog:
    """The audit log of one process. `sealer`: without one, rows are chained but not sealed.

    `start` it before anything is to be written, `close` it when nothing more will be recorded. Entries recorded
    before the start wait.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        rng: random.Random,
        sealer: Sealer | None = None,
        on_crash: CrashHandler | None = None,
        queue: int = QUEUE,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rng = rng
        self._sealer = sealer or Sealer()
        self._most = queue
        self._queue: deque[Pending] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks = Tasks("audit", on_crash)
        self._closed = False
        self._away = False
        self._untold = 0  # dropped, and not said in an entry yet
        self._seen = Head()
        self.written = self.dropped = self.failures = 0

    def start(self) -> None:
        """Begin to write."""
        self._tasks.start(self._run(), name="writer", essential=True)

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        """Take down one action. Never waits, never raises."""
        if self._closed or len(self._queue) >= self._most:
            self._drop()
            return
        entry = make_entry(self._rng, self._clock.now_ms(), action, actor, outcome, detail, self._untold)
        self._untold = 0
        self._queue.append(Pending(entry, user_key))
        self._idle.clear()
        self._news.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded is written; False when it was not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is left, at most for so long, and leave the rest in the log lines. Never raises."""
        self._closed = True
        await self.flush(timeout_s)
        await self._tasks.close(timeout_s)
        for pending in self._queue:
            entry, key = pending.entry, pending.user_key
            user = None if key is None else short_key(key)
            _say(entry.action, user, entry.actor, entry.outcome, {"detail": entry.detail, "id": entry.id})
        if self._queue:
            self.dropped += len(self._queue)
            log.error("audit entries could not be written before the end", extra={"entries": len(self._queue)})
            self._queue.clear()

    def metrics(self) -> Mapping[str, float]:
        """Counters and gauges: entries written, dropped and waiting, and batches that failed."""
        return {
            "written": self.written,
            "dropped": self.dropped,
            "waiting": len(self._queue),
            "failures": self.failures,
        }

    def trouble(self) -> str | None:
        """One sentence when the log does not keep up, else None."""
        waiting = len(self._queue)
        if waiting < BACKLOG:
            return None
        return f"the audit log does not keep up: {waiting} entries wait, {self.dropped} were dropped"

    # ------------------------------------------------------------ the writer

    async def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                if await self._write():
                    retry_s = FIRST_RETRY_S
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            self._idle.set()

    async def _write(self) -> bool:
        """Write the oldest entries; False when that has to be tried again."""
        batch = [self._queue[place] for place in range(min(BATCH, len(self._queue)))]
        try:
            async with self._database.transaction(pause_s=PAUSE_S) as connection:
                before = await append(connection, batch, self._sealer)
        except Unavailable as error:
            self._failed(error, "the audit log cannot be written, entries wait")
            return False
        except BridgeError as error:
            self._failed(error, "the audit log refuses entries, they wait")
            return False
        except Exception as error:  # noqa: BLE001 - last resort: a fault of ours must not end the log
            self._failed(error, "unexpected error while writing the audit log, entries wait")
            return False
        self._watch(before)
        for _ in batch:
            self._queue.popleft()
        self.written += len(batch)
        if self._away:
            self._away = False
            log.info("the audit log is written again", extra={"waiting": len(self._queue)})
        return True

    def _watch(self, before: Head) -> None:
        """The log only grows: somebody who cut its end off together with its head is seen by who wrote it."""
        if before.seq < self._seen.seq:
            log.critical("THE END OF THE AUDIT LOG WAS CUT OFF", extra={"row": before.seq, "was": self._seen.seq})
        self._seen = before

    def _failed(self, error: Exception, message: str) -> None:
        self.failures += 1
        if not self._away:
            self._away = True
            log.warning(message, extra={"error": str(error)})

    def _drop(self) -> None:
        if not self._untold:
            log.error("the audit log is full, entries are dropped", extra={"queue": self._most})
        self._untold += 1
        self.dropped += 1


def _say(action: str, user: str | None, actor: str, outcome: str, detail: Mapping[str, object]) -> None:
    log.info(
        "audit",
        extra={
            "action": str(action),
            "user": user,
            "actor": word(actor, 64),
            "outcome": word(outcome, 64),
            "detail": detail,
        },
    )
