"""The running process: connects the parts that `app` makes, runs them until a signal, and ends them in order.

Must not hold logic of its own beyond start and end. Invariant: `serve` returns within DRAIN_SECONDS of the first
signal, whatever hangs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import secrets
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from bridge.alerts.alerts import Alerts
from bridge.alerts.alerts import Sources as AlertSources
from bridge.api.jwks import KeySet
from bridge.api.ports import Services
from bridge.api.server import ApiServer
from bridge.app import (
    DEFAULT_BROKER,
    build_brokers,
    build_cache,
    build_connect,
    build_credentials,
    build_desired,
    build_membership,
    build_policy,
    build_resolver,
    build_standing,
    build_stores,
    build_token_keys,
)
from bridge.cache.flusher import Flusher
from bridge.cache.planning import FlushMode
from bridge.cache.reader import Reader
from bridge.cache.record import is_fresh
from bridge.config import VERSION, Settings
from bridge.credentials.desk import CredentialDesk
from bridge.credentials.guarded import GuardedCredentials
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.notices import Listener
from bridge.foundation import Foundation, lay_foundation
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.private_memory import keep_memory_private
from bridge.runtime.shutdown import Shutdown
from bridge.runtime.tasks import Tasks
from bridge.sessions.ownership.desk import FleetOfProcess
from bridge.sessions.service import SessionService
from bridge.sessions.states import State
from bridge.telemetry.logs import setup_logs
from bridge.telemetry.metrics import FlushTimes, Sources, metrics_page
from bridge.telemetry.process import LoopWatch, tasks
from bridge.telemetry.redaction import REDACTOR
from bridge.telemetry.sentry import setup_sentry
from bridge.telemetry.tracing import setup_tracing
from bridge.vitals import ProcessVitals
from core.errors import BridgeError
from core.user_key import UserKeyScheme

log = logging.getLogger(__name__)

SESSIONS_SHARE, FLUSH_SHARE, CLOSING_SHARE = 0.2, 0.45, 0.15  # of the drain time; a part that hangs is left behind
GUARD_S = 0.2  # before the drain time is over the process ends, whatever hangs
# What exists at start is frozen and young collections are rare: a collection walks over whatever thousands of sessions
# hold, and stops the loop for as long (reference/perf.md F; `./scripts/bench --rows collections`).
GC_THRESHOLDS = (50_000, 50, 1000)
FILES_WANTED = 65_536
CRASHED = 1
DAY_S = 86_400.0
SUPERVISOR_TASK = "sessions:supervisor"


class Daemon:
    """Everything one process runs."""

    def __init__(
        self,
        settings: Settings,
        foundation: Foundation,
        clock: Clock,
        rng: random.Random,
        *,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        self._settings = settings
        self._foundation = foundation
        self._clock = clock
        self._rng = rng
        self.shutdown = Shutdown()
        self._crashed: str | None = None
        self._tasks = Tasks("daemon", self._crash)
        self._watch = LoopWatch(clock, rng)
        self._standing = build_standing(settings, foundation, clock, rng)
        self._stores = build_stores(settings, foundation, clock)
        self._reader = Reader(self._stores, clock=clock)
        times = FlushTimes()
        self._flusher = Flusher(
            self._stores,
            clock=clock,
            rng=rng,
            interval_s=settings.cache_flush_interval,
            mode=FlushMode(settings.cache_flush_mode),
            observer=times,
            on_written=self._reader.offer,
            on_crash=self._crash,
            allowed=self._standing.may_write,
        )
        self._brokers = build_brokers(settings, clock, rng)
        self._user_keys = UserKeyScheme(settings.user_key_mode, settings.user_key_secret)
        self._cache = build_cache(settings, foundation, clock=clock, rng=rng, on_crash=self._crash)
        self._kept = build_credentials(
            *(settings, foundation, self._brokers, self._user_keys),
            clock=clock,
            rng=rng,
            owner=self._standing.owner,
            on_crash=self._crash,
        )
        self._credentials = GuardedCredentials(self._kept)
        self._connect = build_connect(settings, foundation, self._brokers, self._user_keys, self._kept, clock)
        idle_days = settings.session_idle_days
        self._sessions = SessionService(
            brokers=self._brokers,
            credentials=self._credentials,
            recorder=self._flusher,
            user_keys=self._user_keys,
            clock=clock,
            rng=rng,
            standing=self._standing,
            membership=build_membership(settings, foundation, self._stores, self._user_keys),
            records=self._reader,
            desired=build_desired(foundation, self._stores, self._user_keys),
            audit=foundation.audit,
            idle_after_s=idle_days * DAY_S if idle_days else None,
            on_crash=self._session_task_crashed,
        )
        steward = self._sessions.steward
        self._fleet = None if steward is None else FleetOfProcess(steward, self._foundation.audit)
        self._listener = self._build_listener()
        self._vitals = ProcessVitals(clock, self._flusher, self._watch)
        self._token_keys = build_token_keys(settings, clock)
        self._resolver = build_resolver(settings, self._token_keys, self._user_keys, clock)
        self._api = self._build_api()
        self._alerts = self._build_alerts()
        self._metrics_page = metrics_page(self._figures(times, dropped_lines))

    async def run(self) -> int:
        """Start, serve until asked to end, drain. Returns the exit code. Raises ConfigurationError."""
        self.shutdown.install()
        self._foundation.start()
        for store in self._stores:
            await store.open()
        self._tasks.start(self._watch.run(), name="loop watch", essential=True)
        await self._flusher.start()
        self._cache.start()
        await self._sessions.start_up()
        if self._listener is not None:
            self._tasks.start(self._listener.run(), name="listener", essential=True)
        await self._api.start(self._settings.hosts, self._settings.port)
        self._alerts.start()
        self._announce()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await self.shutdown.requested.wait()
        await self._drain()
        return CRASHED if self._crashed else 0

    def _figures(self, times: FlushTimes, dropped_lines: Callable[[], int]) -> Sources:
        """Where /metrics finds its numbers."""
        return Sources(
            sessions=self._sessions.metrics,
            brokers={name: broker.metrics for name, broker in self._brokers.items()},
            flusher=self._flusher.metrics,
            flush_times=times,
            stores=self._flusher.health,
            tiers=lambda: {**self._reader.stats(), **self._cache.stats()},
            http=lambda: self._api.dispatcher.answers,
            dropped_lines=dropped_lines,
            loop_stalls=lambda: self._watch.stalls,
            loop_lags=self._watch.lags,
            gauges={"loop_lag_seconds": self._watch.lag_s, "tasks": tasks, "python_blocks": sys.getallocatedblocks},
            parts={
                "http": self._api.figures,
                "audit": self._foundation.audit.metrics,
                "alerts": self._alerts.stats,
                **({"ownership": self._sessions.steward.figures} if self._sessions.steward is not None else {}),
                "general_cache": self._cache.counts,
                **({"jwks": self._token_keys.figures} if isinstance(self._token_keys, KeySet) else {}),
            },
            pools={name: pool.figures for name, pool in self._foundation.pools.items()},
        )

    def _build_listener(self) -> Listener | None:
        url = self._settings.database_session_url
        if url is None:
            return None
        listener = Listener(url, self._sessions.notice, self._rng)
        self._standing.hears = lambda: listener.connected
        return listener

    def _metrics(self) -> bytes:
        """The API serves it and is counted in it, so it is there before the page is."""
        return self._metrics_page()

    def _build_api(self) -> ApiServer:
        settings, clock = self._settings, self._clock
        services = Services(
            sessions=self._sessions,
            records=self._reader,
            vitals=self._vitals,
            metrics=self._metrics,
            is_fresh=is_fresh,
            clock=clock,
            default_broker=DEFAULT_BROKER,
            connecting=self._connect,
            fleet=self._fleet,
            credentials=CredentialDesk(
                brokers=self._brokers,
                source=self._credentials,
                keeper=self._kept if isinstance(self._kept, VaultCredentials) else None,
                user_keys=self._user_keys,
                clock=clock,
                cache=self._cache,
                audit=self._foundation.audit,
            ),
        )
        return ApiServer(
            services,
            self._resolver,
            build_policy(settings),
            behind_proxy=settings.trusted_proxy_hops > 0 or settings.paas is not None,
            public_url=settings.public_url,
            audit=self._foundation.audit,
            shared_rates=settings.redis_target,
        )

    def _build_alerts(self) -> Alerts:
        watches: dict[str, Callable[[], str | None]] = {
            "audit": self._foundation.audit.trouble,
            "sessions overwritten": self._overwritten,
            "ownership": self._ownership_trouble,
        }
        if isinstance(self._token_keys, KeySet):
            watches["user tokens"] = self._token_keys.trouble
        sources = AlertSources(
            stores=self._flusher.health,
            brokers=self._sessions.brokers,
            sessions=self._sessions.counts,
            flusher=self._flusher.metrics,
            loop_lag_ms=self._vitals.loop_lag_ms,
            not_live=self._vitals.not_live,
            not_ready=self._vitals.not_ready,
            watches=watches,
        )
        webhook, heartbeat = self._settings.alert_webhook_url, self._settings.heartbeat_url
        return Alerts(webhook, heartbeat, sources, clock=self._clock, rng=self._rng)

    def _overwritten(self) -> str | None:
        """One sentence while a store refuses records of sessions that are ours."""
        count = self._sessions.counts().get(State.FENCED.value, 0)
        if not count:
            return None
        return f"{count} of this process, by somebody else; it claims them back by itself"

    def _ownership_trouble(self) -> str | None:
        return self._sessions.steward.trouble() if self._sessions.steward is not None else None

    def _announce(self) -> None:
        settings = self._settings
        if settings.store_names == ("memory",):
            log.warning("RECORDS ARE KEPT IN MEMORY ONLY: nobody else can read them and they end with this process")
        if settings.auth_open:
            log.warning("NO API KEYS: every route is open, on loopback only")
        log.info(
            "serving",
            extra={
                "port": self._api.port,
                "urls": [_url(host, self._api.port) for host in settings.hosts],
                "public_url": settings.public_url,
                "stores": list(settings.store_names),
                "brokers": list(self._brokers),
                "auth": self._resolver.auth,
                "version": VERSION,
                "owner": self._standing.owner,
            },
        )

    async def _drain(self) -> None:
        """Not ready, nothing new, last records as stale, sockets closed; in time, whatever hangs (faults.md §4.8).

        The guard stays until the process is gone: what comes after, down to a thread that hangs, must be in time too.
        """
        budget_s = self._settings.drain_seconds
        log.info("draining", extra={"cause": self.shutdown.cause, "seconds": budget_s})
        guard = threading.Timer(budget_s - GUARD_S, os._exit, (CRASHED if self._crashed else 0,))
        guard.daemon = True
        guard.start()
        self._api.begin_drain()
        await self._in_time("sessions", self._sessions.drain(budget_s * SESSIONS_SHARE), budget_s)
        await self._in_time("last flush", self._last_flush(budget_s * FLUSH_SHARE), budget_s)
        closing: list[tuple[str, Coroutine[Any, Any, object]]] = [
            ("brokers", self._close_brokers()),
            ("fleet", self._sessions.leave()),  # not before the sockets are closed: nobody may be logged in twice
            ("alerts", self._alerts.close()),
            ("sessions", self._sessions.close()),
            *((("connect", self._connect.close()),) if self._connect is not None else ()),
            ("credentials", self._credentials.close()),
            ("api", self._api.close()),
            *((("token keys", self._token_keys.close()),) if isinstance(self._token_keys, KeySet) else ()),
            ("cache", self._cache.close()),
            ("flusher", self._flusher.close()),
            *((store.name, store.close()) for store in self._stores),
            ("foundation", self._foundation.close()),
            ("daemon", self._tasks.close()),
        ]
        for what, work in closing:
            await self._in_time(what, work, budget_s * CLOSING_SHARE)
        log.info("ended", extra={"cause": self.shutdown.cause})

    async def _close_brokers(self) -> None:
        """All at once: one after the other they could use up what is left for giving the lease back."""
        closing = (broker.close() for broker in self._brokers.values())
        for name, error in zip(self._brokers, await asyncio.gather(*closing, return_exceptions=True), strict=True):
            if error is not None:
                log.warning("a broker could not be left in order", extra={"broker": name, "error": repr(error)})

    async def _last_flush(self, seconds: float) -> None:
        left = await self._flusher.drain(seconds)
        if left:
            log.error("records could not be written before the end", extra={"records": left})

    async def _in_time(self, what: str, work: Coroutine[Any, Any, object], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except Exception as error:  # noqa: BLE001 - last resort: one part that cannot end must not keep the others
            log.warning("a part did not end in order", extra={"part": what, "error": repr(error)})

    def _session_task_crashed(self, task: str, error: BaseException) -> None:
        """One session's own task is the supervisor's business; without the supervisor nothing works."""
        if task == SUPERVISOR_TASK:
            self._crash(task, error)

    def _crash(self, task: str, error: BaseException) -> None:
        """A task that nothing works without has ended: end the process, so that it is started anew."""
        self._crashed = task
        log.critical("essential task ended", extra={"task": task, "error": repr(error)})
        self.shutdown.request(f"{task} crashed")


async def serve(settings: Settings, served: list[object]) -> int:
    """Run one bridge process until a signal; returns the exit code. What it was made of is left in `served`."""
    REDACTOR.register_lasting(*settings.secrets)
    keep_memory_private()
    _limits()
    handler = setup_logs(settings.log_level, settings.log_format)
    reports = spans = None
    try:
        clock, rng = SystemClock(), random.Random(secrets.randbits(64))
        environment = settings.paas or "development"
        reports = setup_sentry(settings.sentry_dsn, release=VERSION, environment=environment, clock=clock)
        spans = setup_tracing(settings.otel_exporter_otlp_endpoint, release=VERSION)
        foundation = await lay_foundation(settings, clock, rng)
        try:
            daemon = Daemon(settings, foundation, clock, rng, dropped_lines=lambda: handler.dropped)
            served.append(daemon)
            return await daemon.run()
        finally:
            await foundation.close()
    except BridgeError:
        raise  # one line for the operator
    except Exception as error:  # last resort: a bare traceback would show what the log filter cuts
        log.critical("the process cannot go on", exc_info=error)
        return CRASHED
    finally:
        if reports is not None:
            await reports.close()
        if spans is not None:
            await spans.close()
        handler.close()


def _limits() -> None:
    """As many sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:
        log.warning("the limit of open files stays as it is", extra={"error": repr(error)})


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
