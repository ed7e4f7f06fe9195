"""What must hold for a paper account after any sequence of requests, prices and time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.paper_account import PaperAccount, Trade
from core.paper_trader import OrderFilled, OrderPartiallyFilled
from tests.unit.library.paper_account.support import KINDS, Actor, again, operations, paper, restored

kinds = st.sampled_from(sorted(KINDS))
chances = st.sampled_from([0.0, 0.4])
some = st.lists(operations, min_size=15, max_size=50)


@settings(max_examples=100)
@given(kinds, chances, some)
def test_the_money_adds_up_whatever_happens(kind: str, chance: float, drawn: list[tuple[Any, ...]]) -> None:
    actor = Actor(paper(kind, chance=chance, slip=1))
    trades: list[Trade] = []
    for operation in drawn:
        before = actor.account.figures
        events = actor.run(operation)
        check_money(actor.account)
        trades += new_trades(actor.account, trades)
        fills = sum(isinstance(each, OrderFilled | OrderPartiallyFilled) for each in events)
        assert actor.account.figures.fills == before.fills + fills
    figures = actor.account.figures
    assert figures.trades == len(trades)
    assert figures.gross + figures.commission + figures.swap == sum(each.net for each in trades)


def check_money(account: PaperAccount) -> None:
    value, figures = account.valuation(), account.figures
    assert value.balance == figures.cash + figures.gross + figures.commission + figures.swap
    assert value.used_margin == sum(each.used_margin for each in value.positions) >= 0
    assert {each.position_id for each in value.positions if each.net is None} == set(value.unpriced)
    if value.unpriced:
        assert value.equity is value.unrealized is value.free_margin is value.margin_level is None
        return
    assert value.unrealized is not None
    assert value.equity is not None
    assert value.free_margin is not None
    assert value.unrealized == sum(each.net for each in value.positions if each.net is not None)
    assert value.equity == value.balance + value.unrealized
    assert value.free_margin == value.equity - value.used_margin
    assert (value.margin_level is None) == (value.used_margin == 0)
    for each in value.positions:
        assert each.gross is not None
        apart = each.net - (each.gross + each.swap + each.commission)
        assert abs(apart) <= Decimal(1).scaleb(-value.money_digits), "both are rounded, half a cent to the even one"


def new_trades(account: PaperAccount, known: list[Trade]) -> list[Trade]:
    """Those that came since, each told once."""
    last = known[-1].id if known else 0
    found = [each for each in account.trades() if each.id > last]
    for each in found:
        assert each.net == each.gross + each.commission + each.swap
        assert each.exit_at_ms >= each.entry_at_ms
        assert each.units > 0
    return found


@settings(max_examples=100)
@given(kinds, chances, some)
def test_a_refusal_changes_nothing_whatever_was_asked(kind: str, chance: float, drawn: list[tuple[Any, ...]]) -> None:
    actor = Actor(paper(kind, chance=chance))
    for operation in drawn:
        before, due = actor.account.to_plain(), actor.account.next_due_ms()
        actor.run(operation)
        if actor.refused is not None:
            assert actor.account.to_plain() == before
            assert actor.account.next_due_ms() == due
            assert actor.refused.field
            assert actor.refused.rule
            assert (actor.refused.row is None) == (operation[0] == "cash")


@settings(max_examples=100)
@given(kinds, chances, st.lists(st.tuples(operations, st.booleans()), min_size=15, max_size=50))
def test_an_account_restored_from_plain_data_goes_on_as_the_original(
    kind: str, chance: float, drawn: list[tuple[tuple[Any, ...], bool]]
) -> None:
    first, second = Actor(paper(kind, chance=chance)), Actor(paper(kind, chance=chance))
    for operation, restore in drawn:
        if restore:
            second.account = restored(second.account)
            assert repr(second.account.state()) == repr(first.account.state())
        events = first.run(operation)
        assert repr(second.run(operation)) == repr(events)
        assert str(second.refused) == str(first.refused)
        assert second.account.valuation() == first.account.valuation()
        assert second.account.next_due_ms() == first.account.next_due_ms()
    assert second.account.to_plain() == first.account.to_plain()


@settings(max_examples=60)
@given(kinds, some)
def test_every_value_reads_back_as_it_was_written(kind: str, drawn: list[tuple[Any, ...]]) -> None:
    actor = Actor(paper(kind, slip=1))
    for operation in drawn:
        if operation[0] == "apply":
            for request in map(actor.request, operation[1]):
                assert repr(again(request)) == repr(request)
        for event in actor.run(operation):
            assert repr(again(event)) == repr(event)
    account = actor.account
    lists = (account.orders(protections=True), account.positions(), account.deals(), account.finished_orders())
    for value in (account.valuation(), account.figures, *account.trades(), *(each for some in lists for each in some)):
        assert repr(again(value)) == repr(value)
