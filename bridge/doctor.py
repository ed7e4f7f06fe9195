"""`python -m bridge doctor`: tries everything a start will need and says in plain words what to do about each finding.

Every network step has a deadline. Must not start a session, write a record, or print a secret.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import aiohttp
import orjson

from bridge.cache.store import Store
from bridge.config import Settings
from bridge.credentials.disk import read_if_changed
from bridge.credentials.parsing import parse
from bridge.doctor_database import database_findings
from bridge.findings import Finding
from bridge.runtime.clock import Clock
from core.errors import BridgeError, ConfigurationError, InvalidInput

STEP_S = 5.0
SKEW_MS = 2000  # beyond this, freshness as readers judge it is off
FILES_WANTED = 4096
LARGEST_ANSWER = 64 * 1024
OTHERS = 0o077  # permissions of everybody but the owner


@runtime_checkable
class HasClock(Protocol):
    """A store on another machine, whose clock can be asked."""

    async def now_ms(self) -> int: ...


class Doctor:
    """Runs the checks over one configuration."""

    def __init__(self, settings: Settings, stores: Sequence[Store], clock: Clock) -> None:
        self._settings = settings
        self._stores = stores
        self._clock = clock

    async def run(self) -> int:
        """Print every finding; 0 when none failed, else 1."""
        checks: list[Callable[[], Awaitable[list[Finding]]]] = [
            self._configuration,
            self._credentials,
            self._database,
            self._stores_answer,
            self._clock_skew,
            self._limits,
            self._users,
            self._telling,
            self._brokers,
        ]
        failed = 0
        for check in checks:
            for finding in await check():
                print(finding.line())
                failed += finding.ok is False
        print(f"{failed} problem(s) found" if failed else "all is well")
        return 1 if failed else 0

    async def _configuration(self) -> list[Finding]:
        settings = self._settings
        callers = "open on loopback, no API keys" if settings.auth_open else f"{len(settings.api_keys)} API key(s)"
        stores = ", ".join(settings.store_names)
        findings = [
            Finding("configuration", True, f"valid; {callers}; stores: {stores}; binds {', '.join(settings.hosts)}")
        ]
        if settings.store_names == ("memory",):
            advice = (
                "set DATABASE_URL or REDIS_URL so that other programs can read the records and they outlive the process"
            )
            findings.append(Finding("stores", None, "records are kept in this process's memory only", advice))
        if settings.paas and settings.trusted_proxy_hops == 0:
            advice = "set TRUSTED_PROXY_HOPS=1, or all callers share the rate limit of the platform's proxy"
            findings.append(Finding("proxy", None, f"a platform ({settings.paas}) is in front", advice))
        for broker, missing in settings.unconfigured_brokers.items():
            advice = f"set {' and '.join(missing)} of your application at the broker"
            findings.append(Finding(f"broker {broker}", None, "no application: no session can start there", advice))
        return findings

    async def _credentials(self) -> list[Finding]:
        path = self._settings.bridge_credentials_file
        what = "credentials file"
        if path is None:
            if self._settings.token_encryption_keys:
                return []
            advice = "set TOKEN_ENCRYPTION_KEYS with DATABASE_URL, or BRIDGE_CREDENTIALS_FILE for development"
            return [Finding("credentials", None, "no user has any: there is no place for them", advice)]
        try:
            read = read_if_changed(path, None)
            users = parse(read.data).users
        except OSError as error:
            return [Finding(what, False, f"{path}: {error.strerror}", "make it readable, in the form README shows")]
        except InvalidInput as error:
            return [Finding(what, False, f"{path}: {error}", "write it in the form README shows")]
        writable = _writable(path)
        advice = "" if writable else "make file and folder writable, or tokens cannot be refreshed"
        found = Finding(what, writable or None, f"{len(users)} user(s){'' if writable else ', not writable'}", advice)
        if not read.mode & OTHERS:
            return [found]
        return [found, Finding(what, None, "other users of this machine may read or change it", f"chmod 600 {path}")]

    async def _database(self) -> list[Finding]:
        return await database_findings(self._settings, self._clock)

    async def _stores_answer(self) -> list[Finding]:
        findings = []
        for store in self._stores:
            try:
                async with asyncio.timeout(STEP_S):
                    await store.open()
                    await store.ping()
                findings.append(_store(store))
            except ConfigurationError as error:  # it answers, and something in it is missing: a start is refused
                advice = "mend what is said; with a database that lacks migrations: `python -m bridge migrate`"
                findings.append(Finding(f"store {store.name}", False, str(error), advice))
            except (BridgeError, TimeoutError) as error:
                advice = "check its address, password and network; the bridge starts without it but is not ready"
                findings.append(Finding(f"store {store.name}", False, str(error) or "no answer in time", advice))
        return findings

    async def _clock_skew(self) -> list[Finding]:
        findings = []
        for store in self._stores:
            if not isinstance(store, HasClock):
                continue
            try:
                async with asyncio.timeout(STEP_S):
                    before = self._clock.now_ms()
                    theirs = await store.now_ms()
            except (BridgeError, TimeoutError):
                continue  # said above
            findings.append(_skew(f"clock against {store.name}", (before + self._clock.now_ms()) // 2 - theirs))
        await asyncio.gather(*(store.close() for store in self._stores))
        return findings or [await self._skew_by_http()]

    async def _skew_by_http(self) -> Finding:
        url = self._settings.clock_url
        what = f"clock against {urlsplit(url).hostname}"
        try:
            timeout = aiohttp.ClientTimeout(total=STEP_S)
            async with aiohttp.ClientSession(timeout=timeout) as http, http.head(url, allow_redirects=False) as answer:
                theirs = round(parsedate_to_datetime(answer.headers["Date"]).timestamp() * 1000)
        except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError):
            return Finding(what, None, "not reachable, so the clock could not be compared")
        return _skew(what, self._clock.now_ms() - theirs, grain_ms=1000)

    async def _limits(self) -> list[Finding]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reachable = FILES_WANTED if hard == resource.RLIM_INFINITY else hard
        if max(soft, reachable) >= FILES_WANTED:
            return [Finding("open files", True, f"limit {soft}, may be raised to {hard} at start")]
        advice = f"raise the limit (ulimit -n {FILES_WANTED}); every caller and channel needs one"
        return [Finding("open files", False, f"limit {soft}, at most {hard}", advice)]

    async def _users(self) -> list[Finding]:
        """What user tokens are verified with, and whether it can be had."""
        settings, findings = self._settings, []
        if settings.jwks_url:
            findings.append(await self._key_set(settings.jwks_url))
        elif settings.supabase_url and not settings.supabase_jwt_secret:
            url = f"{settings.supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"
            findings.append(Finding("user tokens", None, "not verified, users cannot call", f"set JWKS_URL={url}"))
        if settings.supabase_url and "supabase" not in settings.store_names:
            findings.append(await self._supabase(settings.supabase_url))
        return findings

    async def _key_set(self, url: str) -> Finding:
        what = f"keys of user tokens ({urlsplit(url).hostname})"
        listed = None
        try:
            status, body = await _get(url)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            advice = "check JWKS_URL and that this machine may connect there"
            return Finding(what, False, f"no answer ({type(error).__name__})", advice)
        with suppress(orjson.JSONDecodeError, TypeError, KeyError):
            listed = orjson.loads(body)["keys"]
        if status != 200 or not isinstance(listed, list) or not listed:
            advice = (
                "JWKS_URL ends in /.well-known/jwks.json; with the older shared secret set SUPABASE_JWT_SECRET instead"
            )
            return Finding(what, False, f"status {status}, no list of keys", advice)
        return Finding(what, True, f"{len(listed)} key(s)")

    async def _supabase(self, url: str) -> Finding:
        what = f"Supabase ({urlsplit(url).hostname})"
        try:
            status, _ = await _get(f"{url.rstrip('/')}/auth/v1/.well-known/jwks.json")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            advice = "check SUPABASE_URL and that the project is not paused"
            return Finding(what, False, f"no answer ({type(error).__name__})", advice)
        if status >= 500:
            return Finding(what, False, f"status {status}", "look at the project's own status: it may be paused")
        return Finding(what, True, "answers")

    async def _telling(self) -> list[Finding]:
        """Whether somebody hears of it when something is wrong. Sends nothing."""
        settings, findings = self._settings, []
        for name, value, advice in (
            ("ALERT_WEBHOOK_URL", settings.alert_webhook_url, "set it, or nobody is told when something is wrong"),
            ("HEARTBEAT_URL", settings.heartbeat_url, "set it, or nobody notices when the process falls silent"),
        ):
            findings.append(Finding(name, True, "set") if value else Finding(name, None, "not set", advice))
        if settings.sentry_dsn and importlib.util.find_spec("sentry_sdk") is None:
            advice = "install the extra: pip install 'pulse-bridge[sentry]'"
            findings.append(Finding("SENTRY_DSN", False, "the package is not installed", advice))
        return findings

    async def _brokers(self) -> list[Finding]:
        urls = self._settings.broker_urls.items()
        return list(await asyncio.gather(*(self._dial(name, url) for name, url in urls)))

    async def _dial(self, name: str, url: str) -> Finding:
        """TCP, TLS and WebSocket or HTTP, one after the other, so that the advice fits."""
        parts = urlsplit(url)
        secure, socket_wanted = parts.scheme in ("wss", "https"), parts.scheme in ("wss", "ws")
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        what = f"broker {name} ({host}:{port})"
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
        except TimeoutError:
            return Finding(what, False, "no TCP connection in time", "allow outgoing connections to this host and port")
        except OSError as error:
            advice = "check the name and DNS, and allow outgoing connections to this host and port"
            return Finding(what, False, f"no TCP connection: {error.strerror or type(error).__name__}", advice)
        try:
            timeout = aiohttp.ClientTimeout(total=STEP_S)
            async with asyncio.timeout(STEP_S), aiohttp.ClientSession(timeout=timeout) as http:
                if socket_wanted:
                    await (await http.ws_connect(url, compress=0)).close()
                else:
                    (await http.get(url, allow_redirects=False)).close()
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLError) as error:
            advice = "check the machine's clock and certificates, and that no proxy opens TLS on the way"
            return Finding(what, False, f"TLS failed: {type(error).__name__}", advice)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            kind = "WebSocket" if socket_wanted else "HTTP"
            advice = f"check that the URL is a broker's {kind} port"
            return Finding(what, False, f"no {kind}: {type(error).__name__}", advice)
        said = f"TCP, TLS and {'WebSocket' if socket_wanted else 'HTTP'} answer" if secure else "answers"
        return Finding(what, True, said)


def _store(store: Store) -> Finding:
    if store.capabilities.fenced:
        return Finding(f"store {store.name}", True, "answers")
    advice = (
        "run `python -m bridge migrate` with DATABASE_URL, or `python -m bridge migrate --export supabase/migrations`"
        " and apply those: until then only one process may run"
    )
    return Finding(f"store {store.name}", None, "answers, without the functions that compare fences", advice)


async def _get(url: str) -> tuple[int, bytes]:
    """Status and the first part of the body; not redirected."""
    timeout = aiohttp.ClientTimeout(total=STEP_S)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, allow_redirects=False) as answer:
        body = b""
        while len(body) < LARGEST_ANSWER and (more := await answer.content.read(LARGEST_ANSWER - len(body))):
            body += more
        return answer.status, body


def _skew(what: str, skew_ms: int, *, grain_ms: int = 0) -> Finding:
    if abs(skew_ms) <= SKEW_MS + grain_ms:
        return Finding(what, True, f"within {SKEW_MS / 1000:g} s")
    return Finding(what, False, f"{skew_ms / 1000:+.1f} s apart", "synchronise this machine's clock (NTP)")


def _writable(path: Path) -> bool:
    """The file is replaced by a new one beside it, so the folder counts as well."""
    return os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK)
