"""The engine against cases worked by hand (tests/fixtures/paper_vectors.json)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.paper_trader import AccountType, Commission, CommissionKind, Position, Swap, SwapKind
from tests.unit.paper_trader.bench import Bench, dec, listing

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "paper_vectors.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_engine_gives_the_hand_worked_numbers(case: dict[str, Any]) -> None:
    bench = Bench(*(_listing(*item) for item in case["listings"].items()), deposit=0, **_account(case["account"]))
    for number, step in enumerate(case["steps"]):
        _run(bench, dict(step), f"step {number} of {case['name']}")


def _run(bench: Bench, step: dict[str, Any], where: str) -> None:
    action = step.pop("do")
    if "position" in step:
        step["position_id"] = bench.engine.positions("a")[step.pop("position")].id
    match action:
        case "expect":
            _expect(bench, step, where)
        case "place":
            bench.place(step.pop("side"), step.pop("type"), step.pop("units"), **step)
        case _:
            getattr(bench, action)(**step)


def _expect(bench: Bench, wanted: dict[str, Any], where: str) -> None:
    truth = bench.truth()
    if "events" in wanted:
        counts = Counter(type(event).__name__ for event in bench.trace)
        assert {kind: counts[kind] for kind in wanted["events"]} == wanted.pop("events"), where
    if "positions" in wanted:
        rows = wanted.pop("positions")
        assert len(truth.positions) == len(rows), where
        for row, seen in zip(rows, truth.positions, strict=True):
            for name, value in row.items():
                owner = seen.position if name in Position.__dataclass_fields__ else seen
                assert _text(getattr(owner, name)) == _text(value), f"{where}: {name}"
    for name, value in wanted.items():
        assert _text(getattr(truth, name)) == _text(value), f"{where}: {name}"


def _text(value: object) -> str | None:
    """Numbers by value, and money also by its digits: 3.5 and 3.50 are told apart only by the comparison of value."""
    if value is None:
        return None
    try:
        return str(dec(value).normalize())
    except ArithmeticError:
        return str(value)


def _listing(name: str, terms: dict[str, Any]) -> Any:
    extra: dict[str, Any] = {}
    if "commission" in terms:
        given = terms["commission"]
        extra["commission"] = Commission(
            CommissionKind(given["kind"]), dec(given["rate"]), dec(given.get("minimum", 0)), given.get("minimum_asset")
        )
    if "swap" in terms:
        given = terms["swap"]
        extra["swap"] = Swap(SwapKind(given["kind"]), dec(given["long"]), dec(given["short"]))
    return listing(name, **extra)


def _account(terms: dict[str, Any]) -> dict[str, Any]:
    plain = dict(terms)
    for name in ("leverage", "stop_out_level"):
        if name in plain:
            plain[name] = dec(plain[name])
    if "margin_call_levels" in plain:
        plain["margin_call_levels"] = tuple(dec(level) for level in plain["margin_call_levels"])
    if "type" in plain:
        plain["type"] = AccountType(plain["type"])
    return plain
