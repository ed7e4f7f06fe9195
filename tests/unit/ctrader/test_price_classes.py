"""Who has the same prices: entry, parting, coming back."""

import pytest

from bridge.brokers.ctrader.price_classes import LOOKS, Feed, Kind, PriceClass, PriceClasses

SIM, NETTED, OTHER = Kind("Sim", "0.0.0"), Kind("Sim", "1.0.0"), Kind("Simex", "0.0.0")


@pytest.fixture
def classes() -> PriceClasses:
    return PriceClasses(look_every_s=50.0, part_again_s=3600.0)


def quote(price_class: PriceClass, symbol_id: int, bid: int | None, ask: int | None) -> None:
    feed = price_class.feeds.setdefault(symbol_id, Feed(price_class, symbol_id))
    feed.quote.bid, feed.quote.ask = bid, ask


def test_accounts_of_one_kind_are_together_and_others_apart(classes: PriceClasses) -> None:
    assert classes.place(1, SIM) is classes.place(2, SIM)
    assert len({id(classes.place(number, kind)) for number, kind in ((1, SIM), (3, NETTED), (4, OTHER))}) == 3
    assert classes.place(1, SIM) is classes.place(2, SIM)
    assert classes.count() == (3, 0)


def test_account_is_placed_anew_when_its_kind_changed(classes: PriceClasses) -> None:
    classes.place(1, SIM)
    assert classes.place(1, NETTED) is not classes.place(2, SIM)
    assert classes.count() == (2, 0)


def test_newcomer_joins_the_largest_when_the_first_account_is_the_odd_one(classes: PriceClasses) -> None:
    odd = classes.place(1, SIM)
    classes.place(2, SIM)
    classes.place(3, SIM)
    assert classes.part(2, None, 0.0)
    assert classes.part(3, classes.others(odd)[0], 0.0)
    assert classes.place(4, SIM) is classes.place(3, SIM) is classes.place(2, SIM) is not odd
    assert classes.count() == (2, 1)


def test_account_that_is_alone_has_nobody_to_part_from(classes: PriceClasses) -> None:
    classes.place(1, SIM)
    assert not classes.part(1, None, 0.0)
    assert not classes.part(9, None, 0.0)


def test_nothing_is_left_of_a_class_when_its_accounts_are_forgotten(classes: PriceClasses) -> None:
    classes.place(1, SIM)
    classes.place(2, SIM)
    classes.part(2, None, 0.0)
    classes.forget(1)
    classes.forget(2)
    classes.forget(2)
    assert classes.count() == (0, 0)
    assert classes.standing(1) is None


def parted(classes: PriceClasses) -> tuple[PriceClass, PriceClass]:
    """Accounts 1 and 2 together, 3 apart, with equal prices."""
    for number in (1, 2, 3):
        common = classes.place(number, SIM)
    classes.part(3, None, 0.0)
    apart = classes.place(3, SIM)
    for price_class in (common, apart):
        quote(price_class, 1, 100, 102)
    return common, apart


def test_account_comes_back_when_its_prices_were_the_common_ones_three_times(classes: PriceClasses) -> None:
    common, _ = parted(classes)
    assert [classes.look(3, 100.0 * turn) for turn in range(LOOKS)] == [(), (), (3,)]
    assert classes.place(3, SIM) is common
    assert classes.count() == (1, 0)
    assert not classes.part(3, None, 300.0)  # it does not come and go
    assert classes.part(3, None, 300.0 + 3600.0)


def test_looks_count_only_when_time_has_passed_between_them(classes: PriceClasses) -> None:
    parted(classes)
    assert [classes.look(3, turn * 20.0) for turn in range(LOOKS)] == [()] * LOOKS


def test_account_stays_apart_when_a_price_differed_in_between(classes: PriceClasses) -> None:
    _, apart = parted(classes)
    for turn in range(3 * LOOKS):
        quote(apart, 1, 100, 103 if turn % LOOKS == LOOKS - 1 else 102)
        assert classes.look(3, 100.0 * turn) == ()


@pytest.mark.parametrize("bid", [None, 101])
def test_account_stays_apart_when_prices_cannot_be_compared_or_one_side_differs(
    classes: PriceClasses, bid: int | None
) -> None:
    common, _ = parted(classes)
    quote(common, 1, bid, 102)
    quote(common, 2, 5, 6)  # which the other does not have
    assert [classes.look(3, 100.0 * turn) for turn in range(2 * LOOKS)] == [()] * 2 * LOOKS


def test_the_largest_class_has_nowhere_to_go_back_to(classes: PriceClasses) -> None:
    parted(classes)
    assert [classes.look(1, 100.0 * turn) for turn in range(2 * LOOKS)] == [()] * 2 * LOOKS


def test_confirmed_prices_are_to_be_confirmed_again_when_the_account_moves(classes: PriceClasses) -> None:
    parted(classes)
    classes.agreed(1, frozenset((1,)), 5.0)
    standing = classes.standing(1)
    assert standing is not None
    assert (standing.agreed, standing.checked_at) == ({1}, 5.0)
    classes.part(1, None, 6.0)
    assert standing.agreed == frozenset()


def test_ticks_tell_of_every_change_and_of_nothing_when_a_price_is_missing(classes: PriceClasses) -> None:
    common, _ = parted(classes)
    wanted = frozenset((1,))
    before = common.ticks(wanted)
    common.feeds[1].quote.tick(100, None)
    assert common.ticks(wanted) != before
    assert common.ticks(frozenset((1, 2))) is None
    common.feeds[1].quote.withdraw()
    assert common.ticks(wanted) is None
