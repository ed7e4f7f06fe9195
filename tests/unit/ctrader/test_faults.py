"""Refusals: the table is complete, the carriers are read in both units, and what is final is final."""

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec, faults
from bridge.brokers.ctrader.faults import Refusal
from core.errors import ProtocolViolation
from protos.ctrader import common_messages_pb2, common_model_pb2, messages_pb2, model_pb2

NOW_MS = 1_732_341_600_000

SCHEMA_CODES = [*common_model_pb2.ProtoErrorCode.keys(), *model_pb2.ProtoOAErrorCode.keys()]


@pytest.mark.parametrize("code", SCHEMA_CODES)
def test_every_code_of_the_schema_has_its_row(code: str) -> None:
    assert code in faults.TABLE
    fault = faults.fault_of(Refusal(code), NOW_MS)
    assert fault.broker_code == code
    assert fault.reason.message.endswith(".")


KINDS = {
    "OA_AUTH_TOKEN_EXPIRED": FaultKind.TOKEN,
    "CH_ACCESS_TOKEN_INVALID": FaultKind.TOKEN,
    "ACCOUNT_NOT_AUTHORIZED": FaultKind.ACCOUNT_AUTH_LOST,
    "CH_CLIENT_NOT_AUTHENTICATED": FaultKind.CLIENT_AUTH_LOST,
    "CH_CLIENT_AUTH_FAILURE": FaultKind.FATAL_APP,
    "CH_OA_CLIENT_NOT_FOUND": FaultKind.FATAL_APP,
    "RET_NO_SUCH_LOGIN": FaultKind.FATAL_USER,
    "RET_ACCOUNT_DISABLED": FaultKind.FATAL_USER,
    "CH_CTID_TRADER_ACCOUNT_NOT_FOUND": FaultKind.FATAL_USER,
    "CHANNEL_IS_BLOCKED": FaultKind.FATAL_USER,
    "REQUEST_FREQUENCY_EXCEEDED": FaultKind.THROTTLE,
    "BLOCKED_PAYLOAD_TYPE": FaultKind.THROTTLE,
    "CONNECTIONS_LIMIT_EXCEEDED": FaultKind.THROTTLE,
    "SERVER_IS_UNDER_MAINTENANCE": FaultKind.MAINTENANCE,
    "CANT_ROUTE_REQUEST": FaultKind.TRANSIENT,
    "NOT_ENOUGH_MONEY": FaultKind.TRANSIENT,
    "SOMETHING_NEW": FaultKind.TRANSIENT,
}


@pytest.mark.parametrize(("code", "kind"), KINDS.items())
def test_code_has_its_kind(code: str, kind: FaultKind) -> None:
    assert faults.fault_of(Refusal(code), NOW_MS).kind is kind


def test_lost_authorisation_is_seen_when_it_comes_as_invalid_request() -> None:
    refusal = Refusal("INVALID_REQUEST", "Trading account is not authorized")
    assert faults.fault_of(refusal, NOW_MS).kind is FaultKind.ACCOUNT_AUTH_LOST
    assert faults.fault_of(Refusal("INVALID_REQUEST", "Nothing to amend."), NOW_MS).kind is FaultKind.TRANSIENT


def test_rate_refusal_waits_at_least_a_second_when_the_hint_is_smaller() -> None:
    assert faults.fault_of(Refusal("REQUEST_FREQUENCY_EXCEEDED"), NOW_MS).retry_after_s == 1.0
    assert faults.fault_of(Refusal("BLOCKED_PAYLOAD_TYPE", retry_after_s=30.0), NOW_MS).retry_after_s == 30.0


