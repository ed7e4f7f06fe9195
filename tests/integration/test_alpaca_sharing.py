"""Two users of one account: nobody is shown it for longer than the own access to it lasts."""

import pytest

from bridge.brokers.base import BrokerFault, Environment, FaultKind, ReasonCode
from core.secret import Secret
from tests.contract.rigs.alpaca import AlpacaRig, alpaca_rig
from tests.contract.rigs.rig import BACK
from tests.contract.rigs.steps import watch
from tests.contract.rigs.watched import Watched
from tests.support.waiting import eventually


def with_token(rig: AlpacaRig) -> Watched:
    return Watched(rig, rig.wide_credential(1), rig.account(1))


@pytest.mark.parametrize(
    ("what", "code"), [("keys", ReasonCode.CREDENTIALS_INVALID), ("tokens", ReasonCode.TOKEN_REVOKED)]
)
async def test_the_other_session_ends_too_when_its_own_access_was_revoked_and_nobody_uses_it(
    what: str, code: ReasonCode
) -> None:
    async with alpaca_rig() as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        first, second = (by_token, by_keys) if what == "keys" else (by_keys, by_token)
        await first.login()  # its credential serves the account, stream and all
        await second.login()
        rig.sim.services.access.on_revoked.clear()  # and no stream ends
        rig.act.revoke(1, what)
        await first.session.reconcile()
        with pytest.raises(BrokerFault) as told:
            await second.session.reconcile()
        assert (told.value.kind, told.value.reason.code) == (FaultKind.FATAL_USER, code)
        assert [fault.reason.code for fault in second.faults] == [code]
        assert second.session.contact_monotonic is None
        rig.open(rig.account(1), "AAPL")
        await first.true()
        assert first.faults == []


async def test_both_sessions_live_on_when_the_own_access_cannot_be_asked_for_a_moment() -> None:
    async with alpaca_rig() as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        await by_keys.login()
        await by_token.login()
        rig.act.fault("N10", status=503, routes=["GET /v2/account"], count=1, target="rest")
        with pytest.raises(BrokerFault) as told:
            await by_token.session.reconcile()
        assert told.value.kind is FaultKind.TRANSIENT
        assert by_keys.faults == by_token.faults == []
        assert await by_token.session.reconcile() == 0


async def test_own_access_is_asked_for_once_a_reconcile_and_not_for_who_serves() -> None:
    async with alpaca_rig() as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        await by_keys.login()
        await by_token.login()

        def asked() -> int:
            return int(rig.act.counters()["requests"]["GET /v2/account"])

        before = asked()
        await by_keys.session.reconcile()  # fresh: nothing is read
        assert asked() == before
        await by_token.session.reconcile()
        await eventually(lambda: asked() == before + 1, within_s=1)


async def test_a_consent_for_one_environment_is_not_called_revoked_when_it_is_shown_in_the_other() -> None:
    async with alpaca_rig() as rig:
        code = rig.act.mint_code(1, environment="paper")
        token = (await rig.broker.exchange_code(Secret(str(code)), redirect_uri=BACK)).secrets["accessToken"]
        entry = {"accessToken": token.reveal(), "environment": "paper"}
        session = rig.broker.session(Environment.LIVE, None, watch(rig))
        with pytest.raises(BrokerFault) as told:
            await session.login(rig.broker.read_credential("g", entry), at_risk=False)
        assert (told.value.kind, told.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.NO_ACCOUNTS)
        rig.act.revoke(1, "tokens")
        with pytest.raises(BrokerFault) as told:
            await session.login(rig.broker.read_credential("g", entry), at_risk=False)
        assert told.value.reason.code is ReasonCode.TOKEN_REVOKED
