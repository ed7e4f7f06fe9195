"""Which of the accounts that a token lists is meant."""

import pytest

from bridge.brokers.base import BrokerFault, ChooseAccount, Environment, FaultKind, ReasonCode
from bridge.brokers.ctrader.listing import Listed, Listing, choose


def listing(*accounts: tuple[int, Environment]) -> Listing:
    return Listing(tuple(Listed(number, environment, None, "Sim") for number, environment in accounts), 0.0)


BOTH = listing((11, Environment.DEMO), (12, Environment.DEMO), (13, Environment.LIVE))


def test_named_account_is_chosen_when_the_token_lists_it() -> None:
    assert choose(BOTH, Environment.DEMO, "12").number == 12


@pytest.mark.parametrize(
    ("covered", "environment", "account_id", "code"),
    [
        pytest.param(BOTH, Environment.DEMO, "13", ReasonCode.WRONG_ENVIRONMENT, id="live-as-demo"),
        pytest.param(BOTH, Environment.LIVE, "11", ReasonCode.WRONG_ENVIRONMENT, id="demo-as-live"),
        pytest.param(BOTH, Environment.DEMO, "99", ReasonCode.ACCOUNT_NOT_COVERED, id="foreign"),
        pytest.param(BOTH, Environment.DEMO, "x", ReasonCode.ACCOUNT_NOT_COVERED, id="no-number"),
        pytest.param(BOTH, Environment.DEMO, None, ReasonCode.CHOOSE_ACCOUNT, id="several"),
        pytest.param(listing((1, Environment.LIVE)), Environment.DEMO, None, ReasonCode.NO_ACCOUNTS, id="none-here"),
        pytest.param(listing(), Environment.LIVE, None, ReasonCode.NO_ACCOUNTS, id="none"),
    ],
)
def test_account_is_refused_with_its_reason(
    covered: Listing, environment: Environment, account_id: str | None, code: ReasonCode
) -> None:
    with pytest.raises(BrokerFault) as refused:
        choose(covered, environment, account_id)
    assert refused.value.kind is FaultKind.FATAL_USER
    assert refused.value.reason.code is code


def test_only_account_is_taken_when_none_is_named() -> None:
    assert choose(BOTH, Environment.LIVE, None).number == 13


def test_choices_are_listed_when_there_are_several() -> None:
    with pytest.raises(ChooseAccount) as several:
        choose(BOTH, Environment.DEMO, None)
    assert [account.account_id for account in several.value.accounts] == ["11", "12"]
