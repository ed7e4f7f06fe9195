"""Alpaca's documents against vectors worked by hand (tests/fixtures/alpaca_vectors.json)."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.alpaca import orders, snapshot, updates
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.reading import Executions, Mark, Reading
from bridge.brokers.alpaca.settings import AlpacaSettings
from core.events import AccountChanged, OrderChanged
from core.orders import Side
from core.positions import Position
from core.reconcile import rebuild
from core.valuation import value_account
from tests.unit.alpaca.documents import AAPL, NOW, TIME, TIME_MS, a_mirror, an_order

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures" / "alpaca_vectors.json").read_text())


def decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def described() -> Assets:
    assets = Assets()
    for document in VECTORS["assets"]:
        assets.of_asset(document)
    return assets


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", VECTORS["readings"], ids=named)
def test_a_reading_is_worth_what_was_worked_by_hand_when_it_becomes_the_mirror(case: dict[str, Any]) -> None:
    assets, expect = described(), case["expect"]
    mirror, memory = a_mirror(assets), Executions(AlpacaSettings())
    reading = Reading(case["account"], tuple(case["positions"]), (), (), Mark(0, NOW, NOW))
    assembled = snapshot.assemble(reading, mirror, assets, memory)
    numbers = {name: decimal(expect["account"][name]) for name in ("leverage", "used_margin")}
    assert assembled.snapshot.account == AccountChanged(**(expect["account"] | numbers))
    rebuild(mirror, assembled.snapshot, (), NOW)
    for key, raw in assembled.prices.items():
        mirror.set_quote(key, raw, raw)

    assert list(mirror.positions) == [row["id"] for row in expect["positions"]]
    value = value_account(mirror)
    for row in expect["positions"]:
        held, instrument = mirror.positions[row["id"]], assets.catalogue.instruments[row["id"]]
        assert (held.side, held.units, held.entry_price) == (row["side"], Decimal(row["units"]), Decimal(row["entry"]))
        assert (instrument.name, instrument.price_digits) == (row["symbol"], row["digits"])
        assert held.cost == decimal(row["cost"])
        assert value.positions[row["id"]].current_price == decimal(row["current"])
        assert value.positions[row["id"]].unrealized_pnl == decimal(row["pnl"])
    assert mirror.balance == Decimal(expect["balance"])
    totals = (value.equity, value.unrealized_pnl, value.used_margin, value.free_margin, value.margin_level)
    assert totals == tuple(decimal(expect[name]) for name in ("equity", "pnl", "used", "free", "level"))


@pytest.mark.parametrize("case", VECTORS["orders"], ids=named)
def test_an_order_document_becomes_the_orders_written_by_hand_when_read(case: dict[str, Any]) -> None:
    assets = described()
    events = orders.order_events(case["document"], assets, {})
    found = [event.order for event in events if isinstance(event, OrderChanged)]
    assert len(found) == len(case["orders"])
    for order, row in zip(found, case["orders"], strict=True):
        assert (order.id, order.side, order.type, order.status) == (row["id"], row["side"], row["type"], row["status"])
        assert assets.catalogue.instruments[order.instrument_id].name == row["symbol"]
        assert (order.units, order.filled_units) == (Decimal(row["units"]), Decimal(row["filled"]))
        assert (order.limit_price, order.stop_price) == (decimal(row["limit"]), decimal(row["stop"]))
        assert (order.created_at_ms, order.updated_at_ms) == (row["created_ms"], row["updated_ms"])
        assert (order.stop_loss, order.take_profit) == (None, None)


@pytest.mark.parametrize("case", VECTORS["fills"], ids=named)
def test_a_fill_moves_position_and_cash_as_worked_by_hand_when_applied(case: dict[str, Any]) -> None:
    assets = Assets()
    asset = case.get("asset") or {"asset_id": AAPL, "symbol": "AAPL", "asset_class": "us_equity"}
    mirror, key = a_mirror(assets), asset["asset_id"]
    mirror.balance = Decimal(case["cash"])
    if case["before"] is not None:
        before = case["before"]
        numbers = (Decimal(before["units"]), Decimal(before["entry"]))
        mirror.positions[key] = Position(key, key, Side(before["side"]), *numbers, cost=Decimal(before["cost"]))
    order = an_order(**asset, side=case["side"], qty=case["qty"], filled_qty=case["qty"], status="filled")
    said = {} if case["held"] is None else {"position_qty": case["held"]}
    data = {"event": "fill", "execution_id": "e1", "timestamp": TIME, "price": case["price"], "qty": case["qty"]}
    facts = updates.facts(updates.read(data | said | {"order": order}), mirror, assets, lambda _: False)
    mirror.apply(facts.execution, NOW)

    assert mirror.balance == Decimal(case["cash_after"])
    if case["after"] is None:
        assert not mirror.positions
    else:
        held, after = mirror.positions[key], case["after"]
        assert (held.side, held.units) == (after["side"], Decimal(after["units"]))
        assert (held.entry_price, held.cost) == (Decimal(after["entry"]), Decimal(after["cost"]))
    (fill,) = facts.fills
    assert (fill.execution_id, fill.order_id, fill.instrument_id, fill.recovered) == ("e1", "o1", key, False)
    assert (fill.side, fill.units, fill.price, fill.at_ms) == (
        case["side"],
        Decimal(case["qty"]),
        Decimal(case["price"]),
        TIME_MS,
    )
    assert facts.read_soon
    assert facts.execution.urgent
