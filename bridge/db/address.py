"""DATABASE_URL as the driver takes it.

Providers and other libraries put words of their own into such an address (`pgbouncer=true`, `connection_limit=1`,
`supa=…`); the driver would hand each of them to the server as a setting, and a server or pooler refuses what it does
not know. They are left out. Must never put the address, or a part of it, into a message.
"""

from __future__ import annotations

import logging
import os
from urllib.parse import parse_qsl, urlencode, urlsplit

from core.errors import ConfigurationError
from core.secret import Secret

log = logging.getLogger(__name__)

TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_PLACES = ("host", "port", "user", "password", "passfile", "dbname", "database", "service")
_TLS = ("sslmode", *_FILES, "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
# `options` is how some poolers are told which database is meant, so it stays when somebody wrote it there
KNOWN = frozenset((*_PLACES, *_TLS, "target_session_attrs", "krbsrvname", "gsslib", "options"))


def server_address(url: Secret) -> str:
    """The address without what is not the driver's. Raises ConfigurationError when it can never work."""
    try:
        parts = urlsplit(url.reveal())
        parts.port  # noqa: B018 (asking raises)
    except ValueError:
        raise _wrong("its host or port cannot be read; a password with @, /, # or ? must be percent-encoded") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise _wrong("begins with postgresql://")
    words = [(name, value) for name, value in parse_qsl(parts.query) if name in KNOWN]
    left_out = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - KNOWN
    if left_out:
        log.info("left out of the database's address", extra={"names": sorted(left_out)})
    for name, value in words:
        if name == "sslmode" and value not in TLS_MODES:
            raise _wrong(f"sslmode is one of {', '.join(TLS_MODES)}")
        if name in _FILES and not os.access(value, os.R_OK):
            raise _wrong(f"{name} names no file that can be read")
    return parts._replace(query=urlencode(words)).geturl()


def _wrong(rule: str) -> ConfigurationError:
    return ConfigurationError(f"DATABASE_URL: {rule}")
