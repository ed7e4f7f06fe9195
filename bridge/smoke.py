"""`python -m bridge smoke URL --key K`: checks a deployment from the outside, end to end, and says what to do.

Speaks to the bridge as a caller does and knows nothing else of it. Changes nothing unless it is given a user to start.
Must not print a key, and sends none over a connection that others can read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from bridge.config_values import is_loopback
from bridge.findings import Finding
from core.errors import ConfigurationError
from core.secret import Secret

REQUEST_S = 15.0
ANSWER_LIMIT = 4 * 2**20  # bytes
FRESH_S = 30.0
LOOK_S = 0.5
WAIT_S = 10
ETAG_TRIES = 5  # a record may be written anew between two reads
WANTED_HEADERS = ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy")
FOREIGN_ORIGIN = "https://elsewhere.example"
SEE_LOG = "look at the bridge's log, and run `python -m bridge doctor` where it runs"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `status` 0 when there was none, and then `problem` says why."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    problem: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in it, empty when it is none."""
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def said(self) -> str:
        """In a few words."""
        if not self.status:
            return self.problem
        detail = self.document.get("detail")
        if not isinstance(detail, str):
            return f"status {self.status}"
        return f"status {self.status}, {''.join(char if char.isprintable() else ' ' for char in detail)}"


