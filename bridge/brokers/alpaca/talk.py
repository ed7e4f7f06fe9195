"""What a message of the trading stream means (alpaca.md §2.1), and the one that asks for trade updates. Pure.

Unknown streams, heartbeats and `null` data are told apart from what is an answer; nothing here believes a refusal, that
is for REST to confirm.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import orjson

LISTEN = orjson.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}})


class Said(Enum):
    """What a message of the server means."""

    UPDATE = auto()  # a trade update; its data is a document
    AUTHORISED = auto()
    REFUSED = auto()  # not authorised, or not any more
    EXCEEDED = auto()  # too many connections (the third status of the C# client)
    LISTENING = auto()  # trade updates will come
    DEAF = auto()  # listening, but not to trade updates
    ERROR = auto()
    EMPTY = auto()  # a trade update without data: something happened, and we do not know what
    NOISE = auto()  # heartbeats, streams and actions that nobody knows


def meaning(document: Any) -> Said:
    """Of one decoded message."""
    if not isinstance(document, dict):
        return Said.NOISE
    stream, data = document.get("stream"), document.get("data")
    if stream == "trade_updates":
        return Said.UPDATE if isinstance(data, dict) else Said.EMPTY
    if stream == "authorization" and isinstance(data, dict):
        return _STATUSES.get(str(data.get("status")), Said.NOISE)
    if stream == "listening" and isinstance(data, dict):
        streams = data.get("streams")
        return Said.LISTENING if isinstance(streams, list) and "trade_updates" in streams else Said.DEAF
    if document.get("action") == "error" or stream == "error":
        return Said.ERROR
    return Said.NOISE


_STATUSES = {
    "authorized": Said.AUTHORISED,
    "unauthorized": Said.REFUSED,
    "exceeded": Said.EXCEEDED,
}
