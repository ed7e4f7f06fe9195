"""The public keys that an issuer of user tokens publishes (JWKS): fetched seldom, kept, and believed within bounds.

A key is used for the one algorithm that its kind allows (P-256: ES256, RSA of 2048 bits or more: RS256), whatever a
token says; shared-secret and weak keys in the list are passed over. While the issuer is away the keys it gave last are
good for an hour. Invariants: one fetch at a time; at most one a minute once keys are known, whatever key ids callers
make up; an answer is bounded in bytes and time and is never followed elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from bridge.api.strict_json import NotStrict, strict_loads
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.errors import Unavailable

log = logging.getLogger(__name__)

LARGEST_ANSWER = 64 * 1024  # bytes
MOST_KEYS = 32
FETCH_S = 5.0  # one fetch, from name look-up to the last byte
FRESH_S = 600.0  # keys are read again after so long
STALE_S = 3600.0  # and believed for so long when that fails
AGAIN_S = 60.0  # between two fetches, whatever happens
FIRST_AGAIN_S = 5.0  # while there are no keys at all
TROUBLE_S = 150.0  # more than two tries in vain: somebody should hear of it
WAIT_S = 3.0  # a caller waits so long for a fetch that is under way
_RSA_BITS = (2048, 8192)

Keys = Mapping[tuple[str, str | None], PyJWK]  # by algorithm and key id


class KeySet:
    """The keys behind one URL. `fetches` and `failures` are plain counters."""

    algorithms = ("ES256", "RS256")

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._tasks = Tasks("jwks")
        self._keys: Keys = {}
        self._read_at: float | None = None  # monotonic
        self._next = 0.0  # no fetch before (monotonic)
        self._flight: asyncio.Task[None] | None = None
        self._failed = False  # the last fetch did
        self.fetches = 0
        self.failures = 0

    async def find(self, algorithm: str, key_id: str | None) -> PyJWK | None:
        """The key, or None when the issuer has none such. Raises Unavailable when the issuer cannot be asked."""
        now = self._clock.monotonic()
        key = _pick(self._keys, algorithm, key_id)
        if key is not None and self._age(now) <= FRESH_S:
            return key
        flight = self._fetch_when_due(now)
        if key is not None and self._age(now) <= STALE_S:
            return key
        if flight is not None:
            await asyncio.wait({flight}, timeout=WAIT_S)
        key = _pick(self._keys, algorithm, key_id)
        if self._age(now) > STALE_S or (key is None and (self._failed or self._flight is not None)):
            raise Unavailable("the keys of user tokens cannot be read at the moment", retry_after_s=FIRST_AGAIN_S)
        return key

    def trouble(self) -> str | None:
        """One sentence when the keys are past their time and could not be read again, else None."""
        overdue = self._age(self._clock.monotonic()) > FRESH_S + TROUBLE_S
        if not (self._failed and overdue) or self._flight is not None:
            return None
        return "the keys of user tokens cannot be read, and within the hour no user is let in any more; see JWKS_URL"

    def figures(self) -> Mapping[str, float]:
        """Counters for telemetry."""
        return {"fetches": self.fetches, "failures": self.failures}

    async def close(self) -> None:
        """End a fetch that is under way."""
        await self._tasks.close()

    def _age(self, now: float) -> float:
        return float("inf") if self._read_at is None else now - self._read_at

    def _fetch_when_due(self, now: float) -> asyncio.Task[None] | None:
        """The fetch that is under way, begun now when one is due."""
        if self._flight is None and now >= self._next:
            self._next = now + (AGAIN_S if self._keys else FIRST_AGAIN_S)
            self._flight = self._tasks.start(self._fetch(), name="fetch")
        return self._flight

    async def _fetch(self) -> None:
        self.fetches += 1
        self._failed = True  # until it has not
        try:
            keys = usable_keys(await _read(self._url))
        except (aiohttp.ClientError, TimeoutError, NotStrict) as error:
            self.failures += 1
            log.warning("the keys of user tokens could not be read", extra={"error": type(error).__name__})
        else:
            self._failed = False
            now = self._clock.monotonic()
            self._keys, self._read_at, self._next = keys, now, max(self._next, now + AGAIN_S)
        finally:
            self._flight = None


def usable_keys(document: bytes) -> Keys:
    """The keys of a JWKS that may verify tokens; the first of equals counts. Raises NotStrict when there is none."""
    data = strict_loads(document)
    listed = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise NotStrict("is no list of keys")
    keys: dict[tuple[str, str | None], PyJWK] = {}
    for entry in listed:
        key = _usable(entry) if isinstance(entry, dict) else None
        if key is not None:
            keys.setdefault((key.algorithm_name, key.key_id), key)
    if not keys:
        raise NotStrict("holds no usable key")
    return keys


def _usable(entry: dict[str, Any]) -> PyJWK | None:
    """One key, held to the algorithm of its kind; None for what must not verify anything."""
    kind = [entry.get("kty"), entry.get("crv")]
    algorithm = "ES256" if kind == ["EC", "P-256"] else "RS256" if kind == ["RSA", None] else None
    uses = entry.get("key_ops", ["verify"])
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    if "d" in entry or not isinstance(uses, list) or "verify" not in uses:
        return None
    if not isinstance(entry.get("kid"), (str, type(None))):
        return None
    try:
        key = PyJWK(entry, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):  # whatever the library makes of nonsense in a key
        return None
    if algorithm == "RS256" and not _RSA_BITS[0] <= key.key.key_size <= _RSA_BITS[1]:
        return None
    return key


def _pick(keys: Keys, algorithm: str, key_id: str | None) -> PyJWK | None:
    """The key by its id; a token that names none is for the only key of its algorithm, when there is only one."""
    if key_id is not None:
        return keys.get((algorithm, key_id))
    fitting = [key for (each, _), key in keys.items() if each == algorithm]
    return fitting[0] if len(fitting) == 1 else None


async def _read(url: str) -> bytes:
    """The document. Raises aiohttp.ClientError, TimeoutError or NotStrict."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        asyncio.timeout(FETCH_S),
        aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as http,
        http.get(url, headers=headers, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise NotStrict(f"came with status {answer.status}")
        document = bytearray()
        while chunk := await answer.content.readany():
            document += chunk
            if len(document) > LARGEST_ANSWER:
                raise NotStrict("is too large")
        return bytes(document)
