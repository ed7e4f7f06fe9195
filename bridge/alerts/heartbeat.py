"""Fetches HEARTBEAT_URL while the process is well, so that a monitor outside notices when it falls silent.

The address is a secret, as the webhook's. A fetch that fails is tried again sooner; it is never made while the process
is not live or not ready, because silence is the message then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from bridge.alerts.webhook import new_client
from bridge.telemetry.redaction import REDACTOR
from core.secret import Secret

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beat:
    """Seconds: between fetches, after a failed one, between looks while unwell, for one fetch."""

    every_s: float = 60.0
    again_s: float = 15.0
    look_s: float = 5.0
    attempt_s: float = 10.0


class Heartbeat:
    """One task that fetches an address while `well()` says so."""

    def __init__(self, url: Secret, well: Callable[[], bool], *, beat: Beat | None = None) -> None:
        self._url = url
        self._well = well
        self._beat = beat or Beat()
        self._failing = False
        self.fetches = self.failures = 0
        REDACTOR.register_lasting(url)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            if not self._well():
                await asyncio.sleep(self._beat.look_s)
                continue
            problem = await self._fetch()
            self._note(problem)
            await asyncio.sleep(self._beat.every_s if problem is None else self._beat.again_s)

    def _note(self, problem: str | None) -> None:
        """Log the first failure and the return."""
        if problem is None:
            self.fetches += 1
        else:
            self.failures += 1
        if self._failing != (problem is not None):
            self._failing = not self._failing
            if self._failing:
                log.warning("the heartbeat is not taken", extra={"problem": problem})
            else:
                log.info("the heartbeat is taken again")

    async def _fetch(self) -> str | None:
        """What went wrong, or None. A redirect counts as wrong: it is not followed."""
        try:
            async with asyncio.timeout(self._beat.attempt_s), new_client(self._beat.attempt_s) as http:
                answer = await http.get(self._url.reveal(), allow_redirects=False)
                answer.close()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return type(error).__name__
        return None if 200 <= answer.status < 300 else f"status {answer.status}"
