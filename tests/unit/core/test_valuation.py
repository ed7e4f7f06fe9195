"""Valuation against vectors worked by hand (tests/fixtures/valuation_vectors.json)."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.account import AccountMirror, Quote
from core.instruments import Catalogue, Hop, Instrument
from core.orders import Side
from core.positions import Position
from core.valuation import needed_quotes, value_account

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures" / "valuation_vectors.json").read_text())


def decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def build(case: dict[str, Any]) -> AccountMirror:
    catalogue = Catalogue()
    for key, row in VECTORS["instruments"].items():
        catalogue.instruments[key] = Instrument(key, row["name"], row["digits"], row["base"], row["quote"])
    for pair, hops in case["chains"].items():
        start, end = pair.split(">")
        catalogue.chains[(start, end)] = tuple(Hop(key, inverse) for key, inverse in hops)
    mirror = AccountMirror("demo", "1", catalogue, currency=case["currency"], money_digits=case["digits"])
    mirror.balance = Decimal(case["balance"])
    for row in case["positions"]:
        mirror.positions[row["id"]] = Position(
            row["id"],
            row["instrument"],
            Side(row["side"]),
            Decimal(row["units"]),
            Decimal(row["entry"]),
            swap=Decimal(row["swap"]),
            commission=Decimal(row["commission"]),
            used_margin=decimal(row["margin"]),
        )
    mirror.quotes = {key: Quote(*sides) for key, sides in case["quotes"].items()}
    return mirror


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"].split(":")[0])
def test_values_equal_the_hand_worked_ones_when_valued(case: dict[str, Any]) -> None:
    value = value_account(build(case))
    assert [value.positions[row["id"]].unrealized_pnl for row in case["positions"]] == [decimal(x) for x in case["pnl"]]
    assert value.unrealized_pnl == decimal(case["total"])
    assert value.equity == decimal(case["equity"])
    assert value.used_margin == decimal(case["used"])
    assert value.free_margin == decimal(case["free"])
    assert value.margin_level == decimal(case["level"])


def test_quotes_needed_are_the_held_instruments_and_their_chains_when_asked() -> None:
    assert needed_quotes(build(VECTORS["cases"][3])) == {"3", "4", "2"}
    assert needed_quotes(build(VECTORS["cases"][4])) == {"1", "5", "6"}
