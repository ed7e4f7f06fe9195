"""What is in a frame of either stream: JSON or MessagePack, whatever kind of frame it came in (alpaca.md §2.1, §3.2).

A paper account's trading stream sends JSON in binary frames, a live one's in text; the data stream sends MessagePack
when asked. Invariant: what cannot be read raises ProtocolViolation and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

from core.errors import ProtocolViolation

HEARTBEAT = b"\x01"
_MAP_OR_ARRAY = frozenset({*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})  # first bytes of such MessagePack values

Frame = bytes | bytearray | memoryview


def read(frame: Frame) -> Any:
    """The document in a frame; None for a heartbeat. Times of MessagePack become RFC 3339 text, as in JSON."""
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        if frame == HEARTBEAT:
            return None
        if len(frame) and frame[0] in _MAP_OR_ARRAY:
            return unpack(frame, times=True)
        raise ProtocolViolation("a frame that cannot be read") from error


def unpack(frame: Frame, *, times: bool = False) -> Any:
    """The document in a MessagePack frame; its times stay the library's Timestamp, or (`times`) become text."""
    try:
        return msgpack.unpackb(frame, timestamp=0, object_hook=_with_times if times else None)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolViolation("a MessagePack frame that cannot be read") from error


def _with_times(document: dict[Any, Any]) -> dict[Any, Any]:
    for key, value in document.items():
        if type(value) is msgpack.Timestamp:
            document[key] = f"{value.to_datetime():%Y-%m-%dT%H:%M:%S}.{value.nanoseconds:09d}Z"
    return document


def pack(document: dict[str, Any]) -> bytes:
    """A MessagePack frame."""
    packed: bytes = msgpack.packb(document)
    return packed
