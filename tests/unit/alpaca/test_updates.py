"""Trade updates: events, duplicates, order of arrival, and what is missing in them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca import holding, updates
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.updates import Facts
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.orders import OrderStatus, Side
from tests.unit.alpaca.documents import AAPL, NOW, a_fill, a_mirror, an_order

LATER, EARLIER = "2026-11-20T14:30:05Z", "2026-11-20T14:29:00Z"


class Account:
    """A mirror that follows updates as a hub does."""

    def __init__(self, cash: str | None = "1000") -> None:
        self.assets = Assets()
        self.mirror: AccountMirror = a_mirror(self.assets)
        self.mirror.balance = None if cash is None else Decimal(cash)
        self.known: set[str] = set()

    def take(self, data: Any) -> Facts:
        facts = updates.facts(updates.read(data), self.mirror, self.assets, self.known.__contains__)
        self.mirror.apply(facts.execution, NOW)
        for fill in facts.fills:
            self.mirror.note_fill(fill)
            self.known.add(fill.execution_id)
        return facts

    @property
    def held(self) -> dict[str, Decimal]:
        return {key: holding.signed(each.side, each.units) for key, each in self.mirror.positions.items()}


def event(name: str, **fields: Any) -> dict[str, Any]:
    return {"event": name, "timestamp": LATER, "order": an_order(**fields)}


@pytest.mark.parametrize(
    ("name", "status", "shown"),
    [
        ("new", "new", OrderStatus.WORKING),
        ("accepted", "accepted", OrderStatus.WORKING),
        ("held", "held", OrderStatus.HELD),
        ("pending_cancel", "pending_cancel", OrderStatus.PENDING_CANCEL),
        ("pending_replace", "pending_replace", OrderStatus.PENDING_REPLACE),
        ("order_cancel_rejected", "new", OrderStatus.WORKING),
        ("order_replace_rejected", "new", OrderStatus.WORKING),
        ("done_for_day", "done_for_day", OrderStatus.WORKING),
        ("canceled", "canceled", None),
        ("expired", "expired", None),
        ("rejected", "rejected", None),
        ("replaced", "replaced", None),
    ],
)
def test_the_order_follows_its_state_when_an_event_comes(name: str, status: str, shown: OrderStatus | None) -> None:
    account = Account()
    account.take(event("new"))
    facts = account.take(event(name, status=status, updated_at=LATER))
    left = account.mirror.orders.get("o1")
    assert (left.status if left is not None else None) is shown
    assert facts.read_soon is (name == "replaced")
    assert not facts.fills


@pytest.mark.parametrize("name", ["trade_bust", "trade_correct", "restated", "as_yet_unheard_of", None, ""])
def test_the_account_is_read_when_an_event_does_not_say_all(name: str | None) -> None:
    account = Account()
    data = event("x") | {"event": name}
    assert account.take(data).read_soon
    assert list(account.mirror.orders) == ["o1"]
    assert updates.read(data).known is (name in ("trade_bust", "trade_correct", "restated"))


def test_a_duplicate_changes_nothing_when_its_execution_is_known() -> None:
    account = Account()
    assert account.take(a_fill()).fills
    cash, held = account.mirror.balance, account.held
    again = account.take(a_fill())
    assert (again.fills, again.read_soon) == ((), False)
    assert (account.mirror.balance, account.held) == (cash, held) == (Decimal(600), {AAPL: Decimal(4)})


def test_executions_are_told_apart_by_event_id_when_they_have_no_id_of_their_own() -> None:
    account = Account()
    for name in ("01A", "01A", "01B"):
        account.take(a_fill(None, event_id=name))
    assert account.mirror.balance == Decimal(200)


@pytest.mark.parametrize("gone", ["execution_id", "price", "qty"])
def test_only_the_order_changes_when_a_fill_does_not_say_enough(gone: str) -> None:
    account = Account()
    data = a_fill()
    del data[gone]
    facts = account.take(data)
    assert (facts.fills, facts.read_soon) == ((), True)
    assert (account.mirror.balance, account.held) == (Decimal(1000), {})
    assert account.mirror.orders["o1"].filled_units == Decimal(4)


def test_an_older_fill_moves_cash_only_when_it_comes_after_a_later_one() -> None:
    account = Account()
    account.take(a_fill("e2", timestamp=LATER, qty="1", position_qty="5", price="110"))
    account.take(a_fill("e1", timestamp=EARLIER, qty="4", position_qty="4"))
    assert account.held == {AAPL: Decimal(5)}
    assert account.mirror.balance == Decimal(490)
    assert account.mirror.orders["o1"].filled_units == Decimal(4)


def test_a_fill_is_of_the_known_order_when_it_says_id_and_status_only() -> None:
    account = Account()
    account.take(event("new", side="sell"))
    account.take(a_fill(order={"id": "o1", "status": "partially_filled"}, position_qty="-4"))
    assert account.held == {AAPL: Decimal(-4)}
    assert account.mirror.balance == Decimal(1400)


def test_a_fill_is_refused_whole_when_nothing_names_its_asset() -> None:
    account = Account()
    with pytest.raises(ProtocolViolation):
        account.take(a_fill(order={"id": "o9", "status": "filled", "side": "buy"}))
    assert (account.mirror.balance, account.held) == (Decimal(1000), {})


def test_cash_stays_unknown_when_no_reading_said_it() -> None:
    account = Account(cash=None)
    account.take(a_fill())
    assert account.mirror.balance is None
    assert account.held == {AAPL: Decimal(4)}


def test_each_leg_is_executed_when_a_multi_leg_order_fills() -> None:
    account = Account()
    legs = [
        {"id": "l1", "symbol": "AAPL261218C00200000", "side": "buy", "status": "filled"},
        {"id": "l2", "symbol": "AAPL261218C00210000", "side": "sell", "status": "filled"},
    ]
    order = an_order(symbol="", asset_id="00000000-0000-0000-0000-000000000000", order_class="mleg", status="filled")
    data = {
        "event": "fill",
        "timestamp": LATER,
        "order": order | {"legs": legs},
        "position_qtys": {"AAPL261218C00200000": "2", "AAPL261218C00210000": "-2"},
        "legs": [
            {"order_id": "l1", "execution_id": "x1", "price": "4", "qty": "2"},
            {"order_id": "l2", "execution_id": "x2", "price": "3", "qty": "2"},
        ],
    }
    facts = account.take(data)
    assert [(fill.execution_id, fill.side) for fill in facts.fills] == [("x1", Side.BUY), ("x2", Side.SELL)]
    assert account.held == {"AAPL261218C00200000": Decimal(2), "AAPL261218C00210000": Decimal(-2)}
    assert account.mirror.balance == Decimal(800)  # 1000 - 2 x 4 x 100 + 2 x 3 x 100
    facts = account.take({name: value for name, value in data.items() if name != "legs"})
    assert (facts.fills, facts.read_soon) == ((), True)


@pytest.mark.parametrize("data", [None, [], "x", {}, {"order": None}, {"event": "new", "order": {"status": "new"}}])
def test_a_message_is_refused_when_it_holds_no_order(data: Any) -> None:
    with pytest.raises(ProtocolViolation):
        Account().take(data)


FILLS = st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 50), st.integers(1, 10_000)), min_size=1, max_size=12)


@given(FILLS)
def test_cash_and_quantity_are_the_sums_of_all_fills_when_they_come_in_order(rows: list[tuple[Side, int, int]]) -> None:
    """Whatever is bought, sold and turned over; the cost is the price of what is held, and never below nothing."""
    account, cash, held = Account("0"), Decimal(0), 0
    for number, (side, units, cents) in enumerate(rows):
        price = Decimal(cents).scaleb(-2)
        held += units if side is Side.BUY else -units
        cash -= (units if side is Side.BUY else -units) * price
        order = an_order(side=side.value, status="filled")
        account.take(a_fill(f"e{number}", qty=str(units), price=str(price), position_qty=str(held), order=order))
        assert account.mirror.balance == cash
        assert account.held == ({AAPL: Decimal(held)} if held else {})
        for position in account.mirror.positions.values():
            assert position.cost is not None
            assert abs(position.cost - position.entry_price * position.units) < Decimal("1E-6")


def test_a_fill_is_counted_when_it_has_an_empty_place_for_quantities_of_legs() -> None:
    account = Account()
    facts = account.take({**a_fill(), "position_qtys": None})
    assert len(facts.fills) == 1
    assert account.held != {}
