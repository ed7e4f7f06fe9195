"""The simulated Alpaca's request budget of one account."""

from bridge.simulator.alpaca.rates import Rates

NOW = 1_700_000_000_500


def test_requests_are_admitted_up_to_the_limit_when_within_a_minute() -> None:
    rates = Rates(3)
    standings = [rates.charge("a", NOW + index) for index in range(5)]
    assert [each.admitted for each in standings] == [True, True, True, False, False]
    assert [each.remaining for each in standings] == [2, 1, 0, 0, 0]
    assert {each.reset_s for each in standings} == {1_700_000_061}
    assert standings[0].headers() == {
        "X-RateLimit-Limit": "3",
        "X-RateLimit-Remaining": "2",
        "X-RateLimit-Reset": "1700000061",
    }


def test_the_limit_is_back_at_the_reset_and_each_account_has_its_own_when_it_was_spent() -> None:
    rates = Rates(1)
    first = rates.charge("a", NOW)
    assert rates.charge("b", NOW).admitted
    assert not rates.charge("a", NOW + 59_999).admitted
    assert rates.charge("a", first.reset_s * 1000).admitted


def test_a_new_minute_begins_when_the_clock_steps_back() -> None:
    rates = Rates(1)
    rates.charge("a", NOW)
    assert rates.charge("a", NOW - 1).admitted
