"""Bytes to broker messages and back: the envelope, and the checks that a parser does not make.

A message whose required enum has an unknown value parses without error and reads as the enum's first value; only
`IsInitialized()` tells (reference/faults.md §0.4). So nothing leaves here unchecked, except spot prices, which the
channel reads itself and which hold no enum. Nothing here knows accounts or sessions.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from core.errors import ProtocolViolation
from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader.common_messages_pb2 import ProtoMessage

M = TypeVar("M", bound=Message)

ERROR = 50
HEARTBEAT = 51
APPLICATION_AUTH = 2100
VERSION = 2104
TRAILING_STOP_CHANGED = 2107
SYMBOL_CHANGED = 2120
TRADER_UPDATED = 2123
EXECUTION = 2126
SPOT = 2131
ORDER_ERROR = 2132
MARGIN_CHANGED = 2141
OA_ERROR = 2142
TOKEN_INVALIDATED = 2147
CLIENT_DISCONNECT = 2148
ACCOUNT_DISCONNECT = 2164

HISTORY_REQUESTS = frozenset({2133, 2137, 2143, 2145, 2175, 2179, 2183, 2185})
"""Requests that count against the historical budget: bars, ticks, deals, orders, cash flow (ctrader.md §5)."""

PAYLOAD_TYPES: dict[type[Message], int] = {message: number for number, message in PAYLOAD_CLASSES.items()}


def encode(payload_type: int, payload: bytes, message_id: str | None = None) -> bytes:
    """One WebSocket message: the envelope around a serialised payload, without a length prefix (ctrader.md §1)."""
    envelope = ProtoMessage(payloadType=payload_type, payload=payload)
    if message_id is not None:
        envelope.clientMsgId = message_id
    return envelope.SerializeToString()


def decode(kind: type[M], payload: bytes) -> M:
    """Parse a payload and check that it is whole. Raises ProtocolViolation."""
    try:
        message = kind.FromString(payload)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"{kind.DESCRIPTOR.name} could not be read") from error
    if not message.IsInitialized():
        raise ProtocolViolation(f"{kind.DESCRIPTOR.name} lacks a required field or holds an unknown value")
    return message


def account_of(kind: type[Message], payload: bytes) -> int | None:
    """The account a payload names, also when the rest of it cannot be used; None when it names none."""
    try:
        message = kind.FromString(payload)
    except (DecodeError, UnicodeDecodeError):
        return None
    number = getattr(message, "ctidTraderAccountId", None)
    return number if isinstance(number, int) and number else None


def text(value: str | bytes) -> str:
    """A string field as text: invalid UTF-8 arrives as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


HEARTBEAT_FRAME = encode(HEARTBEAT, b"")
