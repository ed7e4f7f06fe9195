"""A string that does not print itself."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NoReturn

_TOKEN = re.compile(r"[!#-&(-+\--;=?-\[\]-z|~]{1,4096}")  # visible ASCII without " ' , < > \\ { }


def is_token(text: str) -> bool:
    """Whether a text that somebody presents may be a token or a code: neither prose nor a piece of JSON."""
    return bool(_TOKEN.fullmatch(text))


class Secret:
    """Holds a secret; repr, str, format and JSON show `***`. `reveal()` is the only way out.

    Equality is constant-time; a Secret equals only another Secret.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself. Call this at the socket or the cipher, nowhere else."""
        return self._value

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256: safe as an in-memory key for a high-entropy secret, not for logs."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:16]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied to another process")
