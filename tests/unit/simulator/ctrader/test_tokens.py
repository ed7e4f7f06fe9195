"""Tokens live, are spent once, and die together."""

from bridge.simulator.ctrader.tokens import TokenBook

NOW = 1_000_000


def book() -> TokenBook:
    tokens = TokenBook(access_token_life_s=100, code_life_s=60)
    tokens.issue_first(1, NOW)
    tokens.issue_first(2, NOW)
    return tokens


def test_an_access_token_is_good_until_it_expires_when_nothing_happens() -> None:
    tokens = book()
    grant = tokens.grant_of_access("sim-access-1", NOW + 99_999)
    assert grant is not None
    assert grant.user == 1
    assert tokens.grant_of_access("sim-access-1", NOW + 100_000) is None


def test_a_refresh_kills_both_old_tokens_when_spent() -> None:
    tokens = book()
    renewed = tokens.refresh("sim-refresh-1", NOW)
    assert renewed is not None
    assert tokens.grant_of_access("sim-access-1", NOW) is None
    assert tokens.refresh("sim-refresh-1", NOW) is None
    again = tokens.refresh(renewed.refresh_token, NOW)
    assert again is not None
    assert again.access_token != renewed.access_token
    assert tokens.grant_of_access("sim-access-2", NOW) is not None


def test_an_expired_access_token_can_be_refreshed_when_its_refresh_token_is_unspent() -> None:
    tokens = book()
    tokens.expire(1, NOW)
    assert tokens.grant_of_access("sim-access-1", NOW) is None
    renewed = tokens.refresh("sim-refresh-1", NOW)
    assert renewed is not None
    assert tokens.grant_of_access(renewed.access_token, NOW) is renewed


def test_a_code_works_once_and_for_a_minute_when_minted() -> None:
    tokens = book()
    code, late = tokens.mint_code(1, True, NOW), tokens.mint_code(1, True, NOW)
    exchanged = tokens.exchange(code, NOW + 59_999)
    assert exchanged is not None
    grant, replaced = exchanged
    assert (grant.user, replaced) == (1, "sim-access-1")
    assert tokens.exchange(code, NOW) is None
    assert tokens.exchange(late, NOW + 60_000) is None
    assert tokens.exchange("made up", NOW) is None


def test_a_new_consent_gives_fresh_tokens_when_the_old_one_was_revoked() -> None:
    tokens = book()
    assert tokens.revoke(1) is not None
    assert tokens.revoke(1) is None
    assert tokens.refresh("sim-refresh-1", NOW) is None
    exchanged = tokens.exchange(tokens.mint_code(1, False, NOW), NOW)
    assert exchanged is not None
    grant, replaced = exchanged
    assert (replaced, grant.trade) == (None, False)
    assert grant.access_token != "sim-access-1"
