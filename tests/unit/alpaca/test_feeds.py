"""What a data socket subscribes to, what its errors mean, and when a stream is asked for a sign of life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca.feed_trouble import Trouble, of_code, of_status, wait_s
from bridge.brokers.alpaca.liveness import Act, Pinging
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.subscriptions import BAD_SYNTAX, SYMBOL_LIMIT, Subscriptions


class Server:
    """The broker's side: a limit of symbols, and symbols that it does not take."""

    def __init__(self, limit: int = 30, bad: frozenset[str] = frozenset()) -> None:
        self.limit = limit
        self.bad = bad
        self.trades: set[str] = set()
        self.requests = 0

    def serve(self, subscriptions: Subscriptions) -> None:
        """Carry out what is asked until nothing more is."""
        while (change := subscriptions.next()) is not None:
            self.requests += 1
            assert self.requests < 500, "it never ends"
            action, symbols = change
            assert symbols
            assert subscriptions.next() is None  # one at a time
            if action == "unsubscribe":
                self.trades -= set(symbols)
            elif self.bad & set(symbols):
                subscriptions.refused(BAD_SYNTAX)
                continue
            elif len(self.trades | set(symbols)) > self.limit:
                subscriptions.refused(SYMBOL_LIMIT)
                continue
            else:
                self.trades |= set(symbols)
            subscriptions.listed(self.trades)


def wanting(*symbols: str) -> Subscriptions:
    made = Subscriptions()
    made.wanted = frozenset(symbols)
    return made


def test_everything_is_asked_for_at_once_when_nothing_is_fed() -> None:
    made = wanting("MSFT", "AAPL")
    assert made.next() == ("subscribe", ["AAPL", "MSFT"])
    assert made.next() is None
    made.wanted |= {"SPY"}  # piles up meanwhile
    assert made.next() is None
    made.listed(["AAPL", "MSFT"])
    assert made.fed == {"AAPL", "MSFT"}
    assert made.next() == ("subscribe", ["SPY"])
    made.listed(["AAPL", "MSFT", "SPY"])
    made.wanted = frozenset({"SPY"})
    assert made.next() == ("unsubscribe", ["AAPL", "MSFT"])


def test_symbol_is_not_asked_for_again_when_the_server_leaves_it_out() -> None:
    made = wanting("AAPL", "NONE")
    made.next()
    made.listed(["AAPL"])
    assert made.next() is None
    made.renew()
    assert made.next() == ("subscribe", ["AAPL", "NONE"])


def test_as_many_as_fit_are_fed_when_the_limit_is_reached() -> None:
    server, made = Server(limit=30), wanting(*(f"S{number:02d}" for number in range(37)))
    server.serve(made)
    assert len(made.fed) == 30
    before = server.requests
    server.serve(made)
    assert server.requests == before  # what was refused is not asked for again


def test_refused_symbols_take_the_place_when_room_is_made() -> None:
    symbols = [f"S{number:02d}" for number in range(32)]
    server, made = Server(limit=30), wanting(*symbols)
    server.serve(made)
    gone = sorted(made.fed)[:5]
    made.wanted -= set(gone)
    server.serve(made)
    assert made.fed == made.wanted


def test_only_the_bad_symbol_is_left_out_when_the_syntax_of_one_is_wrong() -> None:
    server, made = Server(bad=frozenset({"b@d"})), wanting("AAPL", "b@d", "MSFT", "SPY", "TSLA")
    server.serve(made)
    assert made.fed == {"AAPL", "MSFT", "SPY", "TSLA"}


@given(
    limit=st.integers(0, 12),
    steps=st.lists(st.frozensets(st.sampled_from("ABCDEFGHIJKLMNOP"), max_size=16), max_size=8),
    bad=st.frozensets(st.sampled_from("ABCDEF"), max_size=3),
)
def test_what_is_fed_is_wanted_and_as_much_as_fits_whatever_happens(
    limit: int, steps: list[frozenset[str]], bad: frozenset[str]
) -> None:
    server, made = Server(limit, bad), Subscriptions()
    for wanted in steps:
        made.wanted = wanted
        made.forgive()
        server.serve(made)
        assert made.fed == server.trades
        assert made.fed <= wanted - bad
        assert len(made.fed) <= min(limit, len(wanted))
        if len(wanted) <= limit and not bad:
            assert made.fed == wanted


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (400, Trouble.SUBSCRIPTION),
        (401, Trouble.BROKEN),
        (402, Trouble.REFUSED),
        (403, Trouble.NONE),
        (404, Trouble.BROKEN),
        (405, Trouble.SUBSCRIPTION),
        (406, Trouble.SLOT),
        (407, Trouble.BROKEN),
        (408, Trouble.REFUSED),
        (409, Trouble.REFUSED),
        (410, Trouble.REFUSED),
        (411, Trouble.REFUSED),
        (412, Trouble.REFUSED),
        (413, Trouble.REFUSED),
        (500, Trouble.BROKEN),
        (999, Trouble.BROKEN),
    ],
)
def test_error_code_means_what_the_reference_says(code: int, trouble: Trouble) -> None:
    assert of_code(code) is trouble


@pytest.mark.parametrize(
    ("status", "trouble"),
    [(None, Trouble.BROKEN), (401, Trouble.REFUSED), (429, Trouble.SLOT), (503, Trouble.BROKEN)],
)
def test_refused_handshake_means_the_same_as_the_code(status: int | None, trouble: Trouble) -> None:
    assert of_status(status) is trouble


def test_next_connection_waits_as_long_as_its_trouble_lasts() -> None:
    settings = AlpacaSettings()
    assert wait_s(Trouble.SLOT, settings, 0.3) == 95
    assert wait_s(Trouble.REFUSED, settings, 0.3) == 600
    assert wait_s(Trouble.BROKEN, settings, 0.3) == 0.3


# ---------------------------------------------------------------- liveness


def test_stream_is_pinged_after_five_seconds_and_dead_after_ten_when_it_is_silent() -> None:
    pinging = Pinging(5.0, 5.0)
    pinging.heard(100.0)
    assert pinging.due_at() == 105.0
    assert pinging.check(104.9) is None
    assert pinging.check(105.0) is Act.PING
    assert pinging.check(105.0) is None
    assert pinging.due_at() == 110.0
    assert pinging.check(109.9) is None
    assert pinging.check(110.0) is Act.DEAD


def test_stream_lives_on_when_a_pong_or_a_frame_comes() -> None:
    pinging = Pinging(5.0, 5.0)
    pinging.heard(100.0)
    pinging.check(105.0)
    pinging.heard(109.0)
    assert pinging.last_heard == 109.0
    assert pinging.due_at() == 114.0
    assert pinging.check(110.0) is None
    assert pinging.check(114.0) is Act.PING
