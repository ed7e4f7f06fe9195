"""Who lives in the simulator and what its servers list."""

import random

from bridge.simulator.ctrader.catalogue import BROKERS, make_catalogue
from bridge.simulator.ctrader.world import World
from core.paper_trader import AccountType

NOW = 1_795_212_000_000


def world(users: int = 6) -> World:
    return World(users, 1_000, random.Random(1), NOW)


def test_every_users_first_account_is_a_funded_hedged_demo_account_when_the_world_is_made() -> None:
    made = world()
    for user, accounts in made.of_user.items():
        view = made.engine.account(accounts[0].key)
        assert accounts[0].id == 1_000_000 + 10 * user + 1
        assert not accounts[0].live
        assert view.settings.type is AccountType.HEDGED
        assert view.balance > 0


def test_currencies_types_and_environments_are_all_there_when_there_are_three_users() -> None:
    made = world(3)
    settings = [made.engine.account(each.key).settings for each in made.accounts.values()]
    assert {each.currency for each in settings} == {"USD", "EUR", "JPY"}
    assert {each.money_digits for each in settings} == {0, 2}
    assert {each.type for each in settings} == {AccountType.HEDGED, AccountType.NETTED}
    assert {each.live for each in made.accounts.values()} == {True, False}


def test_only_one_demo_account_is_listed_when_the_user_number_is_odd() -> None:
    made = world()
    demo = {user: sum(not each.live for each in accounts) for user, accounts in made.of_user.items()}
    assert demo == {1: 1, 2: 2, 3: 1, 4: 2, 5: 1, 6: 2}


def test_no_symbol_id_means_the_same_on_two_servers_when_brokers_differ() -> None:
    seen: dict[int, str] = {}
    for rules in BROKERS:
        for live in (False, True):
            catalogue = make_catalogue(rules, live)
            first = next(iter(catalogue.symbols.values()))
            assert first.terms.name == "EURUSD"
            for symbol_id in catalogue.symbols:
                assert symbol_id not in seen, "an id used by two servers hides mixed-up servers"
                seen[symbol_id] = catalogue.key


def test_every_currency_converts_to_every_deposit_currency_when_asked() -> None:
    made = world()
    longest = 0
    for key, catalogue in made.servers.items():
        for asset in ("USD", "EUR", "GBP", "CHF", "JPY", "SEK"):
            for deposit in ("USD", "EUR", "JPY"):
                chain = made.engine.conversion_chain(key, asset, deposit)
                assert chain is not None, (key, asset, deposit)
                assert all(int(each) in catalogue.symbols for each in chain)
                longest = max(longest, len(chain))
    assert longest >= 2
