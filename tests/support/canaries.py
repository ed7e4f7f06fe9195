"""The secrets that the suite plants, and the search for any of them in whatever was said or stored (faults.md S05).

Found are plain text, text backwards, hex of either case, base64 at any offset in both alphabets, and each of these
quoted for URLs or escaped as JSON, also twice. The search shares no code with what keeps secrets out of the log.

Known without being told: what the simulator gives out, every JWT, and what the environment of a process holds. Whoever
makes up another secret plants it.
"""

import binascii
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

import asyncpg
import redis

USERS_SEARCHED = 100  # of a file of credentials: what is said of one of thousands is said of these as well
SHORTEST = 8  # characters; a shorter text would be found in ordinary words
SIMULATOR = (
    *("sim-access-", "sim-refresh-", "sim-secret", "sim-code-"),
    *("sim-alpaca-secret-", "sim-alpaca-live-secret-", "sim-alpaca-oauth-", "sim-alpaca-code-"),
)
JWT_BEGINNINGS = ("eyJhbGciOi", "eyJ0eXAiOi")
SECRET_VARIABLES = (
    *("API_KEY_SECRET", "USER_KEY_SECRET", "REDIS_PASSWORD", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
    *("SUPABASE_JWT_SECRET", "CTRADER_CLIENT_SECRET", "ALPACA_CLIENT_SECRET"),
    *("ALPACA_DATA_KEY_ID", "ALPACA_DATA_SECRET_KEY"),
)
SECRET_ADDRESSES = ("DATABASE_URL", "REDIS_URL", "ALERT_WEBHOOK_URL", "HEARTBEAT_URL", "SENTRY_DSN")
_SECRET_NAME = re.compile("pass|token|key|secret", re.IGNORECASE)
_ESCAPE = re.compile(rb'\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|["\'\\/])')
_planted: set[str] = set(SIMULATOR + JWT_BEGINNINGS)
_passing: set[str] = set()


def plant(*texts: str) -> None:
    """Search for these too, from now on, everywhere."""
    _planted.update(text for text in texts if len(text) >= SHORTEST)


def plant_passing(*texts: str) -> None:
    """Search for these too, except in answers: a state, a ticket or a code, which somebody is to be told."""
    _passing.update(text for text in texts if len(text) >= SHORTEST)


def secrets_of(env: Mapping[str, str]) -> set[str]:
    """The secrets in the environment of a bridge, and in the file of credentials that it names."""
    found = {env[name] for name in SECRET_VARIABLES if name in env}
    for name in SECRET_ADDRESSES:
        found.update(_secret_parts(env.get(name, "")))
    for entry in env.get("TOKEN_ENCRYPTION_KEYS", "").split(","):
        found.add(entry.partition(":")[2].strip())
    if path := env.get("BRIDGE_CREDENTIALS_FILE"):
        found.update(_tokens_in(Path(path)))
    return {text for text in found if len(text) >= SHORTEST}


def leaks(said: str | bytes, *, also: Iterable[str] = (), but: Collection[str] = (), answer: bool = False) -> list[str]:
    """Where planted secrets, and those in `also`, stand in what was said; `but`: what may be said here on purpose."""
    raw = said.encode("utf-8", "surrogateescape") if isinstance(said, str) else said
    secrets = {*_planted, *also, *(() if answer else _passing)} - set(but)
    views = _views(raw)
    found = []
    for secret in sorted(secrets):
        for form, needle in _needles(secret):
            where = next((view for view in views if needle in view), None)
            if form == "hex":
                where = next((view.lower() for view in views if needle in view.lower()), None)
            if where is not None:
                at = where.index(needle)
                found.append(f"{form} of {secret!r}: …{where[max(0, at - 120) : at + len(needle) + 60]!r}…")
    return found


def assert_clean(said: str | bytes, what: str, **more: Collection[str] | bool) -> None:
    """AssertionError that names `what` when a secret stands in it."""
    found = leaks(said, **more)  # type: ignore[arg-type]
    assert not found, f"secrets in {what}:\n" + "\n".join(found)


def stored_in_redis(url: str) -> str:
    """Every key of a server and what is in it."""
    with redis.Redis.from_url(url) as client:
        lines = []
        for key in client.scan_iter(count=1000):
            readers = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}
            lines.append(f"{key!r} {readers.get(client.type(key), client.dump)(key)!r}")
    return "\n".join(lines)


async def stored_in_postgres(url: str) -> str:
    """Every row of every table, as text; not of the tables of settings that others fill (kv_store_…)."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "select format('%I.%I', schemaname, tablename) as name from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema') and tablename not like 'kv_store%'"
        )
        rows = [
            row["t"] for table in tables for row in await connection.fetch(f"select t::text from {table['name']} t")
        ]
    finally:
        await connection.close()
    return "\n".join(rows)


# ---------------------------------------------------------------- what is looked for, and in what


@lru_cache(maxsize=4096)
def _needles(secret: str) -> tuple[tuple[str, bytes], ...]:
    raw = secret.encode()
    forms = [("plain text", raw), ("reverse", raw[::-1]), ("hex", raw.hex().encode())]
    for offset in range(3):  # of its first byte among three
        encoded = binascii.b2a_base64(b"\0" * offset + raw, newline=False).rstrip(b"=")
        # only characters that no neighbour has a part in
        certain = encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
        forms += [("base64", certain), ("base64", certain.translate(bytes.maketrans(b"+/", b"-_")))]
    return tuple(dict.fromkeys(forms))


def _views(raw: bytes) -> list[bytes]:
    """The text, and what it says when quoting and escaping are undone."""
    views = [raw]
    if b"\\" in raw:
        once = _ESCAPE.sub(_unescaped, raw)
        views += [once, _ESCAPE.sub(_unescaped, once)]
    if b"%" in raw:
        views += [unquote_to_bytes(raw), unquote_to_bytes(raw.replace(b"+", b" "))]
    return views


def _unescaped(match: re.Match[bytes]) -> bytes:
    word = match[1]
    return chr(int(word[1:], 16)).encode("utf-8", "replace") if word[:1] in b"ux" and len(word) > 1 else word


def _secret_parts(address: str) -> Iterator[str]:
    """Of a database the password; of a web address, which as a whole is the key, path, user and query."""
    parts = urlsplit(address)
    if not parts.scheme:
        return
    yield unquote_to_bytes(parts.password or "").decode()
    yield from (value for name, value in parse_qsl(parts.query) if _SECRET_NAME.search(name))
    if parts.scheme in ("http", "https"):
        yield from (parts.username or "", parts.path.strip("/"))


def _tokens_in(path: Path) -> Iterator[str]:
    """The tokens of the first users in a file of credentials, as far as their beginning is not looked for anyway."""
    try:
        users = json.loads(path.read_text())["users"]
    except (OSError, ValueError, KeyError):
        return
    for entries in islice(users.values(), USERS_SEARCHED):
        for entry in entries.values() if isinstance(entries, dict) else ():
            for name, value in entry.items() if isinstance(entry, dict) else ():
                if _SECRET_NAME.search(name) and isinstance(value, str) and not value.startswith(SIMULATOR):
                    yield value