class Smoke:
    """The checks over one deployment."""

    def __init__(self, url: str, http: aiohttp.ClientSession, key: Secret, ops_key: Secret | None) -> None:
        self._url = url.rstrip("/")
        self._http = http
        self._key = key
        self._ops_key = ops_key
        self._open = False

    async def deployment(self) -> AsyncIterator[Finding]:
        """Everything that needs no user. Ends early when nobody answers."""
        live = await self._get("/health/live")
        yield _expect("live", live, 200, "answers", SEE_LOG)
        if not live.status:
            return
        ready = await self._get("/health/ready")
        yield _expect("ready", ready, 200, "primary store usable", f"bring the primary store up; {SEE_LOG}")
        for finding in await self._health():
            yield finding
        yield _headers(live, https=self._url.startswith("https://"))
        for finding in await self._closed():
            yield finding
        yield await self._app_key()
        yield await self._key_in_browser()
        yield await self._foreign_origin()
        openapi = await self._get("/openapi.json")
        served = openapi.status == 200 and bool(openapi.document.get("paths"))
        yield Finding("openapi", served, "served" if served else openapi.said, "" if served else SEE_LOG)
        if self._ops_key is not None:
            for finding in await self._ops(self._ops_key):
                yield finding

    async def session(
        self, user: str, broker: str, *, account_id: str | None, environment: str | None, stop: bool
    ) -> AsyncIterator[Finding]:
        """One user's session: start, read it fresh, read it again unchanged, stop it if it was started here."""
        as_user = {"X-User-Id": user}
        path = f"/account?broker={broker}" + (f"&accountId={account_id}" if account_id else "")
        before = await self._get(path, key=self._key, headers=as_user)
        ran = before.status == 200 and before.document.get("status") != "stopped"
        wish = {"userId": user, "broker": broker, "accountId": account_id, "environment": environment}
        body = {name: value for name, value in wish.items() if value is not None}
        started = await self._request("POST", f"/api/start-session?wait={WAIT_S}", key=self._key, json=body)
        yield _expect("start", started, 202, f"status {started.document.get('status')}", _start_advice(started))
        if started.status != 202:
            return
        record = await self._fresh(path, as_user)
        fresh = record.document.get("fresh") is True
        yield Finding("record", fresh, _reading(record), "" if fresh else _record_advice(record))
        if fresh:
            yield await self._unchanged(path, as_user)
        if stop and not ran:
            end = {name: value for name, value in body.items() if name != "environment"}
            stopped = await self._request("POST", "/api/stop-session", key=self._key, json=end)
            yield _expect("stop", stopped, 202, "the session that was started here ends", SEE_LOG)
        elif stop:
            yield Finding("stop", None, "left running: it ran before")

    async def _health(self) -> list[Finding]:
        answer = await self._get("/health")
        health = answer.document
        if answer.status != 200 or health.get("status") not in ("ok", "degraded"):
            return [Finding("health", False, answer.said, SEE_LOG)]
        self._open = health.get("auth") == "open"
        stores, brokers = _states(health.get("stores")), _states(health.get("brokers"))
        version, uptime_s, auth = (health.get(name) for name in ("version", "uptimeSeconds", "auth"))
        detail = f"{health['status']}, version {version}, up {uptime_s} s, auth {auth}"
        unwell = [f"{name} {state}" for name, state in {**stores, **brokers}.items() if state not in ("up", "idle")]
        advice = "" if health["status"] == "ok" else f"see to {', '.join(unwell) or 'what is draining'}"
        findings = [Finding("health", True if health["status"] == "ok" else None, detail, advice)]
        if set(stores) == {"memory"}:
            advice = "set DATABASE_URL or REDIS_URL: records end with the process, and nobody else can read them"
            findings.append(Finding("stores", None, "records are kept in the process's memory only", advice))
        if not brokers:
            findings.append(Finding("brokers", None, "none is configured", "set the application's id and secret"))
        if self._open and not is_loopback(urlsplit(self._url).hostname or ""):
            advice = "set API_KEYS and API_KEY_SECRET at once: everybody can start and read sessions"
            findings.append(Finding("auth", False, "every route is open to everyone", advice))
        return findings

    async def _closed(self) -> list[Finding]:
        """Nobody comes in without a key, or with a wrong one."""
        if self._open:
            return [Finding("closed", None, "no keys are configured; every route is open, on loopback")]
        wrong = Secret(f"smoke.{secrets.token_urlsafe(32)}")
        findings = []
        for what, path, key in (
            ("closed to callers without a key", "/api/sessions", None),
            ("closed to a wrong key", "/api/sessions", wrong),
            ("metrics closed", "/metrics", None),
        ):
            answer = await self._get(path, key=key)
            well = answer.status == 401 and answer.headers.get("Content-Type", "").startswith(
                "application/problem+json"
            )
            detail = "401" if well else answer.said
            findings.append(
                Finding(what, well, detail, "" if well else "do not let anything answer in front of the bridge")
            )
        return findings

    async def _app_key(self) -> Finding:
        """A read for a user that nobody is: 404 when the key is accepted."""
        nobody = {"X-User-Id": f"smoke-{secrets.token_hex(8)}"}
        answer = await self._get("/account", key=self._key, headers=nobody)
        if answer.status == 404:
            return Finding("key", True, "accepted")
        advice = {
            401: "give the key as `keys new` printed it, and check that its entry is in API_KEYS of this deployment",
            403: "this key has no scope app: make one with `keys new --scope app`",
        }.get(answer.status, SEE_LOG)
        return Finding("key", False, answer.said, advice)

    async def _key_in_browser(self) -> Finding:
        answer = await self._get("/account", key=self._key, headers={"Origin": FOREIGN_ORIGIN})
        well = answer.status == 403 or self._open
        advice = "" if well else "a proxy in front removes the header Origin: let it through"
        return Finding("key refused in a browser", well, "403" if answer.status == 403 else answer.said, advice)

    async def _foreign_origin(self) -> Finding:
        answer = await self._get("/health", headers={"Origin": FOREIGN_ORIGIN})
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        advice = "a proxy in front adds CORS headers: leave them to CORS_ORIGINS" if allowed else ""
        return Finding("foreign origin", not allowed, f"allowed as {allowed}" if allowed else "not allowed", advice)

    async def _ops(self, key: Secret) -> list[Finding]:
        listing = await self._get("/api/sessions?limit=1", key=key)
        metrics = await self._get("/metrics", key=key)
        advice = "give a key of scope ops"
        said = f"{listing.document.get('total')} session(s)"
        counted = metrics.status == 200 and metrics.headers.get("Content-Type", "").startswith("text/plain")
        return [
            _expect("ops key", listing, 200, said, advice),
            Finding("metrics", counted, "served" if counted else metrics.said, "" if counted else advice),
        ]

    async def _fresh(self, path: str, headers: Mapping[str, str]) -> Answer:
        """The record as soon as it is fresh, or as it is in the end."""
        deadline = asyncio.get_running_loop().time() + FRESH_S
        while True:
            record = await self._get(path, key=self._key, headers=headers)
            final = record.document.get("status") in ("action_required", "stopped")
            if record.document.get("fresh") is True or final or asyncio.get_running_loop().time() > deadline:
                return record
            await asyncio.sleep(LOOK_S)

    async def _unchanged(self, path: str, headers: Mapping[str, str]) -> Finding:
        answer = Answer(0)
        for _ in range(ETAG_TRIES):
            etag = (await self._get(path, key=self._key, headers=headers)).headers.get("ETag", "")
            answer = await self._get(path, key=self._key, headers={**headers, "If-None-Match": etag})
            if answer.status == 304:
                return Finding("read again", True, "304, nothing is sent twice")
        return Finding(
            "read again", False, answer.said, "a proxy in front removes ETag or If-None-Match: let them through"
        )

    async def _get(self, path: str, *, key: Secret | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        return await self._request("GET", path, key=key, headers=headers)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        key: Secret | None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
    ) -> Answer:
        """One request; a redirect is not followed, since a key might go along."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key.reveal()}"
        data = None if json is None else orjson.dumps(json)
        if data is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(REQUEST_S),
                self._http.request(method, self._url + path, headers=sent, data=data, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(ANSWER_LIMIT)
                while len(body) < ANSWER_LIMIT and (more := await answer.content.read(ANSWER_LIMIT - len(body))):
                    body += more
                return Answer(answer.status, answer.headers, body)
        except TimeoutError:
            return Answer(0, problem="no answer in time")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(0, problem=f"no answer ({type(error).__name__})")


async def run_smoke(
    url: str,
    *,
    key: Secret,
    ops_key: Secret | None = None,
    user: str | None = None,
    broker: str | None = None,
    account_id: str | None = None,
    environment: str | None = None,
    stop: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Check the deployment at `url`, one line per check; 0 when nothing failed, else 1.

    With `user` and `broker` a session is started and read, and with `stop` ended again unless it ran before. Raises
    ConfigurationError for an address that a key must not be sent to.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise ConfigurationError("URL: give the address of the bridge, such as https://bridge.example.com")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError("URL: use https://, the key could be read on its way (http:// is for loopback only)")
    if user is not None and broker is None:
        raise ConfigurationError("--broker: name the broker that --user has connected")
    failed = 0
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        smoke = Smoke(url, http, key, ops_key)
        async for finding in smoke.deployment():
            say(finding.line())
            failed += finding.ok is False
        if user is not None and broker is not None and not failed:
            async for finding in smoke.session(user, broker, account_id=account_id, environment=environment, stop=stop):
                say(finding.line())
                failed += finding.ok is False
    say(f"{failed} problem(s) found" if failed else "all is well")
    return 1 if failed else 0


def _expect(what: str, answer: Answer, status: int, detail: str, advice: str) -> Finding:
    well = answer.status == status
    if not answer.status:
        advice = "check the address, and that the deployment runs and its port is published"
    return Finding(what, well, detail if well else answer.said, "" if well else advice)


def _headers(answer: Answer, *, https: bool) -> Finding:
    wanted = (*WANTED_HEADERS, *(("Strict-Transport-Security",) if https else ()))
    missing = [name for name in wanted if name not in answer.headers]
    if not missing:
        return Finding("security headers", True, "all there")
    detail = f"missing: {', '.join(missing)}"
    if missing == ["Strict-Transport-Security"]:
        return Finding("security headers", None, detail, "set PUBLIC_URL to this https:// address")
    return Finding("security headers", False, detail, "a proxy in front removes them: let them through")


def _states(parts: object) -> dict[str, str]:
    if not isinstance(parts, dict):
        return {}
    return {str(name): str(part.get("state")) for name, part in parts.items() if isinstance(part, dict)}


def _reading(record: Answer) -> str:
    document = record.document
    if record.status != 200:
        return record.said
    words = f"{document.get('status')}, {'fresh' if document.get('fresh') is True else 'not fresh'}"
    return f"{words}, read {document.get('ageMs')} ms after the broker was heard"


def _start_advice(started: Answer) -> str:
    return {
        409: "connect the broker for this user first, or name the account with --account",
        422: "correct what it says",
    }.get(started.status, SEE_LOG)


def _record_advice(record: Answer) -> str:
    reason = record.document.get("reason")
    if isinstance(reason, dict) and isinstance(reason.get("message"), str):
        return f"{reason.get('code')}: {reason['message']}"
    return f"ask /api/sessions/<userKey>/explain with an ops key; {SEE_LOG}"
