"""Looks at the process every few seconds and sees to it that a person hears of what is wrong, and of its end.

Reads plain figures from the callables it is handed, asks nobody over a network and writes nothing but notices: to the
log always, to the webhook when there is one. Nothing here is waited for by any other part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from bridge.alerts.book import AlertBook
from bridge.alerts.conditions import NOT_UP, BrokerState, Conditions, Signs, StoreState
from bridge.alerts.heartbeat import Beat, Heartbeat
from bridge.alerts.webhook import Pace, Webhook
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.secret import Secret

log = logging.getLogger(__name__)

LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures are. `flusher`: its `metrics`. `not_live`, `not_ready`: one sentence, or None.

    `watches`: further things that can be wrong, by short key: one sentence without user data, None when all is well.
    """

    stores: Callable[[], Mapping[str, StoreState]]
    brokers: Callable[[], Mapping[str, BrokerState]]
    sessions: Callable[[], Mapping[str, int]]
    flusher: Callable[[], Mapping[str, float]]
    loop_lag_ms: Callable[[], float]
    not_live: Callable[[], str | None]
    not_ready: Callable[[], str | None]
    watches: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)


class Alerts:
    """Everything that tells. `webhook` None: notices go to the log only; `heartbeat` None: no monitor is told."""

    def __init__(
        self,
        webhook: Secret | None,
        heartbeat: Secret | None,
        sources: Sources,
        *,
        clock: Clock,
        rng: Random,
        title: str = "Pulse Bridge",
        pace: Pace | None = None,
        beat: Beat | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._look_s = look_s
        self._conditions = Conditions()
        self._book = AlertBook()
        self._webhook = Webhook(webhook, clock=clock, rng=rng, title=title, pace=pace) if webhook else None
        self._heartbeat = Heartbeat(heartbeat, self._well, beat=beat) if heartbeat else None
        self._tasks = Tasks("alerts")
        self.failed_looks = 0

    def start(self) -> None:
        """Begin to look. Call when everything that is looked at has been started."""
        self._tasks.start(self._run(), name="look")
        if self._webhook is not None:
            self._tasks.start(self._webhook.run(), name="webhook")
        if self._heartbeat is not None:
            self._tasks.start(self._heartbeat.run(), name="heartbeat")

    async def close(self) -> None:
        """Stop looking, telling and beating."""
        await self._tasks.close()

    def look(self) -> list[str]:
        """One look: decide, log and queue. Returns what was told."""
        now = self._clock.monotonic()
        notices = self._book.observe(self._conditions.read(self._signs(), now), now)
        for notice in notices:
            log.warning("alert", extra={"alert": notice})
        if self._webhook is not None and notices:
            self._webhook.send(notices)
        return notices

    def stats(self) -> dict[str, int]:
        """`open` alerts and `waiting` notices now; counts of what was posted, failed and dropped, and of beats."""
        hook, heart = self._webhook, self._heartbeat
        return {
            "open": self._book.open,
            "failed_looks": self.failed_looks,
            "waiting": hook.waiting if hook else 0,
            "posts": hook.posts if hook else 0,
            "post_failures": hook.failures if hook else 0,
            "dropped": hook.dropped if hook else 0,
            "beats": heart.fetches if heart else 0,
            "beat_failures": heart.failures if heart else 0,
        }

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                self.look()
            except Exception as error:  # last resort: a figure that cannot be read must not end the telling
                self.failed_looks += 1
                if self.failed_looks == 1:
                    log.error("the process could not be looked at", exc_info=error)

    def _well(self) -> bool:
        return self._sources.not_live() is None and self._sources.not_ready() is None

    def _signs(self) -> Signs:
        sources = self._sources
        stores, flusher = sources.stores(), sources.flusher()
        problems = {name: watch() for name, watch in sources.watches.items()}
        problems["process"] = sources.not_live()
        if all(store.state not in NOT_UP for store in stores.values()):  # else the store's own condition says it
            problems["readiness"] = sources.not_ready()
        return Signs(
            stores=stores,
            brokers=sources.brokers(),
            sessions=sources.sessions(),
            loop_lag_ms=sources.loop_lag_ms(),
            record_age_s=flusher.get("record_age_s", 0.0),
            record_failures=flusher.get("record_failures", 0.0),
            problems=problems,
        )
