"""Every refusal the broker can send, as one table: code to what a session does and what its user reads.

Codes are open strings: names of either enum come in either carrier, and names of neither too (ctrader.md §2.4). An
unknown one is transient and counted by the caller. Pure: no clock but the one passed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader import codec
from protos.ctrader.common_messages_pb2 import ProtoErrorRes
from protos.ctrader.messages_pb2 import ProtoOAErrorRes

ALREADY_LOGGED_IN = "ALREADY_LOGGED_IN"
ALREADY_AUTHENTICATED = "CH_CLIENT_ALREADY_AUTHENTICATED"
ALREADY_SUBSCRIBED = "ALREADY_SUBSCRIBED"
BLOCKED_PAYLOAD_TYPE = "BLOCKED_PAYLOAD_TYPE"
UNREADABLE_CODE = "UNREADABLE"  # shown instead of what is not a code: it reaches logs and /explain
NO_SUCH_SYMBOL = frozenset({"SYMBOL_NOT_FOUND", "UNKNOWN_SYMBOL"})

_CODE = re.compile("[A-Z0-9_]{1,64}")
_ERROR = (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR, "The broker refused a request for now; it is tried again.")
_ROUTE = (FaultKind.TRANSIENT, ReasonCode.BROKER_ERROR, "The broker's own server cannot be reached; it is tried again.")
_ACCOUNT = (FaultKind.ACCOUNT_AUTH_LOST, ReasonCode.ACCOUNT_SESSION_ENDED, "The broker ended this account's session.")
_TOKEN = (FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED, "The broker no longer accepts the access token.")
_APP = (
    FaultKind.FATAL_APP,
    ReasonCode.APPLICATION_REFUSED,
    "The broker refuses this application; its operator is told.",
)
_DISABLED = (FaultKind.FATAL_USER, ReasonCode.ACCOUNT_DISABLED, "The broker has disabled this account.")
_GONE = (FaultKind.FATAL_USER, ReasonCode.ACCOUNT_NOT_COVERED, "The broker does not know this account any more.")
_RATE = (FaultKind.THROTTLE, ReasonCode.RATE_LIMITED, "The broker asked to slow down.")
_MAINTENANCE = (FaultKind.MAINTENANCE, ReasonCode.BROKER_MAINTENANCE, "The broker is under maintenance.")
_LIMIT = (FaultKind.THROTTLE, ReasonCode.CONNECTION_LIMIT, "The broker allows no further connection at the moment.")

TABLE: dict[str, tuple[FaultKind, ReasonCode, str]] = {
    # carriers of ProtoErrorCode
    "UNKNOWN_ERROR": _ERROR,
    "UNSUPPORTED_MESSAGE": _ERROR,
    "INVALID_REQUEST": _ERROR,
    "TIMEOUT_ERROR": _ERROR,
    "ENTITY_NOT_FOUND": _ERROR,
    "CANT_ROUTE_REQUEST": _ROUTE,
    "FRAME_TOO_LONG": _ERROR,
    "MARKET_CLOSED": _ERROR,
    "CONCURRENT_MODIFICATION": _ERROR,
    "BLOCKED_PAYLOAD_TYPE": _RATE,
    # sessions and limits, ProtoOAErrorCode
    "OA_AUTH_TOKEN_EXPIRED": _TOKEN,
    "CH_ACCESS_TOKEN_INVALID": _TOKEN,
    "CH_ACCESS_TOKEN_EXPIRED": _TOKEN,
    "ACCOUNT_NOT_AUTHORIZED": _ACCOUNT,
    "RET_NO_SUCH_LOGIN": _GONE,
    "CH_CTID_TRADER_ACCOUNT_NOT_FOUND": _GONE,
    "RET_ACCOUNT_DISABLED": _DISABLED,
    "CHANNEL_IS_BLOCKED": _DISABLED,
    "CH_CLIENT_AUTH_FAILURE": _APP,
    "CH_OA_CLIENT_NOT_FOUND": _APP,
    "CH_CLIENT_NOT_AUTHENTICATED": (
        FaultKind.CLIENT_AUTH_LOST,
        ReasonCode.CONNECTION_LOST,
        "The broker asks the application to authorise again.",
    ),
    "CH_SERVER_NOT_REACHABLE": _ROUTE,
    "REQUEST_FREQUENCY_EXCEEDED": _RATE,
    "CONNECTIONS_LIMIT_EXCEEDED": _LIMIT,
    "SERVER_IS_UNDER_MAINTENANCE": _MAINTENANCE,
    # successes in disguise: callers who asked for the same thing take them as done
    ALREADY_LOGGED_IN: _ERROR,
    ALREADY_AUTHENTICATED: _ERROR,
    ALREADY_SUBSCRIBED: _ERROR,
    # refusals of one request, which never end a session
    "WORSE_GSL_NOT_ALLOWED": _ERROR,
    "SYMBOL_HAS_HOLIDAY": _ERROR,
    "NOT_SUBSCRIBED_TO_SPOTS": _ERROR,
    "SYMBOL_NOT_FOUND": _ERROR,
    "UNKNOWN_SYMBOL": _ERROR,
    "INCORRECT_BOUNDARIES": _ERROR,
    "NO_QUOTES": _ERROR,
    "NOT_ENOUGH_MONEY": _ERROR,
    "MAX_EXPOSURE_REACHED": _ERROR,
    "POSITION_NOT_FOUND": _ERROR,
    "ORDER_NOT_FOUND": _ERROR,
    "POSITION_NOT_OPEN": _ERROR,
    "POSITION_LOCKED": _ERROR,
    "TOO_MANY_POSITIONS": _ERROR,
    "TRADING_BAD_VOLUME": _ERROR,
    "TRADING_BAD_STOPS": _ERROR,
    "TRADING_BAD_PRICES": _ERROR,
    "TRADING_BAD_STAKE": _ERROR,
    "PROTECTION_IS_TOO_CLOSE_TO_MARKET": _ERROR,
    "TRADING_BAD_EXPIRATION_DATE": _ERROR,
    "PENDING_EXECUTION": _ERROR,
    "TRADING_DISABLED": _ERROR,
    "TRADING_NOT_ALLOWED": _ERROR,
    "UNABLE_TO_CANCEL_ORDER": _ERROR,
    "UNABLE_TO_AMEND_ORDER": _ERROR,
    "SHORT_SELLING_NOT_ALLOWED": _ERROR,
}

_FINAL_REFRESH_CODES = frozenset(
    {"CH_ACCESS_TOKEN_INVALID", "CH_ACCESS_TOKEN_EXPIRED", "OA_AUTH_TOKEN_EXPIRED", "ACCESS_DENIED"}
)
_MILLISECONDS_FROM = 10**11  # as seconds that is the year 5138, as milliseconds 1973


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error message as the broker sent it; `maintenance_end_ms` Unix ms, `retry_after_s` seconds, None = unsaid."""

    code: str
    description: str = ""
    maintenance_end_ms: int | None = None
    retry_after_s: float | None = None
    account: int | None = None

    @property
    def known(self) -> bool:
        return self.code in TABLE


