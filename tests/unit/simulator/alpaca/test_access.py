"""Key pairs, tokens and codes of the simulated Alpaca."""

import pytest

from bridge.simulator.alpaca.access import LIVE, PAPER, SCOPES, AccessBook, Holder

BOTH = frozenset((PAPER, LIVE))
ALL = frozenset(SCOPES)


@pytest.fixture
def book() -> AccessBook:
    return AccessBook.of([Holder("p1", 1, PAPER), Holder("l1", 1, LIVE), Holder("p2", 2, PAPER)], code_life_s=600)


def test_a_key_pair_opens_its_own_account_when_both_halves_fit(book: AccessBook) -> None:
    paper = book.by_pair("SIMKEY1", "sim-alpaca-secret-1")
    live = book.by_pair("SIMLIVE1", "sim-alpaca-live-secret-1")
    assert paper is not None
    assert (paper.account_id, paper.environment, paper.may("trading")) == ("p1", PAPER, True)
    assert live is not None
    assert (live.account_id, live.environment) == ("l1", LIVE)
    assert book.by_pair("SIMKEY1", "sim-alpaca-secret-2") is None
    assert book.by_pair("SIMKEY1", "") is None
    assert book.by_pair("SIMKEY1", "é\udcff") is None
    assert book.by_pair("SIMLIVE2", "sim-alpaca-live-secret-2") is None


def test_a_token_opens_what_it_covers_when_asked_by_headers(book: AccessBook) -> None:
    first = book.by_headers({"Authorization": "Bearer sim-alpaca-oauth-1"}, LIVE)
    assert first is not None
    assert (first.account_id, first.scopes) == ("l1", ALL)
    assert book.by_headers({"Authorization": "Bearer sim-alpaca-oauth-2"}, LIVE) is None
    assert book.by_headers({"Authorization": "Basic sim-alpaca-oauth-1"}, LIVE) is None
    assert book.by_headers({}, PAPER) is None
    pair = {"APCA-API-KEY-ID": "SIMLIVE1", "APCA-API-SECRET-KEY": "sim-alpaca-live-secret-1"}
    strayed = book.by_headers(pair, PAPER)
    assert strayed is not None
    assert strayed.environment == LIVE


def test_a_code_is_good_once_at_its_address_and_in_time_when_exchanged(book: AccessBook) -> None:
    def mint(redirect_uri: str | None) -> str:
        return book.mint_code(
            1, environments=frozenset({PAPER}), scopes=frozenset({"data"}), now_ms=0, redirect_uri=redirect_uri
        )

    code, elsewhere, late, anywhere = mint("http://a/"), mint("http://a/"), mint("http://a/"), mint(None)
    grant = book.exchange(code, "http://a/", 599_999)
    assert grant is not None
    assert (grant.token, grant.environments, grant.scopes) == ("sim-alpaca-oauth-1-1", {PAPER}, {"data"})
    assert book.exchange(code, "http://a/", 1) is None
    assert book.exchange(elsewhere, "http://b/", 1) is None
    assert book.exchange(elsewhere, "http://a/", 1) is None  # trying it elsewhere spent it
    assert book.exchange(late, "http://a/", 600_000) is None
    again = book.exchange(anywhere, "http://c/", 1)
    assert again is not None
    assert again.token == book.token_of(1) == "sim-alpaca-oauth-1-2"
    caller = book.by_token(grant.token, PAPER)
    assert caller is not None
    assert (caller.may("data"), caller.may("trading")) == (True, False)
    assert book.by_token(grant.token, LIVE) is None


def test_what_was_revoked_opens_nothing_until_it_is_given_anew_when_revoked(book: AccessBook) -> None:
    told: list[int] = []
    book.on_revoked.append(told.append)
    by_key = book.by_pair("SIMKEY1", "sim-alpaca-secret-1")
    by_token = book.by_token("sim-alpaca-oauth-1", PAPER)
    assert by_key is not None
    assert by_token is not None
    assert book.revoke_tokens(1) == 1
    assert (book.holds(by_token), book.holds(by_key)) == (False, True)
    assert book.revoke_pairs(1) == 2
    assert not book.holds(by_key)
    assert told == [1, 1]
    assert book.by_pair("SIMKEY2", "sim-alpaca-secret-2") is not None
    assert book.restore_pairs(1) == 2
    assert book.holds(by_key)
    assert book.by_pair("SIMLIVE1", "sim-alpaca-live-secret-1") is not None
