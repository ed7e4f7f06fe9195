"""The frames the receivers of the hot path are sent, as they stand on the wire: prices, or amendments of one order.

They differ from frame to frame as real ones do, and each changes the account. The same messages go to all receivers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

from google.protobuf.message import Message
from websockets.frames import Frame, Opcode

from protos.ctrader import PAYLOAD_CLASSES, common_messages_pb2, messages_pb2, model_pb2

SPOT = next(number for number, kind in PAYLOAD_CLASSES.items() if kind is messages_pb2.ProtoOASpotEvent)
EXECUTION = next(number for number, kind in PAYLOAD_CLASSES.items() if kind is messages_pb2.ProtoOAExecutionEvent)
BATCH = 500  # frames in one write of the sender: some 20 KiB


def enveloped(payload_type: int, payload: Message) -> bytes:
    """A message in the envelope of the wire (reference/ctrader.md §1)."""
    envelope = common_messages_pb2.ProtoMessage(payloadType=payload_type, payload=payload.SerializeToString())
    return envelope.SerializeToString()


def spot_payload(account: int, symbol: int, step: int) -> bytes:
    """One WebSocket message with one price event: both sides, 1/100000 (reference/ctrader.md §4.1)."""
    bid = 108_400 + step % 997
    return price_message(account, symbol, bid, bid + 2)


def price_message(account: int, symbol: int, bid: int, ask: int) -> bytes:
    """A price event in its envelope."""
    event = messages_pb2.ProtoOASpotEvent(ctidTraderAccountId=account, symbolId=symbol, bid=bid, ask=ask)
    return enveloped(SPOT, event)


Framing = Callable[[bytes], bytes]


def websocket_frame(data: bytes) -> bytes:
    """As a server writes it: not masked."""
    return Frame(Opcode.BINARY, data).serialize(mask=False)


def length_prefixed(data: bytes) -> bytes:
    """As on the broker's TCP port, which its official Python client uses."""
    return struct.pack(">I", len(data)) + data


@lru_cache(maxsize=4)
def prices(account: int, symbols: tuple[int, ...], framing: Framing = websocket_frame) -> bytes:
    """BATCH price frames over all symbols in turn."""
    return b"".join(framing(spot_payload(account, symbols[step % len(symbols)], step)) for step in range(BATCH))


@lru_cache(maxsize=4)
def amendments(accepted: bytes) -> bytes:
    """BATCH frames that move the limit of one order, made from the event that said it was accepted."""
    event = messages_pb2.ProtoOAExecutionEvent.FromString(accepted)
    event.executionType = model_pb2.ORDER_REPLACED
    frames = []
    for step in range(BATCH):
        event.order.limitPrice = round(0.9 + step / 100_000, 5)
        frames.append(websocket_frame(enveloped(EXECUTION, event)))
    return b"".join(frames)
