"""What was reported to the supervisor and not yet taken: adapters, flusher and finished tasks only put in.

A report is a call on one session. A report that raises is our own mistake: it is counted and logged, and only that
session is repaired. At most a few reports per session wait at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from bridge.sessions.session import Session

log = logging.getLogger(__name__)

REPORTS_AT_ONCE = 200  # then the loop gets a breath

Report = Callable[[], None]


class Inbox:
    """Reports in order. `repair` brings back a session whose report raised."""

    def __init__(self, repair: Callable[[Session], None]) -> None:
        self._repair = repair
        self._reports: deque[tuple[Session | None, Report]] = deque()
        self._wake = asyncio.Event()
        self.errors = 0

    def put(self, session: Session | None, report: Report) -> None:
        """Leave a report and wake the supervisor."""
        self._reports.append((session, report))
        self._wake.set()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def wait(self) -> None:
        """Until something was put in or is to be done."""
        await self._wake.wait()
        self._wake.clear()

    async def take_all(self) -> None:
        """Take every report, in order."""
        taken = 0
        while self._reports:
            self.guarded(*self._reports.popleft())
            taken += 1
            if taken % REPORTS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def guarded(self, session: Session | None, report: Report) -> None:
        """Make one call; our own mistake restarts that session only."""
        try:
            report()
        except Exception as error:  # last resort of the one supervisor: counted, logged, repaired
            self.errors += 1
            log.error("unexpected error in the supervisor", exc_info=error)
            if session is not None:
                self._repair(session)
