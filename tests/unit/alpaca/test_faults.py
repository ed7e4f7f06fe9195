"""What refusals mean: every status and code of reference/alpaca.md §1.6, the token endpoint, and rate headers."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca import faults, oauth, rest
from bridge.brokers.alpaca.rest import Rates
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, ConsentScope, FaultKind, ReasonCode
from core.errors import ConfigurationError
from core.secret import Secret

Kind, Code = FaultKind, ReasonCode  # shorter, for the table
NOW = 1_795_185_000_000


def body(message: str | None = None, code: int | None = None) -> bytes:
    said = {"code": code, "message": message}
    return orjson.dumps({name: value for name, value in said.items() if value is not None})


@pytest.mark.parametrize(
    ("status", "content", "kind", "code", "shown"),
    [
        (401, body("unauthorized."), Kind.FATAL_USER, Code.CREDENTIALS_INVALID, "HTTP_401"),
        (401, body("request is not authorized", 40110000), Kind.FATAL_USER, Code.CREDENTIALS_INVALID, "40110000"),
        (401, b"<html>", Kind.FATAL_USER, Code.CREDENTIALS_INVALID, "HTTP_401"),
        (403, body("forbidden."), Kind.FATAL_USER, Code.CREDENTIALS_INVALID, "HTTP_403"),
        (403, body("access key verification failed", 40310000), Kind.FATAL_USER, Code.CREDENTIALS_INVALID, "40310000"),
        (403, body("account is restricted", 40310000), Kind.FATAL_USER, Code.ACCOUNT_DISABLED, "40310000"),
        (403, body("insufficient buying power", 40310000), Kind.TRANSIENT, Code.BROKER_ERROR, "40310000"),
        (403, b"<html>forbidden</html>", Kind.TRANSIENT, Code.BROKER_ERROR, "HTTP_403"),
        (404, body("position does not exist", 40410000), Kind.TRANSIENT, Code.BROKER_ERROR, "40410000"),
        (422, body("client_order_id must be unique", 40010001), Kind.TRANSIENT, Code.BROKER_ERROR, "40010001"),
        (422, body("order is not open", 42210000), Kind.TRANSIENT, Code.BROKER_ERROR, "42210000"),
        (429, body("too many requests", 42910000), Kind.THROTTLE, Code.RATE_LIMITED, "42910000"),
        (500, body("internal server error occurred", 50010000), Kind.TRANSIENT, Code.BROKER_ERROR, "50010000"),
        (502, b"", Kind.TRANSIENT, Code.BROKER_ERROR, "HTTP_502"),
        (503, b"", Kind.MAINTENANCE, Code.BROKER_MAINTENANCE, "HTTP_503"),
        (504, b"[]", Kind.TRANSIENT, Code.BROKER_ERROR, "HTTP_504"),
        (302, b"", Kind.TRANSIENT, Code.BROKER_ERROR, "HTTP_302"),
        (418, body("teapot", True), Kind.TRANSIENT, Code.BROKER_ERROR, "HTTP_418"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_meaning_when_a_request_is_refused(
    status: int, content: bytes, kind: FaultKind, code: ReasonCode, shown: str
) -> None:
    fault = faults.fault_of(faults.read_refusal(status, content), oauth=False, retry_after_s=7.0)
    assert (fault.kind, fault.reason.code, fault.broker_code) == (kind, code, shown)
    if kind in (FaultKind.THROTTLE, FaultKind.MAINTENANCE):
        assert fault.retry_after_s == 7.0


def test_a_consent_is_revoked_when_its_token_is_refused() -> None:
    fault = faults.fault_of(faults.read_refusal(401, b"{}"), oauth=True, retry_after_s=None)
    assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)


def test_a_broker_out_of_order_is_no_maintenance_when_it_announces_no_end() -> None:
    fault = faults.fault_of(faults.read_refusal(503, b""), oauth=False, retry_after_s=None)
    assert fault.kind is FaultKind.TRANSIENT


@given(st.integers(300, 599), st.binary() | st.just(b'{"code":"x","message":7}'), st.booleans())
def test_any_refusal_is_a_fault_without_its_text_when_it_is_anything(status: int, content: bytes, oauth: bool) -> None:
    fault = faults.fault_of(faults.read_refusal(status, content), oauth=oauth, retry_after_s=None)
    assert fault.broker_code == f"HTTP_{status}" or str(fault.broker_code).isdigit()
    assert len(fault.reason.message) < 200


# ---------------------------------------------------------------- rate headers


def test_the_reset_is_counted_by_the_brokers_clock_when_it_says_its_time() -> None:
    said = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "199", "X-RateLimit-Reset": str(NOW // 1000 + 30)}
    assert rest.read_rates(said, NOW) == Rates(200, 199, 31.0, None)
    date = {"Date": "Fri, 20 Nov 2026 14:30:10 GMT"}  # ten seconds later than ours
    assert rest.read_rates(said | date, NOW - 3_600_000).resets_in_s == 21.0


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "9" * 20, "٣"])
def test_a_header_means_nothing_when_it_is_no_number(value: str) -> None:
    said = dict.fromkeys(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"), value)
    assert rest.read_rates(said | {"Date": value}, NOW) == Rates()


def test_a_wait_is_bounded_when_headers_are_absurd() -> None:
    rates = rest.read_rates({"X-RateLimit-Reset": "999999999999", "Retry-After": "999999999"}, NOW)
    assert (rates.resets_in_s, rates.retry_after_s) == (3600.0, 3600.0)


# ---------------------------------------------------------------- the token endpoint

APPLICATION = AlpacaSettings(client_id="sim-client", client_secret=Secret("sim-secret"))


def answer(status: int, document: Any) -> BrokerFault:
    with pytest.raises(BrokerFault) as caught:
        oauth.read_answer(status, Rates(retry_after_s=2000.0), orjson.dumps(document))
    return caught.value


def test_a_token_has_no_end_when_it_is_issued() -> None:
    document = {"access_token": "sim-alpaca-oauth-1", "token_type": "bearer", "scope": "trading"}
    issued = oauth.read_answer(200, Rates(), orjson.dumps(document))
    assert {name: secret.reveal() for name, secret in issued.secrets.items()} == {"accessToken": "sim-alpaca-oauth-1"}
    assert issued.expires_in_s is None


@pytest.mark.parametrize(
    ("status", "document", "kind", "in_doubt"),
    [
        (400, {"error": "invalid_grant"}, FaultKind.FATAL_USER, False),
        (422, {"code": 40010001, "message": "code expired"}, FaultKind.FATAL_USER, False),
        (403, {"message": "forbidden"}, FaultKind.FATAL_USER, False),
        (400, {"error": "invalid_client"}, FaultKind.FATAL_APP, False),
        (401, {"message": "unauthorized"}, FaultKind.FATAL_APP, False),
        (400, [], FaultKind.TRANSIENT, False),
        (429, {}, FaultKind.THROTTLE, False),
        (503, {}, FaultKind.TRANSIENT, False),
        (500, {}, FaultKind.TRANSIENT, True),
        (504, {}, FaultKind.TRANSIENT, True),
        (302, {}, FaultKind.TRANSIENT, False),
        (200, {"access_token": ""}, FaultKind.TRANSIENT, True),
        (200, {"access_token": "two words"}, FaultKind.TRANSIENT, True),
        (200, "x" * 70_000, FaultKind.TRANSIENT, True),
    ],
)
def test_each_answer_has_its_meaning_when_a_code_is_not_exchanged(
    status: int, document: Any, kind: FaultKind, in_doubt: bool
) -> None:
    fault = answer(status, document)
    assert (fault.kind, fault.in_doubt) == (kind, in_doubt)
    if kind is FaultKind.THROTTLE:
        assert fault.retry_after_s == oauth.LONGEST_THROTTLE_S


@pytest.mark.parametrize(("scope", "words"), [(ConsentScope.ACCOUNTS, "data"), (ConsentScope.TRADING, "trading+data")])
def test_consent_is_asked_for_what_is_needed_when_a_user_connects(scope: ConsentScope, words: str) -> None:
    url = oauth.consent_url(APPLICATION, state="s&1", redirect_uri="https://b/cb", scope=scope)
    base = "https://app.alpaca.markets/oauth/authorize?response_type=code&client_id=sim-client"
    assert url == f"{base}&redirect_uri=https%3A%2F%2Fb%2Fcb&scope={words}&state=s%261"
    assert "sim-secret" not in url


def test_consent_is_not_offered_when_no_application_is_configured() -> None:
    with pytest.raises(ConfigurationError):
        oauth.consent_url(AlpacaSettings(), state="s", redirect_uri="r", scope=ConsentScope.ACCOUNTS)
