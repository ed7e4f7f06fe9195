"""The consent page: what it shows, where it sends the browser, and what a code from it is worth."""

from urllib.parse import parse_qs, urlsplit

import pytest

from bridge.runtime.clock import ManualClock
from bridge.simulator.ctrader.consent import consent_page, decide
from bridge.simulator.ctrader.faults import FaultTable
from bridge.simulator.ctrader.oauth import token_endpoint
from bridge.simulator.ctrader.server import make_services
from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.settings import SimulatorSettings
from core.errors import InvalidInput

BACK = "https://bridge.example/oauth/ctrader/callback"
ASKED = {"client_id": "sim-client", "redirect_uri": BACK, "scope": "accounts", "state": "a b&c", "product": "web"}
APPROVED = {**ASKED, "decision": "approve", "user": "2"}


@pytest.fixture
def services() -> Services:
    return make_services(SimulatorSettings(users=3), ManualClock(), FaultTable())


def landed(address: str) -> dict[str, str]:
    """The parameters that the browser comes back with."""
    assert address.startswith(BACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def exchange(services: Services, code: str, redirect_uri: str = BACK) -> dict[str, object]:
    parameters = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
    return token_endpoint(services, {**parameters, "client_id": "sim-client", "client_secret": "sim-secret"})[1]


def test_page_asks_and_carries_the_request_when_opened(services: Services) -> None:
    page = consent_page(services, {**ASKED, "state": '"><script>'})
    assert "see your accounts" in page
    assert 'max="3"' in page
    assert "<script>" not in page


def test_code_gives_that_users_tokens_when_approved(services: Services) -> None:
    back = landed(decide(services, APPROVED))
    assert back["state"] == "a b&c"
    answer = exchange(services, back["code"])
    grant = services.tokens.grant_of_user(2)
    assert grant is not None
    assert answer["accessToken"] == grant.access_token != "sim-access-2"
    assert grant.trade is False
    assert services.tokens.grant_of_access("sim-access-2", services.clock.now_ms()) is None


def test_scope_trading_is_granted_when_asked_for(services: Services) -> None:
    exchange(services, landed(decide(services, {**APPROVED, "scope": "trading"}))["code"])
    grant = services.tokens.grant_of_user(2)
    assert grant is not None
    assert grant.trade is True


def test_browser_carries_an_error_and_no_code_when_denied(services: Services) -> None:
    assert landed(decide(services, {**APPROVED, "decision": "deny"})) == {"error": "access_denied", "state": "a b&c"}


def test_code_is_refused_and_spent_when_exchanged_for_another_address(services: Services) -> None:
    code = landed(decide(services, APPROVED))["code"]
    assert exchange(services, code, "https://elsewhere.example/")["errorCode"] == "ACCESS_DENIED"
    assert exchange(services, code)["errorCode"] == "ACCESS_DENIED"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_id", "other"),
        ("scope", "all"),
        ("redirect_uri", "javascript:alert(1)"),
        ("redirect_uri", "/relative"),
        ("redirect_uri", BACK + "#part"),
        ("user", "4"),
        ("user", "x"),
    ],
)
def test_request_is_refused_when_a_parameter_is_wrong(services: Services, field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decide(services, {**APPROVED, field: value})
    assert refused.value.field == field
