"""Consent, at every broker: given in a browser, renewed, run out, withdrawn; and whose account it is."""

from urllib.parse import parse_qs, urlsplit

import pytest

from bridge.brokers.base import BrokerFault, ConsentScope, Credential, FaultKind, ReasonCode
from core.secret import Secret
from tests.contract.rigs.rig import BACK, BrokerRig, Trait
from tests.contract.rigs.steps import live, needs, watch
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually

FINAL = (ReasonCode.TOKEN_REVOKED, ReasonCode.CREDENTIALS_INVALID)


async def consented(rig: BrokerRig, user: int, scope: ConsentScope = ConsentScope.ACCOUNTS) -> Secret:
    """The code that the user's browser brings back."""
    url = rig.broker.consent_url(state="a state", redirect_uri=BACK, scope=scope)
    back = await rig.approve(url, user)
    assert back.startswith(f"{BACK}?")
    said = parse_qs(urlsplit(back).query)
    assert said["state"] == ["a state"]
    return Secret(said["code"][0])


# ---------------------------------------------------------------- given


@pytest.mark.parametrize("scope", list(ConsentScope))
async def test_account_is_served_when_its_user_consented_in_a_browser(rig: BrokerRig, scope: ConsentScope) -> None:
    assert rig.broker.capabilities.consent
    issued = await rig.broker.exchange_code(await consented(rig, 2, scope), redirect_uri=BACK)
    assert (issued.expires_in_s is None) is (Trait.REFRESH in rig.lacks)
    for secret in issued.secrets.values():
        assert secret.reveal() not in repr(issued)
    credential = Credential("grant", rig.environment, issued.secrets)
    listed = {one.account_id for one in await rig.broker.accounts(credential)}
    assert rig.account(2) in listed
    assert rig.account(1) not in listed
    watched = Watched(rig, credential, rig.account(2))
    await watched.login()
    rig.open(rig.account(2), rig.instruments[0])
    await watched.true()


async def test_code_is_refused_for_good_when_it_is_spent_or_nobodys(rig: BrokerRig) -> None:
    code = await consented(rig, 1)
    await rig.broker.exchange_code(code, redirect_uri=BACK)
    for bad in (code, Secret("no-such-code")):
        with pytest.raises(BrokerFault) as refused:
            await rig.broker.exchange_code(bad, redirect_uri=BACK)
        assert (refused.value.kind, refused.value.in_doubt) == (FaultKind.FATAL_USER, False)
        assert bad.reveal() not in str(refused.value)


# ---------------------------------------------------------------- renewed


async def test_access_is_renewed_once_when_a_token_runs_out(rig: BrokerRig) -> None:
    needs(rig, Trait.REFRESH)
    watched = await live(rig)
    rig.expire(1)
    fault = await watched.lost_once()
    assert fault.kind is FaultKind.TOKEN
    await watched.refresh()
    await watched.come_back()
    await watched.true()
    assert rig.refreshes() == 1
    rig.deposit(rig.account(1), 3)  # heard after everything the broker may still say of the old token
    await watched.true()
    assert len(watched.faults) == 1


async def test_live_sessions_survive_when_their_token_is_renewed_under_them(rig: BrokerRig) -> None:
    needs(rig, Trait.REFRESH)
    watched = await live(rig)
    await watched.refresh()
    await watched.come_back()
    await watched.true()
    assert rig.refreshes() == 1


async def test_capabilities_say_whether_tokens_are_renewed(rig: BrokerRig) -> None:
    assert rig.broker.capabilities.refresh is (Trait.REFRESH not in rig.lacks)
    if Trait.REFRESH in rig.lacks:
        with pytest.raises(BrokerFault) as refused:
            await rig.broker.refresh(rig.credential(1))
        assert (refused.value.kind, refused.value.in_doubt) == (FaultKind.FATAL_USER, False)


# ---------------------------------------------------------------- withdrawn


async def test_refusal_is_final_when_consent_was_withdrawn(rig: BrokerRig) -> None:
    watched, other = await live(rig, 1), await live(rig, 2)
    rig.revoke(1)
    await watched.lost_once()
    assert watched.session.contact_monotonic is None
    for _ in range(2):
        with pytest.raises(BrokerFault) as refused:
            await watched.come_back()
        assert refused.value.kind is FaultKind.FATAL_USER
        assert refused.value.reason.code in FINAL
    await watched.session.logout()
    assert rig.broker.metrics()["accounts"] == 1  # nothing is kept for who may not come back
    assert other.faults == []
    rig.open(rig.account(2), rig.instruments[0])
    await other.true()


async def test_consent_that_was_withdrawn_is_told_as_such(rig: BrokerRig) -> None:
    issued = await rig.broker.exchange_code(await consented(rig, 2), redirect_uri=BACK)
    watched = Watched(rig, Credential("grant", rig.environment, issued.secrets), rig.account(2))
    await watched.login()
    rig.revoke(2)
    await watched.lost_once()
    with pytest.raises(BrokerFault) as refused:
        await watched.come_back()
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)


async def test_accounts_are_refused_when_the_credential_is_nobodys(rig: BrokerRig) -> None:
    wrong = {name: Secret("nobody-s-secret") for name in rig.credential(1).secrets}
    credential = Credential("grant", rig.environment, wrong, rig.account(1))
    with pytest.raises(BrokerFault) as refused:
        await rig.broker.accounts(credential)
    assert refused.value.kind in (FaultKind.FATAL_USER, FaultKind.TOKEN)
    watched = Watched(rig, credential, rig.account(1))
    with pytest.raises(BrokerFault) as login:
        await watched.login()
    assert login.value.kind in (FaultKind.FATAL_USER, FaultKind.TOKEN)
    assert watched.session.mirror is None


# ---------------------------------------------------------------- whose account


async def test_nobody_is_served_an_account_that_the_own_credential_does_not_cover(rig: BrokerRig) -> None:
    owner = await live(rig, 1)
    async with rig.trusting():
        thief = watch(rig, 2, rig.account(1))
        with pytest.raises(BrokerFault) as refused:
            await thief.login()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED
        assert refused.value.kind is FaultKind.FATAL_USER
        assert thief.session.mirror is None
        assert thief.session.contact_monotonic is None
        rig.cut()
        await owner.lost_once()
        with pytest.raises(BrokerFault) as refused:
            await thief.come_back()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED
        await owner.come_back()
    rig.open(rig.account(1), rig.instruments[0])
    await owner.true()
    assert thief.changes == 0


async def test_foreign_events_stay_nobodys_when_they_arrive(rig: BrokerRig) -> None:
    one, two = await live(rig, 1), await live(rig, 2)
    rig.open(rig.account(1), rig.instruments[1])
    await one.true()
    before = two.reading()
    rig.foreign(rig.account(1))
    await eventually(lambda: rig.metric("foreign") >= 1, within_s=WITHIN_S, what="the stranger is counted")
    await one.true()
    assert len(one.mirror.fills) == 1
    assert two.reading() == before
    assert two.mirror.fills == ()
    assert one.faults == two.faults == []
