"""Posts notices to ALERT_WEBHOOK_URL, in one body that Discord (`content`) and Slack (`text`) both understand.

The address is a secret: nothing of it, and no message of the HTTP library, which may quote it, goes to the log. What
waits is bounded in number and age; what waits together goes out together. Redirects are not followed, answers are not
read. A receiver that is slow, broken or gone costs its own task some patience and nobody else anything (faults.md I15).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import aiohttp
import orjson

from bridge.runtime.clock import Clock
from bridge.telemetry.redaction import REDACTOR
from core.secret import Secret

log = logging.getLogger(__name__)

NOTICES_KEPT = 100
TEXT_LIMIT = 1900  # characters; Discord takes 2,000
TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: for one attempt; between attempts, first and at most; what a receiver may ask for; until giving up."""

    attempt_s: float = 10.0
    first_s: float = 5.0
    most_s: float = 900.0
    asked_most_s: float = 3600.0
    give_up_s: float = 86_400.0
    apart_s: float = 1.0  # between two posts that went well


@dataclass(frozen=True, slots=True)
class _Notice:
    line: str
    made_at: float


class Webhook:
    """A queue of notices and the one task that posts them."""

    def __init__(
        self, url: Secret, *, clock: Clock, rng: Random, title: str = "Pulse Bridge", pace: Pace | None = None
    ):
        self._url = url
        self._clock = clock
        self._rng = rng
        self._title = title
        self._pace = pace or Pace()
        self._waiting: deque[_Notice] = deque()
        self._wake = asyncio.Event()
        self._failing = 0  # attempts in a row
        self.posts = self.failures = self.dropped = 0
        REDACTOR.register_lasting(url)

    @property
    def waiting(self) -> int:
        """Notices not delivered yet."""
        return len(self._waiting)

    def send(self, notices: Sequence[str]) -> None:
        """Queue notices; the oldest go when there are too many. Never blocks, never fails."""
        at = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).strftime("%H:%M:%S UTC")
        for text in notices:
            if len(self._waiting) >= NOTICES_KEPT:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(_Notice(f"{at} {text}", self._clock.monotonic()))
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._drop_old()
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(await self._deliver_some())

    def _drop_old(self) -> None:
        limit = self._clock.monotonic() - self._pace.give_up_s
        while self._waiting and self._waiting[0].made_at < limit:
            self._waiting.popleft()
            self.dropped += 1

    async def _deliver_some(self) -> float:
        """One attempt with what fits into one message; returns the seconds to wait before the next."""
        batch: list[_Notice] = []
        room = TEXT_LIMIT - len(self._title)
        for notice in self._waiting:
            room -= len(notice.line) + 1
            if room < 0 and batch:
                break
            batch.append(notice)
        text = "\n".join([self._title, *(notice.line for notice in batch)])[:TEXT_LIMIT]
        problem, asked_s = await self._post(orjson.dumps({"content": text, "text": text}))
        if problem is not None:
            return self._failed(problem, asked_s)
        if self._failing:
            log.info("alerts are delivered again", extra={"after_failures": self._failing})
        self._failing = 0
        self.posts += 1
        delivered = set(map(id, batch))
        self._waiting = deque(notice for notice in self._waiting if id(notice) not in delivered)
        return self._pace.apart_s

    def _failed(self, problem: str, asked_s: float | None) -> float:
        self.failures += 1
        self._failing += 1
        if self._failing == 1:
            log.error("alerts cannot be delivered", extra={"problem": problem, "waiting": len(self._waiting)})
        if asked_s is not None:
            return min(asked_s, self._pace.asked_most_s)
        ceiling = min(self._pace.most_s, self._pace.first_s * 2.0 ** min(self._failing - 1, 30))
        return ceiling * self._rng.uniform(0.5, 1.0)

    async def _post(self, body: bytes) -> tuple[str | None, float | None]:
        """What went wrong, None when nothing, and the seconds that the receiver asks us to wait."""
        headers = {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self._pace.attempt_s), new_client(self._pace.attempt_s) as http:
                answer = await http.post(self._url.reveal(), data=body, headers=headers, allow_redirects=False)
                answer.close()  # unread: the connection goes with it
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return type(error).__name__, None
        if 200 <= answer.status < 300:
            return None, None
        asked = answer.headers.get("Retry-After", "") if answer.status == TOO_MANY else ""
        return f"status {answer.status}", _seconds(asked)


def new_client(timeout_s: float) -> aiohttp.ClientSession:
    """A client for one request: no cookies, no connection kept, nothing unpacked."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        auto_decompress=False,
    )


def _seconds(text: str) -> float | None:
    """A number of seconds, at least one; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return max(1.0, value) if 0 <= value < float("inf") else None
