"""Who subscribes for whom: after anything that can happen, everybody who needs a price is served once."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.ctrader.board import QUICK_PASSES, Board, Sharer
from bridge.brokers.ctrader.price_classes import Kind, PriceClasses
from core.account import AccountMirror
from core.instruments import Catalogue

SIM = Kind("Sim", "0.0.0")
EURUSD, USDJPY = 1, 2


class Scene:
    """A board with a broker that does what it is asked at once, unless told otherwise."""

    def __init__(self) -> None:
        self.board = Board(PriceClasses(look_every_s=0.0, part_again_s=100.0))
        self.mirrors: dict[int, AccountMirror] = {}
        self.requests = 0

    def join(self, number: int, *symbol_ids: int) -> Sharer:
        mirror = self.mirrors.setdefault(number, AccountMirror("demo", str(number), Catalogue()))
        return self.board.want(number, mirror, SIM, frozenset(symbol_ids))

    def act(self, number: int) -> None:
        """The account brings its subscriptions in step, with success."""
        stop, start = self.board.work(number)
        sharer = self.board.sharer(number)
        if sharer is None:
            return
        for symbol_id in stop:
            del sharer.holds[symbol_id]
        for symbol_id in start:
            self.requests += 1
            sharer.holds[symbol_id] = sharer.duties[symbol_id].quote
        self.board.subscribed(number, start)

    def settle(self) -> list[int]:
        """Until nobody has anything to do; returns who had."""
        acted = []
        while calls := self.board.settle():
            for number in calls:
                self.act(number)
            acted += calls
        return acted

    def tick(self, symbol_id: int, bid: int, ask: int) -> int:
        """The broker sends a price to every subscription; returns how many there were."""
        quotes = [
            sharer.holds[symbol_id]
            for number in self.mirrors
            if (sharer := self.board.sharer(number)) is not None and symbol_id in sharer.holds
        ]
        for quote in quotes:
            quote.tick(bid, ask)
        return len(quotes)

    def price(self, number: int, symbol_id: int) -> tuple[int | None, int | None]:
        quote = self.mirrors[number].quotes[str(symbol_id)]
        return quote.bid, quote.ask


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_first_one_subscribes_for_all_when_they_need_the_same(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.join(number, EURUSD)
        scene.settle()
    assert scene.requests == 1
    assert scene.tick(EURUSD, 10, 12) == 1
    assert [scene.price(number, EURUSD) for number in (1, 2, 3)] == [(10, 12)] * 3


def test_newcomer_has_the_price_at_once_when_it_flows_already(scene: Scene) -> None:
    scene.join(1, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    scene.join(2, EURUSD)
    assert scene.price(2, EURUSD) == (10, 12)
    assert scene.mirrors[2].dirty
    assert scene.settle() == []


def test_price_is_withdrawn_and_another_asked_in_the_same_turn_when_the_holder_goes(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.join(number, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    for mirror in scene.mirrors.values():
        mirror.clean()
    holder = scene.join(1, EURUSD)
    assert holder.serves_itself
    assert list(holder.holds) == [EURUSD]
    scene.board.drop(1)
    assert holder.holds == {}  # what still comes in for it is nobody's price
    assert scene.board.settle() == [2]
    assert scene.price(2, EURUSD) == scene.price(3, EURUSD) == (None, None)
    assert scene.price(1, EURUSD) == (10, 12)  # its numbers stay
    assert [scene.mirrors[number].dirty for number in (1, 2, 3)] == [False, True, True]
    scene.act(2)
    assert scene.tick(EURUSD, 11, 13) == 1
    assert scene.price(3, EURUSD) == (11, 13)
    assert scene.price(1, EURUSD) == (10, 12)


def test_nobody_is_asked_and_numbers_stay_when_all_go_at_once(scene: Scene) -> None:
    for number in range(1, 6):
        scene.join(number, EURUSD, USDJPY)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    for number in range(1, 6):
        scene.board.drop(number)
    assert scene.board.settle() == []
    assert {scene.price(number, EURUSD) for number in range(1, 6)} == {(10, 12)}
    assert scene.board.count() == (0, 0)


def test_one_that_goes_a_moment_later_keeps_the_last_price_when_it_was_withdrawn_meanwhile(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    scene.board.drop(1)
    scene.board.settle()
    scene.board.drop(2)
    assert scene.price(2, EURUSD) == (10, 12)


def test_price_never_stops_when_the_holder_says_that_it_leaves(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    scene.board.retire(1)
    assert scene.board.settle() == [2]
    assert not scene.board.relieved(1)
    assert scene.tick(EURUSD, 11, 13) == 1  # from the one that leaves
    assert scene.price(2, EURUSD) == (11, 13)
    scene.act(2)
    assert scene.board.relieved(1)
    assert scene.board.handed_on == 1
    scene.board.forget(1)
    scene.settle()
    assert scene.price(2, EURUSD) == (11, 13)


def test_price_is_withdrawn_when_the_leaving_holder_goes_before_its_successor_serves(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    scene.board.retire(1)
    scene.board.settle()
    scene.board.forget(1)
    scene.board.settle()
    assert scene.price(2, EURUSD) == (None, None)


def test_leaving_account_is_given_nothing_when_others_leave_too(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.settle()
    scene.board.retire(1)
    scene.board.retire(2)
    assert scene.board.settle() == [1]  # nobody needs its subscription
    assert scene.board.relieved(1)
    assert not scene.board.due(2, SIM, frozenset((EURUSD,)))
    scene.join(2, EURUSD)
    assert scene.board.settle() == []


def test_holder_serves_on_when_it_needs_the_price_no_longer_itself(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.settle()
    scene.join(1)
    assert scene.settle() == []
    assert scene.tick(EURUSD, 10, 12) == 1
    assert scene.price(2, EURUSD) == (10, 12)
    assert scene.mirrors[1].quotes == {}
    scene.join(2)
    assert scene.settle() == [1]
    assert scene.board.count() == (0, 0)


def test_another_is_asked_at_once_when_one_is_refused_and_all_are_served(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.join(number, EURUSD)
    assert scene.board.settle() == [1]
    scene.board.refused(1, [EURUSD])
    assert scene.settle() == [2]
    scene.tick(EURUSD, 10, 12)
    assert scene.price(1, EURUSD) == (10, 12)
    scene.board.drop(2)
    assert scene.settle() == [3]


def test_nobody_is_asked_when_all_were_refused_until_somebody_new_comes(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    for number in (1, 2):
        assert scene.board.settle() == [number]
        scene.board.refused(number, [EURUSD])
    assert scene.board.settle() == []
    scene.join(3, EURUSD)
    assert scene.settle() == [3]


def test_failure_is_passed_on_a_few_times_and_then_kept_when_everybody_fails(scene: Scene) -> None:
    for number in range(1, 21):
        scene.join(number, EURUSD)
    asked = []
    while calls := scene.board.settle():
        asked += calls
        scene.board.failed(calls[0], [EURUSD])
    assert asked == list(range(1, QUICK_PASSES + 2))
    last = asked[-1]
    assert scene.board.work(last) == ([], [EURUSD])  # it tries again at its own pace
    scene.board.gave_up(last)
    assert scene.settle() == [last + 1]
    assert scene.tick(EURUSD, 10, 12) == 1


def test_late_answer_changes_nothing_when_the_duty_was_taken_away(scene: Scene) -> None:
    for number in (1, 2):
        scene.join(number, EURUSD)
    scene.board.settle()
    scene.board.drop(1)
    assert scene.settle() == [2]
    scene.board.subscribed(1, [EURUSD])
    scene.board.failed(1, [EURUSD])
    scene.board.refused(1, [EURUSD])
    assert scene.settle() == []
    assert scene.tick(EURUSD, 10, 12) == 1


def test_account_subscribes_for_itself_when_it_parts(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.join(number, EURUSD)
    scene.settle()
    scene.tick(EURUSD, 10, 12)
    assert scene.board.classes.part(2, None, 0.0)
    assert scene.board.due(2, SIM, frozenset((EURUSD,)))
    assert scene.join(2, EURUSD).serves_itself is False
    assert scene.price(2, EURUSD) == (None, None)
    assert scene.settle() == [2]
    held = scene.board.sharer(2)
    assert held is not None
    assert held.serves_itself
    held.holds[EURUSD].tick(9, 13)
    assert [scene.price(number, EURUSD) for number in (1, 2, 3)] == [(10, 12), (9, 13), (10, 12)]


def test_subscription_is_made_anew_when_its_holder_changes_class(scene: Scene) -> None:
    scene.join(1, EURUSD, USDJPY)
    scene.join(2, EURUSD)
    scene.settle()
    assert scene.board.classes.part(1, None, 0.0)
    scene.join(1, EURUSD, USDJPY)
    assert scene.board.work(1) == ([EURUSD, USDJPY], [])
    assert set(scene.settle()) == {1, 2}
    assert scene.board.count() == (3, 3)
    assert scene.tick(EURUSD, 10, 12) == 2


# ---------------------------------------------------------------- whatever happens

ACCOUNTS, SYMBOLS = range(1, 6), range(1, 4)
numbers = st.sampled_from(list(ACCOUNTS))
STEP = st.one_of(
    st.tuples(st.just("join"), numbers, st.frozensets(st.sampled_from(list(SYMBOLS)))),
    st.tuples(st.sampled_from(["drop", "retire", "forget", "gave_up", "act", "part", "clean"]), numbers),
    st.tuples(st.sampled_from(["refuse", "fail"]), numbers),
    st.tuples(st.sampled_from(["cut", "settle", "tick", "look"])),
)


def clean(scene: Scene, number: int) -> None:
    if number in scene.mirrors:
        scene.mirrors[number].clean()


def all_of(accounts: Iterable[int], act: Callable[[int], object]) -> None:
    for number in accounts:
        act(number)


STEPS: dict[str, Callable[..., object]] = {
    "join": lambda scene, number, wanted: scene.join(number, *wanted),
    "drop": lambda scene, number: scene.board.drop(number),
    "retire": lambda scene, number: scene.board.retire(number),
    "forget": lambda scene, number: scene.board.forget(number),
    "gave_up": lambda scene, number: scene.board.gave_up(number),
    "act": Scene.act,
    "part": lambda scene, number: scene.board.classes.part(number, None, 0.0),
    "clean": clean,
    "refuse": lambda scene, number: scene.board.refused(number, scene.board.work(number)[1]),
    "fail": lambda scene, number: scene.board.failed(number, scene.board.work(number)[1]),
    "cut": lambda scene: all_of(ACCOUNTS, scene.board.drop),
    "settle": Scene.settle,
    "tick": lambda scene: all_of(SYMBOLS, lambda symbol_id: scene.tick(symbol_id, 5, 6)),
    "look": lambda scene: all_of(ACCOUNTS, lambda number: scene.board.classes.look(number, 1000.0)),
}


@settings(max_examples=300)
@given(st.lists(STEP, max_size=40))
def test_everybody_is_served_by_exactly_one_subscription_after_any_sequence(steps: list[tuple[object, ...]]) -> None:
    scene = Scene()
    for name, *parameters in steps:
        STEPS[str(name)](scene, *parameters)
        for sharer in filter(None, map(scene.board.sharer, ACCOUNTS)):
            assert_consistent(scene, sharer)
    present = [one for number in ACCOUNTS if (one := scene.board.sharer(number)) is not None and not one.leaving]
    for sharer in present:  # those who changed class meanwhile say again what they need
        scene.join(sharer.number, *sharer.wanted)
    scene.settle()
    for sharer in present:
        for symbol_id, feed in sharer.feeds.items():
            quotes = [
                other.holds[symbol_id]
                for number in ACCOUNTS
                if (other := scene.board.sharer(number)) is not None and symbol_id in other.holds
            ]
            serving = sum(quote is feed.quote for quote in quotes)
            may_be_asked = [number for number in feed.members if number not in feed.refused]
            in_doubt = feed.asked is not None and feed.holder is None  # failed, and at its own pace now
            assert serving == (0 if in_doubt or (not may_be_asked and feed.holder is None) else 1)
            assert serving or scene.price(sharer.number, symbol_id) == (None, None)
            sharer.mirror.clean()
            feed.quote.tick(7, 8)
            assert scene.price(sharer.number, symbol_id) == (7, 8)
            assert sharer.mirror.dirty


def assert_consistent(scene: Scene, sharer: Sharer) -> None:
    """What one account has and what the feeds say of it are the same, at any time."""
    for symbol_id, feed in sharer.feeds.items():
        assert sharer.number in feed.members
        assert sharer.price_class.feeds[symbol_id] is feed
        assert sharer.mirror.quotes[str(symbol_id)] is feed.quote
    for feed in sharer.duties.values():
        assert sharer.number in (feed.holder, feed.asked)
    held, used = scene.board.count()
    assert held <= len(ACCOUNTS) * len(SYMBOLS)
    assert used == sum(len(one.feeds) for number in ACCOUNTS if (one := scene.board.sharer(number)) is not None)
