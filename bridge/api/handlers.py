"""What each route does: take a checked call, ask the service it was handed, shape the answer.

Must not parse, authorise or choose error codes: those are done before and after. Handlers read no clock but the one
they were given.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

import orjson

from bridge.api import answers
from bridge.api.callers import CallerResolver, acting_for
from bridge.api.connecting import ConnectHandlers
from bridge.api.fleet import FleetHandlers
from bridge.api.ports import Services, StoreState
from bridge.api.problems import Problem, retry_after
from bridge.api.routes import HTML, TEXT, Call, Reply
from bridge.brokers.base import Environment
from bridge.cache.store import Stored
from core.errors import NotFound

RECORD_SCHEMA = files("bridge.api").joinpath("record.schema.json").read_bytes()
ANSWER_MARGIN_S = 0.3  # kept free at the end of a request's time, to send the answer
_POSITIONS_ENVELOPE = (
    *("schema", "broker", "environment", "accountId", "status", "reason", "currency", "moneyDigits", "positions"),
    *("orders", "fence", "version", "asOf", "confirmedAt", "staleAfter", "lastUpdate", "_cache", "_cacheTimestamp"),
)


class Handlers(ConnectHandlers, FleetHandlers):
    """One method per handler name of the route table."""

    def __init__(self, services: Services, resolver: CallerResolver, openapi: bytes, docs: bytes) -> None:
        self._services = services
        self._sessions = services.sessions
        self._resolver = resolver
        self._openapi = openapi
        self._docs = docs
        self.draining = False

    async def start_session(self, call: Call) -> Reply:
        """202 with the session as far as it is: with `?wait=` after that long at most, and its record is level then."""
        body = call.body
        view = await self._sessions.start(
            user_id=acting_for(call.caller, body.user_id, field="userId"),
            broker=body.broker or self._services.default_broker,
            account_id=body.account_id,
            environment=Environment(body.environment) if body.environment else None,
            actor=call.caller.actor,
        )
        left = call.deadline - ANSWER_MARGIN_S - asyncio.get_running_loop().time()
        if (wait := min(call.query.wait, left)) > 0:
            view = await self._sessions.wait(view, wait)
        return Reply(answers.render(answers.StartAnswer, view), status=202)

    async def stop_session(self, call: Call) -> Reply:
        """202; the sessions end in `stopped`."""
        stopped = await self._sessions.stop(
            user_id=acting_for(call.caller, call.body.user_id, field="userId"),
            broker=call.body.broker or self._services.default_broker,
            account_id=call.body.account_id,
            actor=call.caller.actor,
        )
        if not stopped:
            raise NotFound("no such session was ever started")
        views = [answers.render(answers.StartAnswer, view) for view in stopped]
        return Reply({**views[0], "sessions": views}, status=202)

    async def list_sessions(self, call: Call) -> Reply:
        query = call.query
        page = await self._sessions.sessions(
            status=query.status, broker=query.broker, after=query.after, limit=query.limit
        )
        return Reply(answers.render(answers.SessionsAnswer, page))

    async def user_sessions(self, call: Call) -> Reply:
        views = await self._sessions.of_user(call.user_key)
        if not views:
            raise NotFound("no session of this user is known")
        return Reply(
            answers.render(answers.UserSessionsAnswer, {"user_key": views[0].user_key, "sessions": views}),
        )

    async def explain(self, call: Call) -> Reply:
        explanations = await self._sessions.explain(call.user_key)
        if not explanations:
            raise NotFound("no session of this user is known")
        source = {"user_key": explanations[0].session.user_key, "explanations": explanations}
        return Reply(answers.render(answers.UserExplanationsAnswer, source))

    async def account(self, call: Call) -> Reply:
        """The record as stored, byte for byte, with three members added at its end."""
        stored = await self._record(call)
        extra, headers = self._reading(orjson.loads(stored.document), stored)
        if _matches(call, headers["ETag"]):
            return Reply(b"", status=304, headers=headers)
        return Reply(stored.document.rstrip()[:-1] + b"," + orjson.dumps(extra)[1:], headers=headers)

    async def positions(self, call: Call) -> Reply:
        """The same envelope with positions and orders only."""
        stored = await self._record(call)
        document = orjson.loads(stored.document)
        extra, headers = self._reading(document, stored)
        if _matches(call, headers["ETag"]):
            return Reply(b"", status=304, headers=headers)
        return Reply({name: document.get(name) for name in _POSITIONS_ENVELOPE} | extra, headers=headers)

    async def health(self, call: Call) -> Reply:
        vitals = self._services.vitals
        stores, brokers = vitals.stores(), self._sessions.brokers()
        counts = dict(self._sessions.counts())
        fleet = self._services.fleet
        ownership = None if fleet is None else fleet.standing()
        well = (
            all(store.state == "up" for store in stores.values())
            and all(broker.state not in ("down", "maintenance") for broker in brokers.values())
            and not counts.get("fenced")  # a store refused records: moments, unless somebody else writes
            and (ownership is None or ownership.state != "suspended")
        )
        body = {
            "status": "ok" if well and not self.draining else "degraded",
            "version": vitals.version,
            "uptimeSeconds": round(vitals.uptime_s(), 1),
            "auth": self._resolver.auth,
            "sessions": counts,
            "brokers": {
                name: {"channels": each.channels, "state": each.state, "lastInboundAt": each.last_inbound_at}
                for name, each in brokers.items()
            },
            "stores": {name: _store(store) for name, store in stores.items()},
            "process": {
                "rssBytes": vitals.rss_bytes(),
                "cpuPercent": vitals.cpu_percent(),
                "loopLagMs": round(vitals.loop_lag_ms(), 1),
            },
            "ownership": None if ownership is None else answers.render(answers.OwnershipAnswer, ownership),
        }
        return Reply(body)

    async def live(self, call: Call) -> Reply:
        if problem := self._services.vitals.not_live():
            raise Problem("not-live", problem)
        return Reply({"status": "ok"})

    async def ready(self, call: Call) -> Reply:
        if self.draining:
            raise Problem("draining", "this process is ending", headers=retry_after(None))
        if problem := self._services.vitals.not_ready():
            raise Problem("not-ready", problem, headers=retry_after(None))
        return Reply({"status": "ok"})

    async def metrics(self, call: Call) -> Reply:
        return Reply(self._services.metrics(), content_type=TEXT)

    async def openapi(self, call: Call) -> Reply:
        return Reply(self._openapi)

    async def record_schema(self, call: Call) -> Reply:
        return Reply(RECORD_SCHEMA)

    async def docs(self, call: Call) -> Reply:
        return Reply(self._docs, content_type=HTML)

    async def _record(self, call: Call) -> Stored:
        """The stored record that a call asks for; its sessions count as used. Raises Problem 404 when there is none."""
        broker = call.query.broker or self._services.default_broker
        user_key, keys = await self._record_keys(call, broker)
        for key in keys:
            stored = await self._services.records.get(key)
            if stored is None or not stored.document:
                continue
            wanted = call.query.account_id
            if wanted is None or orjson.loads(stored.document).get("accountId") == wanted:
                self._sessions.used(user_key, broker)
                return stored
        raise Problem("no-record", "there is no record of this account")

    async def _record_keys(self, call: Call, broker: str) -> tuple[str, list[str]]:
        """The user's key, and where the record may be: under the session's key, or that of the default account."""
        account_id, by_key = call.query.account_id, call.query.user_key
        user_id = call.headers.get("X-User-Id")
        if user_id is not None and by_key is not None:
            message = "state either the header X-User-Id or userKey"
            raise Problem("invalid-input", message, errors=[("userKey", message)])
        if call.caller.user_id is None and by_key is not None:
            user_key = await self._sessions.user_key(by_key)
            default = f"{broker}_account_{user_key}"
            return user_key, [default] if account_id is None else [f"{default}_{account_id}", default]
        user_id = acting_for(call.caller, user_id, field="X-User-Id")
        keys = [self._sessions.cache_key(user_id, broker, account_id)]
        if account_id is not None:
            keys.append(self._sessions.cache_key(user_id, broker, None))
        return self._resolver.user_keys.keys(user_id).canonical, keys

    def _reading(self, document: dict[str, Any], stored: Stored) -> tuple[dict[str, Any], dict[str, str]]:
        """The members that a read adds to a record, and the headers."""
        now_ms = self._services.clock.now_ms()
        fresh = self._services.is_fresh(document.get("status"), document.get("staleAfter"), now_ms)
        as_of = document.get("asOf")
        age_ms = max(0, now_ms - as_of) if isinstance(as_of, int) else None
        etag = f'"{stored.fence}-{stored.version}-{"true" if fresh else "false"}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        return {"fresh": fresh, "ageMs": age_ms, "serverTime": now_ms}, headers


def _matches(call: Call, etag: str) -> bool:
    """Whether If-None-Match names this reading (weak comparison)."""
    stated = call.headers.get("If-None-Match", "")
    return stated.strip() == "*" or etag in [each.strip().removeprefix("W/") for each in stated.split(",")]


def _store(store: StoreState) -> dict[str, Any]:
    return {
        "role": store.role,
        "state": store.state,
        "lastFlushAt": store.last_flush_at,
        "lastFlushMs": store.last_flush_ms,
        "dirty": store.dirty,
        "failures": store.failures,
    }