def read_refusal(payload_type: int, payload: bytes) -> Refusal:
    """Decode either error carrier. Raises ProtocolViolation when it cannot be read."""
    if payload_type == codec.ERROR:
        plain = codec.decode(ProtoErrorRes, payload)
        end = plain.maintenanceEndTimestamp if plain.HasField("maintenanceEndTimestamp") else None
        return Refusal(codec.text(plain.errorCode), codec.text(plain.description), _unix_ms(end))
    error = codec.decode(ProtoOAErrorRes, payload)
    end = error.maintenanceEndTimestamp if error.HasField("maintenanceEndTimestamp") else None
    return Refusal(
        codec.text(error.errorCode),
        codec.text(error.description),
        _unix_ms(end),
        float(error.retryAfter) if error.HasField("retryAfter") else None,
        error.ctidTraderAccountId or None,
    )


def fault_of(refusal: Refusal, now_ms: int) -> BrokerFault:
    """What a refusal means for a session. Maintenance waits are the caller's to cap."""
    kind, code, message = TABLE.get(refusal.code, _ERROR)
    if refusal.code == "INVALID_REQUEST" and "not authorized" in refusal.description.lower():
        kind, code, message = _ACCOUNT  # how the lost authorisation of an account is really told (ctrader.md §2.2)
    retry_after_s = refusal.retry_after_s
    if refusal.maintenance_end_ms is not None and kind in (FaultKind.TRANSIENT, FaultKind.MAINTENANCE):
        kind, code, message = _MAINTENANCE
        retry_after_s = (refusal.maintenance_end_ms - now_ms) / 1000
    if code is ReasonCode.RATE_LIMITED:
        retry_after_s = max(1.0, retry_after_s or 1.0)
    shown = refusal.code if _CODE.fullmatch(refusal.code) else UNREADABLE_CODE
    return BrokerFault(kind, Reason(code, message), retry_after_s=retry_after_s, broker_code=shown)


def refused_refresh(fault: BrokerFault) -> BrokerFault:
    """The fault of a refused token refresh: a refusal of the token itself is final (DESIGN §10)."""
    if fault.broker_code in _FINAL_REFRESH_CODES:
        return BrokerFault(
            FaultKind.FATAL_USER,
            Reason(
                ReasonCode.TOKEN_REVOKED, "The broker refused the stored consent; please connect your account again."
            ),
            broker_code=fault.broker_code,
        )
    return fault


def maybe_done(fault: BrokerFault) -> bool:
    """Whether a request that failed so may have been carried out: no answer came, or one that says just that."""
    if fault.broker_code is None or fault.shared:
        return fault.kind is not FaultKind.THROTTLE
    return fault.broker_code == "TIMEOUT_ERROR"


def access_denied(refusal: Refusal) -> bool:
    """True when the broker says in words what it has no code for."""
    return "access denied" in refusal.description.lower()


def transient(code: ReasonCode, message: str, *, shared: bool = False) -> BrokerFault:
    """A fault of our own finding that time heals."""
    return BrokerFault(FaultKind.TRANSIENT, Reason(code, message), shared=shared)


def session_ended() -> BrokerFault:
    """The broker ended one account's authorisation; the channel is well."""
    reason = Reason(
        ReasonCode.ACCOUNT_SESSION_ENDED, "The broker ended this account's session; it is authorised again."
    )
    return BrokerFault(FaultKind.ACCOUNT_AUTH_LOST, reason)


def token_ended() -> BrokerFault:
    """The broker ended the access token of a live session."""
    reason = Reason(ReasonCode.TOKEN_EXPIRED, "The broker ended the access token; it is renewed.")
    return BrokerFault(FaultKind.TOKEN, reason)


def maintenance_wait_s(fault: BrokerFault, failures: int, default_s: float, cap_s: float) -> float:
    """How long to wait for the end of maintenance: what was said, capped; growing from `default_s` when nothing
    useful was said (absent or already past). `failures` counts the answers before this one."""
    said = fault.retry_after_s
    if said is not None and said > 0:
        return min(said, cap_s)
    return min(default_s * 2.0 ** min(failures, 16), cap_s)


def _unix_ms(value: int | None) -> int | None:
    """A maintenance end in Unix ms, whichever unit it came in: the two carriers differ (faults.md §0.7)."""
    if value is None or value <= 0:
        return None
    return value if value >= _MILLISECONDS_FROM else value * 1000
