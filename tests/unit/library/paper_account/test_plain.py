"""Plain data: what it looks like, and what it is refused for."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest

from core.paper_account import PaperAccount, Price, Refused, from_plain, to_plain
from core.paper_trader import KEEP, OrderChanges
from tests.unit.library.paper_account.support import START_MS, again, buy, limit, paper, restored

NOW = START_MS + 1_000


def stored() -> dict[str, Any]:
    account = paper()
    account.apply([buy(), limit("1.05")], NOW)
    plain: dict[str, Any] = json.loads(json.dumps(account.to_plain()))
    return plain


def test_a_price_is_an_object_of_texts() -> None:
    plain = to_plain(Price("EURUSD", Decimal("1.10000"), Decimal("1.1")))
    assert plain == {"document": "Price", "version": 1, "instrument_id": "EURUSD", "bid": "1.10000", "ask": "1.1"}


@pytest.mark.parametrize("number", ["0", "-0.00", "1E+3", "1e-30", "123456789012345678901234567890.123456789"])
def test_every_digit_of_a_number_comes_back(number: str) -> None:
    value = again(Price("x", Decimal(number), Decimal(1)))
    assert repr(value.bid) == repr(Decimal(number))


def test_what_an_amendment_leaves_alone_removes_and_sets_stay_apart() -> None:
    changes = again(OrderChanges(units=Decimal(5), stop_loss=None, trailing_stop_loss=True))
    assert changes == OrderChanges(units=Decimal(5), stop_loss=None, trailing_stop_loss=True)
    assert changes.take_profit is KEEP
    assert again(OrderChanges()) == OrderChanges()


def test_a_state_reads_as_accounts_orders_positions_and_trades() -> None:
    plain = stored()
    assert (plain["document"], plain["version"], plain["account_id"]) == ("PaperState", 1, "hedged-usd")
    (account,) = plain["engine"]["accounts"]
    assert account["balance"] == "3000.00"
    assert account["holdings"][0]["position"]["entry_price"] == "1.10002"
    assert account["working"][0]["limit_price"] == "1.05"
    assert plain["figures"]["cash"] == "3000.00"
    assert plain["random"] is None


def test_the_generator_is_stored_only_when_it_was_used() -> None:
    account = paper(chance=0.5)
    assert account.to_plain()["random"] is None
    account.apply([buy(50_000)], NOW)
    assert len(account.to_plain()["random"]) == 625
    twin = restored(account)
    for turn in range(20):
        assert twin.apply([buy(5_000)], NOW + turn) == account.apply([buy(5_000)], NOW + turn)


def at(plain: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The container and the key at the end of a dotted path."""
    *way, last = (int(each) if each.isdigit() else each for each in path.split("."))
    for step in way:
        plain = plain[step]
    return plain, last


@pytest.mark.parametrize(
    ("path", "value", "rule", "row"),
    [
        ("document", "Trade", "document", None),
        ("version", 2, "version", None),
        ("version", True, "version", None),
        ("engine", [], "kind", None),
        ("engine.now_ms", "5", "kind", None),
        ("engine.now_ms", True, "kind", None),
        ("engine.accounts.0.balance", 3000.0, "decimal", 0),
        ("engine.accounts.0.balance", "NaN", "decimal", 0),
        ("engine.accounts.0.balance", " 3000.00", "decimal", 0),
        ("engine.accounts.0.balance", "money", "decimal", 0),
        ("engine.accounts.0.working.0.side", "up", "choice", 0),
        ("engine.accounts.0.working.0.side", ["buy"], "choice", 0),
        ("engine.accounts.0.working", {}, "kind", 0),
        ("engine.markets.0.books.2.is_open", 1, "kind", 2),
        ("engine.markets.0.books.0.holders.0", [50], "length", 0),
        ("engine.markets.0.settings.partial_fill_chance", float("nan"), "number", 0),
        ("engine.accounts.0.holdings.0.position", None, "kind", 0),
        ("figures.cash", "3000.01", "sum", None),
        ("engine.accounts.0.market_id", "elsewhere", "whole", None),
        ("engine.accounts.0.id", "somebody", "whole", None),
        ("engine.markets.0.books.0.armed.0.owner_id", 7, "whole", None),
        ("random", [1, 2, 3], "whole", None),
        ("random", [-1] * 625, "whole", None),
    ],
)
def test_a_document_is_refused_when_a_field_is_wrong(path: str, value: Any, rule: str, row: int | None) -> None:
    plain = stored()
    container, key = at(plain, path)
    container[key] = value
    with pytest.raises(Refused) as caught:
        PaperAccount.from_plain(plain)
    assert (caught.value.rule, caught.value.row) == (rule, row)
    if rule not in ("whole", "sum"):
        assert caught.value.field == path


def test_a_document_is_refused_when_a_field_is_missing_or_unknown() -> None:
    plain = stored()
    every: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, value in items:
            if isinstance(part, dict):
                every.append((part, key))
            walk(value)

    walk(plain)
    for part, key in every:
        kept = part.pop(key)
        with pytest.raises(Refused):
            PaperAccount.from_plain(plain)
        part[key] = kept
    for _, key in {id(part): (part, key) for part, key in every}.values():
        other = copy.deepcopy(plain)
        other[f"{key}!"] = 1
        with pytest.raises(Refused, match="unknown"):
            PaperAccount.from_plain(other)
    assert PaperAccount.from_plain(plain).to_plain() == plain


@pytest.mark.parametrize("data", [None, [], "x", 5, {}])
def test_what_is_no_document_is_refused(data: Any) -> None:
    with pytest.raises(Refused):
        from_plain(Price, data)


@pytest.mark.parametrize("value", [5, "x", None, Price, {"a": 1}])
def test_what_is_no_value_cannot_be_written(value: Any) -> None:
    with pytest.raises(TypeError):
        to_plain(value)