def carrier(payload_type: int, end: int | None) -> Refusal:
    if payload_type == codec.ERROR:
        plain = common_messages_pb2.ProtoErrorRes(errorCode="SERVER_IS_UNDER_MAINTENANCE")
        if end is not None:
            plain.maintenanceEndTimestamp = end
        return faults.read_refusal(payload_type, plain.SerializeToString())
    error = messages_pb2.ProtoOAErrorRes(errorCode="SERVER_IS_UNDER_MAINTENANCE")
    if end is not None:
        error.maintenanceEndTimestamp = end
    return faults.read_refusal(payload_type, error.SerializeToString())


@pytest.mark.parametrize("payload_type", [codec.ERROR, codec.OA_ERROR])
@pytest.mark.parametrize(
    ("end", "wait_s"),
    [
        pytest.param(NOW_MS // 1000 + 600, 600.0, id="seconds"),
        pytest.param(NOW_MS + 600_000, 600.0, id="milliseconds"),
        pytest.param(NOW_MS + 10 * 365 * 86_400_000, 900.0, id="ten-years"),
        pytest.param(NOW_MS - 5_000, 30.0, id="past"),
        pytest.param(None, 30.0, id="absent"),
        pytest.param(0, 30.0, id="zero"),
    ],
)
def test_maintenance_wait_is_right_when_the_end_comes_in_any_unit(
    payload_type: int, end: int | None, wait_s: float
) -> None:
    fault = faults.fault_of(carrier(payload_type, end), NOW_MS)
    assert fault.kind is FaultKind.MAINTENANCE
    assert faults.maintenance_wait_s(fault, 0, 30.0, 900.0) == pytest.approx(wait_s)


def test_maintenance_wait_grows_to_the_cap_when_the_broker_gives_no_end() -> None:
    fault = faults.fault_of(Refusal("SERVER_IS_UNDER_MAINTENANCE"), NOW_MS)
    waits = [faults.maintenance_wait_s(fault, failures, 30.0, 900.0) for failures in range(7)]
    assert waits == [30, 60, 120, 240, 480, 900, 900]


def test_route_error_is_maintenance_when_it_names_an_end() -> None:
    refusal = Refusal("CANT_ROUTE_REQUEST", maintenance_end_ms=NOW_MS + 60_000)
    fault = faults.fault_of(refusal, NOW_MS)
    assert (fault.kind, fault.retry_after_s) == (FaultKind.MAINTENANCE, 60.0)


@pytest.mark.parametrize("code", ["CH_ACCESS_TOKEN_INVALID", "OA_AUTH_TOKEN_EXPIRED", "ACCESS_DENIED"])
def test_refused_refresh_is_final_when_the_token_itself_is_refused(code: str) -> None:
    fault = BrokerFault(FaultKind.TOKEN, Reason(ReasonCode.TOKEN_EXPIRED, "x."), broker_code=code)
    final = faults.refused_refresh(fault)
    assert (final.kind, final.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)


def test_refused_refresh_stays_temporary_when_the_broker_is_busy() -> None:
    fault = faults.fault_of(Refusal("CH_SERVER_NOT_REACHABLE"), NOW_MS)
    assert faults.refused_refresh(fault) is fault


def test_refusal_is_readable_when_its_text_is_not_utf8() -> None:
    raw = messages_pb2.ProtoOAErrorRes(errorCode="INVALID_REQUEST", description="xyz").SerializeToString()
    refusal = faults.read_refusal(codec.OA_ERROR, raw.replace(b"xyz", b"\xff\xfez"))
    assert refusal.code == "INVALID_REQUEST"
    assert refusal.description.endswith("z")


def test_refusal_without_a_code_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        faults.read_refusal(codec.OA_ERROR, b"")


@pytest.mark.parametrize("code", ["<b>", "a b", "Bearer sim-access-1", "X" * 65, "", "É"])
def test_free_text_is_not_shown_when_it_comes_in_place_of_a_code(code: str) -> None:
    fault = faults.fault_of(Refusal(code), NOW_MS)
    assert (fault.kind, fault.broker_code) == (FaultKind.TRANSIENT, "UNREADABLE")
