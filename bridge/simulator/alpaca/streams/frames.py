"""How stream messages look as bytes: JSON in text or binary frames, or MessagePack. Codec only, no sockets.

Source: reference/alpaca.md §2.1 and §3.2. Times of market data are `Nanos`: RFC 3339 with nine digits in JSON, the
Timestamp extension in MessagePack. Whatever a client sends either becomes a plain object or raises `BadMessage`.
"""

from __future__ import annotations

import datetime as dt
from enum import Enum
from typing import Any

import msgpack
import orjson

NANOS = 1_000_000_000
MSGPACK_TYPE = "application/msgpack"


class Encoding(Enum):
    """What the server sends; `msgpack` also says how a client's binary frames are read."""

    TEXT = "text"  # JSON in text frames
    BINARY = "binary"  # JSON in binary frames
    MSGPACK = "msgpack"

    @property
    def is_text(self) -> bool:
        return self is Encoding.TEXT


class BadMessage(Exception):
    """A client's message is no object in the encoding of its connection."""


class Nanos:
    """A moment of market data, Unix nanoseconds."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Nanos({rfc3339(self.value)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nanos) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def rfc3339(at_ns: int) -> str:
    """`2026-11-21T07:55:29.123456789Z`."""
    seconds, rest = divmod(at_ns, NANOS)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def encode(document: Any, encoding: Encoding) -> bytes:
    """One message of the server."""
    if encoding is Encoding.MSGPACK:
        packed: bytes = msgpack.packb(document, default=_to_msgpack)
        return packed
    return orjson.dumps(document, default=_to_json)


def decode(data: bytes, encoding: Encoding, *, is_text: bool) -> dict[str, Any]:
    """One message of a client. Text frames are JSON whatever the encoding. Raises BadMessage."""
    try:
        packed = encoding is Encoding.MSGPACK and not is_text
        message = msgpack.unpackb(data) if packed else orjson.loads(data)
    except (ValueError, TypeError, msgpack.UnpackException) as cause:
        raise BadMessage("neither JSON nor MessagePack") from cause
    if not isinstance(message, dict):
        raise BadMessage("not an object")
    return message


def _to_json(value: Any) -> str:
    if isinstance(value, Nanos):
        return rfc3339(value.value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def _to_msgpack(value: Any) -> Any:
    if isinstance(value, Nanos):
        return msgpack.Timestamp(*divmod(value.value, NANOS))
    raise TypeError(f"cannot encode {type(value).__name__}")
