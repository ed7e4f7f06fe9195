"""When something is told: late enough, seldom enough, and its end too. Time is a number."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.alerts.book import CALM_S, REPEAT_S, SETTLE_MOST_S, SETTLE_S, AlertBook
from bridge.alerts.conditions import GRACE_S, Condition

STEP_S = 5.0
DOWN = {"store redis": Condition("store down", "store up")}


class Watch:
    """Lets time pass over a book; `told` lists (seconds, text)."""

    def __init__(self) -> None:
        self.book = AlertBook()
        self.now = 0.0
        self.told: list[tuple[float, str]] = []

    def passes(self, seconds: float, present: dict[str, Condition] | None = None) -> list[str]:
        """What is told while this is so for that long."""
        end, before = self.now + seconds, len(self.told)
        while self.now < end:
            self.told += [(self.now, text) for text in self.book.observe(present or {}, self.now)]
            self.now += STEP_S
        return [text for _, text in self.told[before:]]


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_condition_is_told_once_it_has_lasted_its_grace(watch: Watch) -> None:
    assert watch.passes(3600, DOWN) == ["store down"]
    assert watch.told == [(GRACE_S, "store down")]
    assert watch.book.open == 1


def test_nothing_is_told_of_what_passes_within_its_grace(watch: Watch) -> None:
    watch.passes(GRACE_S, DOWN)
    assert watch.passes(600) == []
    assert watch.book.open == 0


def test_its_end_is_told_once_with_how_long_it_lasted(watch: Watch) -> None:
    watch.passes(125, DOWN)
    watch.passes(3600)
    assert [text for _, text in watch.told] == ["store down", "store up (after 2 min 0 s)"]
    assert watch.told[1][0] == 120 + SETTLE_S


def test_a_short_absence_is_no_end(watch: Watch) -> None:
    watch.passes(60, DOWN)
    assert watch.passes(SETTLE_S - STEP_S) == []
    assert watch.passes(60, DOWN) == []


def test_what_blinks_faster_than_its_grace_is_told_all_the_same(watch: Watch) -> None:
    for _ in range(20):
        watch.passes(5, DOWN)
        watch.passes(5)
    assert [text for _, text in watch.told] == ["store down"]


@pytest.mark.parametrize(("on_s", "off_s"), [(20, 35), (20, 70), (5, 5), (60, 120), (300, 300)])
def test_a_day_of_flapping_is_no_flood(watch: Watch, on_s: float, off_s: float) -> None:
    while watch.now < 86_400:
        watch.passes(on_s, DOWN)
        watch.passes(off_s)
    assert len(watch.told) <= 12


def test_the_worst_flapping_is_told_twice_in_a_quarter_of_an_hour_at_most(watch: Watch) -> None:
    """Comes back exactly when its end has been told."""
    while watch.now < 86_400:
        watch.passes(GRACE_S + STEP_S, DOWN)
        while watch.book.open:
            watch.passes(STEP_S)
    assert len(watch.told) <= 2 * 86_400 / SETTLE_MOST_S + 12


def test_what_comes_back_and_stays_is_told_soon(watch: Watch) -> None:
    for _ in range(50):
        watch.passes(20, DOWN)
        watch.passes(60)
    told = len(watch.told)
    watch.passes(2000)
    watch.passes(REPEAT_S + GRACE_S + STEP_S, DOWN)
    assert watch.told[-1][1] == "store down"
    assert len(watch.told) <= told + 2


def test_the_past_is_forgotten_after_a_calm_hour(watch: Watch) -> None:
    for _ in range(5):
        watch.passes(320, DOWN)
        watch.passes(1000)
    watch.passes(CALM_S + STEP_S)
    watch.passes(60, DOWN)
    at = watch.now
    watch.passes(600)
    assert watch.told[-1][0] <= at + SETTLE_S


def sessions(number: int) -> dict[str, Condition]:
    return {"sessions": Condition(f"{number} need action", "none", level=number)} if number else {}


def test_a_higher_count_is_told_but_not_more_often_than_the_repeat_time(watch: Watch) -> None:
    watch.passes(20, sessions(1))
    for number in range(2, 62):
        watch.passes(5, sessions(number))
    assert [text for _, text in watch.told] == ["1 need action", "61 need action"]
    assert watch.told[1][0] - watch.told[0][0] == REPEAT_S


def test_a_lower_count_is_not_told_and_rising_from_there_is(watch: Watch) -> None:
    watch.passes(600, sessions(5))
    watch.passes(600, sessions(3))
    watch.passes(600, sessions(4))
    watch.passes(600)
    assert [text for _, text in watch.told] == ["5 need action", "4 need action", "none (after 29 min 55 s)"]


def test_conditions_do_not_hold_each_other_up(watch: Watch) -> None:
    watch.passes(60, DOWN)
    both = {**DOWN, "loop lag": Condition("lag", "no lag")}
    assert watch.passes(60, both) == ["lag"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=60))
def test_problem_and_end_alternate_whatever_happens(story: Iterable[tuple[bool, int]]) -> None:
    watch = Watch()
    for there, steps in story:
        watch.passes(steps * STEP_S, DOWN if there else {})
    kinds = [text.split(" (")[0] for _, text in watch.told]
    assert kinds == ["store down", "store up"] * (len(kinds) // 2) + ["store down"] * (len(kinds) % 2)
    problems = [at for at, text in watch.told if text == "store down"]
    assert all(later - earlier >= REPEAT_S for earlier, later in pairwise(problems))
    assert watch.book.open == len(kinds) % 2
