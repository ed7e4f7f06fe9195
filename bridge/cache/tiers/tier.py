"""What a shared tier of the general cache is, and what a pattern means in all of them.

A pattern is a key in which `*` stands for any run of characters and `?` for any one; everything else means itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

MAX_KEY = 512  # characters
MAX_VALUE = 256 * 1024  # bytes of JSON


@dataclass(frozen=True, slots=True)
class Held:
    """A value as a tier keeps it: JSON bytes, and the seconds that it has left there."""

    value: bytes
    left_s: float


class Tier(Protocol):
    """A place for values that expire. Raises StoreUnavailable, and nothing else, when it cannot serve.

    Calls need no deadline of their own: whoever guards a tier sets one, so a call may be cancelled at any point.
    """

    name: str

    async def get(self, key: str) -> Held | None:
        """The value under a key, None when there is none or it has expired."""

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for so long."""

    async def remove(self, pattern: str) -> None:
        """Remove what a pattern matches; a pattern without `*` and `?` is one key."""

    async def clean(self) -> int:
        """Remove what has expired or is too much; how many that were."""

    async def close(self) -> None:
        """Release connections. Never raises."""


def is_exact(pattern: str) -> bool:
    """Whether a pattern can only match itself."""
    return "*" not in pattern and "?" not in pattern


def matcher(pattern: str) -> re.Pattern[str]:
    """To be used with `fullmatch`."""
    parts = [{"*": ".*", "?": "."}.get(char, re.escape(char)) for char in re.sub(r"\*+", "*", pattern)]
    return re.compile("".join(parts), re.DOTALL)
