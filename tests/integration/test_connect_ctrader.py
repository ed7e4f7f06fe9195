"""Consent and token exchange of cTrader against the simulator: codes, both ways to renew, never both for one token."""

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from bridge.brokers.base import BrokerFault, ConsentScope, Credential, Environment, FaultKind, IssuedTokens
from bridge.embedded.surroundings import free_port
from bridge.simulator.ctrader.consent import decide
from core.secret import Secret
from tests.contract.rigs.ctrader import CtraderRig, ctrader_rig
from tests.contract.rigs.watched import Watched

BACK = "https://bridge.example/oauth/ctrader/callback"


def consent(rig: CtraderRig, user: int, scope: ConsentScope = ConsentScope.ACCOUNTS) -> Secret:
    """What the user's browser carries back after they approved."""
    asked = dict(parse_qsl(urlsplit(rig.broker.consent_url(state="s", redirect_uri=BACK, scope=scope)).query))
    back = decide(rig.sim.services, {**asked, "user": str(user), "decision": "approve"})
    return Secret(parse_qs(urlsplit(back).query)["code"][0])


def held(issued: IssuedTokens) -> Credential:
    return Credential("grant", Environment.DEMO, issued.secrets)


def ways(rig: CtraderRig) -> Mapping[str, float]:
    """How often each way to renew was gone, by its end."""
    return {name: value for name, value in rig.broker.metrics().items() if name.startswith("refreshes")}


async def refused(rig: CtraderRig, credential: Credential) -> BrokerFault:
    with pytest.raises(BrokerFault) as raised:
        await rig.broker.refresh(credential)
    return raised.value


async def test_code_becomes_tokens_that_list_the_users_accounts_and_end_those_before() -> None:
    async with ctrader_rig() as rig:
        issued = await rig.broker.exchange_code(consent(rig, 2), redirect_uri=BACK)
        listed = {account.account_id for account in await rig.broker.accounts(held(issued))}
        assert rig.account(2) in listed
        assert issued.expires_in_s == rig.sim.settings.access_token_life_s
        with pytest.raises(BrokerFault) as old:
            await rig.broker.accounts(Credential("g", Environment.DEMO, {"accessToken": Secret("sim-access-2")}))
        assert old.value.kind is FaultKind.TOKEN


@pytest.mark.parametrize("redirect_uri", [BACK, "https://elsewhere.example/"])
async def test_code_is_refused_for_good_when_it_is_spent_or_from_elsewhere(redirect_uri: str) -> None:
    async with ctrader_rig() as rig:
        code = consent(rig, 1)
        if redirect_uri == BACK:
            await rig.broker.exchange_code(code, redirect_uri=BACK)
        with pytest.raises(BrokerFault) as refusal:
            await rig.broker.exchange_code(code, redirect_uri=redirect_uri)
        assert (refusal.value.kind, refusal.value.in_doubt) == (FaultKind.FATAL_USER, False)


async def test_code_is_refused_when_it_is_older_than_a_minute() -> None:
    async with ctrader_rig({"code_life_s": 0}) as rig:
        with pytest.raises(BrokerFault) as refusal:
            await rig.broker.exchange_code(consent(rig, 1), redirect_uri=BACK)
        assert refusal.value.kind is FaultKind.FATAL_USER


async def test_refresh_goes_by_http_when_no_channel_is_open_even_while_the_host_is_down() -> None:
    async with ctrader_rig(demo_url=f"ws://127.0.0.1:{free_port()}") as rig:
        issued = await rig.broker.refresh(rig.credential(1))
        assert ways(rig) == {"refreshes.http": 1}
        assert rig.sim.services.tokens.grant_of_access(issued.secrets["accessToken"].reveal(), 0) is not None
        assert issued.expires_in_s == rig.sim.settings.access_token_life_s


async def test_refresh_goes_in_band_when_a_channel_is_open() -> None:
    async with ctrader_rig(token_url=f"http://127.0.0.1:{free_port()}/") as rig:
        one = Watched(rig, rig.credential(1), rig.account(1))
        await one.login()
        issued = await rig.broker.refresh(one.credential)
        assert ways(rig) == {"refreshes.in_band": 1}
        assert issued.expires_in_s == rig.sim.settings.access_token_life_s


@pytest.mark.parametrize("in_band", [True, False])
async def test_spent_refresh_token_is_final_either_way(in_band: bool) -> None:
    async with ctrader_rig() as rig:
        if in_band:
            await Watched(rig, rig.credential(2), rig.account(2)).login()
        spent = rig.credential(1)
        await rig.broker.refresh(spent)
        fault = await refused(rig, spent)
        assert (fault.kind, fault.in_doubt) == (FaultKind.FATAL_USER, False)
        way = "in_band" if in_band else "http"
        assert ways(rig) == {f"refreshes.{way}": 1, f"refreshes_failed.{way}": 1}


async def test_token_that_was_sent_in_band_is_not_sent_by_http_too_when_no_answer_comes() -> None:
    async with ctrader_rig(auth_timeout_s=0.5) as rig:
        one = Watched(rig, rig.credential(1), rig.account(1))
        await one.login()
        async with rig.silence():
            fault = await refused(rig, one.credential)
        assert (fault.kind, fault.in_doubt) == (FaultKind.TRANSIENT, True)
        assert ways(rig) == {"refreshes_failed.in_band": 1}


async def test_fault_is_in_doubt_when_the_channel_is_cut_under_the_request() -> None:
    async with ctrader_rig() as rig:
        one = Watched(rig, rig.credential(1), rig.account(1))
        await one.login()
        async with rig.silence():
            refreshing = asyncio.create_task(rig.broker.refresh(one.credential))
            await asyncio.sleep(0)  # into the request
            await asyncio.sleep(0)
            rig.cut()
            (outcome,) = await asyncio.gather(refreshing, return_exceptions=True)
        assert isinstance(outcome, BrokerFault)
        assert outcome.in_doubt
        assert ways(rig) == {"refreshes_failed.in_band": 1}


async def test_fault_is_certain_when_the_token_endpoint_cannot_be_reached() -> None:
    async with ctrader_rig(token_url=f"http://127.0.0.1:{free_port()}/") as rig:
        fault = await refused(rig, rig.credential(1))
        assert (fault.kind, fault.in_doubt) == (FaultKind.TRANSIENT, False)
        await Watched(rig, rig.credential(1), rig.account(1)).login()
        await rig.broker.refresh(rig.credential(1))
