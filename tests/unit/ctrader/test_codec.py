"""Payloads that must not be read: an unknown required enum, cuts, garbage."""

import pytest

from bridge.brokers.ctrader import codec
from core.errors import ProtocolViolation
from protos.ctrader import messages_pb2


def test_payload_is_refused_when_a_required_enum_is_unknown() -> None:
    event = messages_pb2.ProtoOAExecutionEvent(ctidTraderAccountId=7, executionType=2)
    raw = event.SerializeToString().replace(b"\x18\x02", b"\x18\x63")
    with pytest.raises(ProtocolViolation):
        codec.decode(messages_pb2.ProtoOAExecutionEvent, raw)
    assert codec.account_of(messages_pb2.ProtoOAExecutionEvent, raw) == 7


@pytest.mark.parametrize("raw", [b"", b"\xff\xff", b"\x10"])
def test_payload_is_refused_when_it_is_cut_or_garbage(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(messages_pb2.ProtoOATraderRes, raw)
