"""Logging in, at every broker: which account is served, what its record says then, and what is refused."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, ChooseAccount, FaultKind, ReasonCode, Stage
from core.errors import InvalidInput
from tests.contract.rigs.rig import BrokerRig, Trait
from tests.contract.rigs.steps import live, needs, watch
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually


async def test_login_makes_the_record_true_when_the_account_holds_something(rig: BrokerRig) -> None:
    account = rig.account(1)
    for instrument in rig.instruments:
        rig.open(account, instrument)
    rig.place(account, rig.instruments[0])
    watched = watch(rig)
    assert watched.session.mirror is None
    assert watched.session.contact_monotonic is None
    await watched.login()
    await watched.true()
    assert watched.stages == [Stage.CONNECTING, Stage.AUTHORIZING, Stage.SYNCING]
    assert watched.session.account_id == account
    assert watched.session.contact_monotonic is not None
    assert watched.mirror.confirmed_at_ms is not None
    assert watched.mirror.can_trade is True
    assert len(watched.mirror.positions) == len(rig.instruments)
    assert watched.mirror.fills == ()  # executed before anybody looked: not ours to tell
    assert watched.faults == []


@pytest.mark.parametrize("user", [1, 2, 3])
async def test_accounts_are_valued_in_their_own_currency_when_they_hold_many_things(rig: BrokerRig, user: int) -> None:
    for number, instrument in enumerate(rig.instruments):
        rig.open(rig.account(user), instrument, buy=number % 2 == 0)
        if Trait.HEDGING not in rig.lacks:
            rig.open(rig.account(user), instrument, buy=number % 2 == 1)
    for instrument in rig.longs:
        rig.open(rig.account(user), instrument)
    watched = await live(rig, user)
    await watched.true()
    for instrument in (*rig.instruments, *rig.longs):
        rig.move(instrument)
    await watched.true()


async def test_account_of_the_other_environment_is_served_there(rig: BrokerRig) -> None:
    wide = rig.wide_credential(1)
    here = Watched(rig, wide, rig.account(1))
    await here.login()
    rig.open(rig.account_elsewhere(1), rig.instruments[0])
    rig.environment = next(one for one in rig.broker.capabilities.environments if one is not rig.environment)
    there = Watched(rig, rig.wide_credential(1), rig.account_elsewhere(1))
    await there.login()
    await there.true()
    rig.open(rig.account_elsewhere(1), rig.instruments[1])
    await there.true()
    assert here.mirror.positions == {}


async def test_only_account_is_taken_when_none_is_named(rig: BrokerRig) -> None:
    user = rig.user_with_one()
    watched = Watched(rig, rig.credential(user), None)
    assert watched.session.account_id is None
    await watched.login()
    assert watched.session.account_id == rig.account(user)
    await watched.true()


async def test_choice_is_asked_for_when_there_are_several_and_none_is_named(rig: BrokerRig) -> None:
    needs(rig, Trait.SEVERAL_ACCOUNTS)
    user = rig.user_with_several()
    watched = Watched(rig, rig.credential(user), None)
    with pytest.raises(ChooseAccount) as asked:
        await watched.login()
    assert asked.value.kind is FaultKind.FATAL_USER
    assert rig.account(user) in [account.account_id for account in asked.value.accounts]
    assert len(asked.value.accounts) > 1


async def test_wrong_environment_is_told_when_the_account_lives_elsewhere(rig: BrokerRig) -> None:
    watched = Watched(rig, rig.wide_credential(1), rig.account_elsewhere(1))
    with pytest.raises(BrokerFault) as refused:
        await watched.login()
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.WRONG_ENVIRONMENT)
    assert watched.session.mirror is None


async def test_account_is_not_covered_when_the_consent_is_another_users(rig: BrokerRig) -> None:
    watched = watch(rig, 2, rig.account(1))
    with pytest.raises(BrokerFault) as refused:
        await watched.login()
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.ACCOUNT_NOT_COVERED)
    assert watched.session.mirror is None
    assert watched.session.contact_monotonic is None


async def test_account_list_covers_both_environments_and_is_known_afterwards(rig: BrokerRig) -> None:
    wide = rig.wide_credential(1)
    assert rig.broker.known_accounts(wide) == ()
    accounts = await rig.broker.accounts(wide)
    listed = {one.account_id: one.environment for one in accounts}
    assert listed[rig.account(1)] is rig.environment
    assert listed[rig.account_elsewhere(1)] is not rig.environment
    assert list(rig.broker.known_accounts(wide)) == accounts
    logins = {one.account_id: one.login for one in accounts}
    assert logins[rig.account(1)] == rig.truth(rig.account(1))["login"]


async def test_login_leaves_nothing_when_it_is_cancelled(rig: BrokerRig) -> None:
    for turns in range(20):
        watched = watch(rig)
        task = asyncio.ensure_future(watched.login())
        for _ in range(turns % 7):
            await asyncio.sleep(0.001)  # lets the login get a different distance each time
        task.cancel()
        await asyncio.wait({task})
        await watched.session.logout()
        assert watched.session.contact_monotonic is None
    await eventually(lambda: rig.sessions_of(rig.account(1)) == 0, within_s=WITHIN_S)
    again = watch(rig)
    await again.come_back()
    await again.true()


# ---------------------------------------------------------------- credentials as entered


async def test_credential_is_read_and_its_secrets_stay_when_it_is_printed(rig: BrokerRig) -> None:
    entry = rig.entry(1)
    credential = rig.credential(1)
    assert credential.environment is rig.environment
    assert credential.account_id == rig.account(1)
    assert credential.secrets
    for secret in credential.secrets.values():
        assert secret.reveal() in entry.values()
        assert secret.reveal() not in repr(credential)


async def test_credential_is_refused_with_its_field_when_something_is_wrong_with_it(rig: BrokerRig) -> None:
    entry = rig.entry(1)
    cases: list[tuple[str, dict[str, object]]] = [("surprise", {**entry, "surprise": "x"})]
    for field in rig.required:
        cases.append((field, {name: value for name, value in entry.items() if name != field}))
        cases += [(field, {**entry, field: value}) for value in ("", " ", 7, ["x"])]
    cases += [("accountId", {**entry, "accountId": value}) for value in ("../etc", 7, "")]
    cases.append(("environment", {**entry, "environment": "somewhere"}))
    for field, wrong in cases:
        with pytest.raises(InvalidInput) as refused:
            rig.broker.read_credential("grant", wrong)
        assert refused.value.field == field, wrong


async def test_settings_of_an_app_are_no_guess_when_they_do_not_say_where_the_account_is(rig: BrokerRig) -> None:
    entry = {name: value for name, value in rig.entry(1).items() if name != "environment"}
    with pytest.raises(InvalidInput) as refused:
        rig.broker.settings_entry(entry)
    assert refused.value.field == "environment"
    for flag in (True, False):
        said = rig.broker.read_credential("grant", rig.broker.settings_entry({**entry, "isLive": flag}))
        assert (said.environment.value == "live") is flag
