"""The exchange of codes with Alpaca's token endpoint, against a small server that answers what a test tells it to."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from bridge.brokers.alpaca import oauth
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import FaultKind, ReasonCode
from bridge.runtime.clock import SystemClock
from core.secret import Secret
from tests.support.alpaca_host import Answer, Host, fault_of, running_host

NOBODY = "http://127.0.0.1:9/"


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with running_host() as running:
        yield running


async def exchange(token_url: str) -> Any:
    settings = AlpacaSettings(token_url=token_url, client_id="sim-client", client_secret=Secret("sim-client-secret-1"))
    return await oauth.exchange_code(settings, SystemClock(), Secret("code-123456789012"), "https://b/cb")


async def test_a_code_is_exchanged_in_a_form_when_a_user_consented(host: Host) -> None:
    host.answering = lambda request: {"access_token": "sim-alpaca-oauth-1-1", "token_type": "bearer", "scope": "data"}
    issued = await exchange(host.url("/oauth/token"))
    assert issued.secrets["accessToken"].reveal() == "sim-alpaca-oauth-1-1"
    assert host.paths == ["POST /oauth/token"]
    assert host.asked[0].path_qs == "/oauth/token"  # no secret in an address
    assert host.forms == [
        {
            "grant_type": "authorization_code",
            "code": "code-123456789012",
            "client_id": "sim-client",
            "client_secret": "sim-client-secret-1",
            "redirect_uri": "https://b/cb",
        }
    ]


async def test_a_code_may_be_spent_when_the_connection_ends(host: Host) -> None:
    async def cut(request: web.Request) -> Answer:
        assert request.transport is not None
        request.transport.close()
        await asyncio.sleep(0)
        return {}

    host.answering = cut
    fault = await fault_of(exchange(host.url("/oauth/token")))
    assert (fault.kind, fault.in_doubt, len(host.asked)) == (FaultKind.TRANSIENT, True, 1)
    fault = await fault_of(exchange(NOBODY))
    assert (fault.reason.code, fault.in_doubt) == (ReasonCode.BROKER_UNREACHABLE, False)


async def test_no_secret_is_logged_when_an_exchange_goes_wrong(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host.answering = lambda request: web.Response(status=500, text="sim-client-secret-1 code-123456789012")
    for token_url in (host.url("/oauth/token"), NOBODY):
        await fault_of(exchange(token_url))
    for secret in ("sim-client-secret-1", "code-123456789012"):
        assert secret not in caplog.text
