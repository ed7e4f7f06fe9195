"""The ProtoMessage envelope: encode answers and events, decode requests.

Payload type and message class belong together one to one (reference/ctrader.md §3), so an outgoing message names
its own payload type.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from protos.ctrader import PAYLOAD_CLASSES
from protos.ctrader import common_messages_pb2 as common

TYPE_OF_CLASS: dict[type[Message], int] = {cls: number for number, cls in PAYLOAD_CLASSES.items()}
HEARTBEAT = TYPE_OF_CLASS[common.ProtoHeartbeatEvent]


class Malformed(Exception):
    """Bytes that are no ProtoMessage, or a payload that does not parse as its type."""


@dataclass(slots=True)
class Outgoing:
    """A message on its way out; `account_id` None when it concerns no account."""

    message: Message
    account_id: int | None = None
    client_msg_id: str = ""
    payload: bytes | None = None  # set when the same payload goes to several connections
    raw: bytes | None = None  # set by a fault: sent instead of everything above

    @property
    def payload_type(self) -> int:
        return TYPE_OF_CLASS[type(self.message)]

    def encode(self) -> bytes:
        """The serialized ProtoMessage. Raises EncodeError when a required field is missing: our own mistake."""
        if self.raw is not None:
            return self.raw
        payload = self.message.SerializeToString() if self.payload is None else self.payload
        return wrap(self.payload_type, payload, self.client_msg_id)


def wrap(payload_type: int, payload: bytes, client_msg_id: str = "") -> bytes:
    """A serialized ProtoMessage around serialized payload bytes."""
    envelope = common.ProtoMessage(payloadType=payload_type, payload=payload)
    if client_msg_id:
        envelope.clientMsgId = client_msg_id
    return envelope.SerializeToString()


def unwrap(raw: bytes) -> common.ProtoMessage:
    """Parse the envelope. Raises Malformed."""
    envelope = common.ProtoMessage()
    try:
        envelope.ParseFromString(raw)
        str(envelope.clientMsgId)  # pure-Python parsing checks UTF-8 only here
    except (DecodeError, UnicodeDecodeError) as cause:
        raise Malformed("not a ProtoMessage") from cause
    if not envelope.IsInitialized():
        raise Malformed("payloadType is missing")
    return envelope


def parse(envelope: common.ProtoMessage) -> Message | None:
    """The payload as its class, None for a payload type we do not know. Raises Malformed."""
    cls = PAYLOAD_CLASSES.get(envelope.payloadType)
    if cls is None:
        return None
    message = cls()
    try:
        message.ParseFromString(envelope.payload)
    except (DecodeError, UnicodeDecodeError) as cause:
        raise Malformed(f"payload of {cls.__name__} does not parse") from cause
    if not message.IsInitialized():
        raise Malformed(f"Message missing required fields: {cls.__name__}")
    return message
