"""`python -m core greeks`: one option or a chain; a number that is not known has its reason."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from core.errors import InvalidInput
from core.greeks import NoVolatility, greeks, implied_volatility, price
from core.greeks.sample import sample_chain
from tests.unit.library.cli.support import Commands

ONE = ["greeks", "--kind", "call", "--spot", 100, "--strike", 105, "--years", 0.5, "--rate", 0.03, "--yield", 0.01]
GREEKS = ("price", "delta", "gamma", "vega", "theta", "rho", "vanna", "volga", "charm", "speed", "colour")


def test_one_option_has_the_librarys_figures(command: Commands) -> None:
    (row,) = command.json(*ONE, "--volatility", 0.2)["contracts"]
    found = greeks("call", 100, 105, 0.5, 0.03, 0.2, 0.01)
    assert {name: row[name] for name in GREEKS} == {name: getattr(found, name) for name in GREEKS}
    assert (row["volatility"], row["reason"]) == (0.2, "")
    told = command(*ONE, "--volatility", 0.2)
    assert told.out.startswith("call, strike 105, 0.5 years\n===")
    assert f"  Delta                  {found.delta:.10g}\n" in told.out


def test_an_implied_volatility_is_found_and_used(command: Commands) -> None:
    asked = price("put", 100, 105, 0.5, 0.03, 0.3, 0.01)
    (row,) = command.json(*ONE, "--price", asked, "--kind", "put")["contracts"]
    assert row["volatility"] == pytest.approx(0.3, abs=1e-12)
    assert row["price"] == asked
    assert row["delta"] == pytest.approx(greeks("put", 100, 105, 0.5, 0.03, 0.3, 0.01).delta, rel=1e-9)


@pytest.mark.parametrize(
    ("asked", "years", "why"),
    [(2.0, 0, "expired"), (-1, 0.5, "below the intrinsic value"), (200, 0.5, "at or above what any volatility gives")],
)
def test_a_price_without_a_volatility_says_why(command: Commands, asked: float, years: float, why: str) -> None:
    argv = [*ONE, "--price", asked, "--years", years]
    (row,) = command.json(*argv)["contracts"]
    assert why in row["reason"]
    assert row["volatility"] is None
    assert row["price"] == asked
    assert row["delta"] is None
    told = command(*argv)
    assert told.code == 0
    assert f"  Reason                 {row['reason']}\n" in told.out
    assert "  Volatility             –\n" in told.out
    assert "nan" not in told.out


def test_a_figure_without_a_finite_value_says_so(command: Commands) -> None:
    argv = ["greeks", "--kind", "call", "--spot", 100, "--strike", 100, "--years", 0, "--volatility", 0.2]
    (row,) = command.json(*argv)["contracts"]
    assert (row["delta"], row["gamma"]) == (0.5, None)
    assert row["reason"].startswith("not finite: gamma, theta")


def test_dividends_lower_a_call(command: Commands) -> None:
    (without,) = command.json(*ONE, "--volatility", 0.2)["contracts"]
    (paid,) = command.json(*ONE, "--volatility", 0.2, "--dividend", "0.25:2", "--dividend", "0.1:1")["contracts"]
    assert paid["price"] < without["price"] - 0.5


def test_a_chain_has_a_row_for_every_contract_and_a_reason_where_there_is_no_volatility(
    command: Commands, files: Path
) -> None:
    argv = ["greeks", "--chain", files / "options.csv", "--spot", 100, "--rate", 0.03, "--yield", 0.01]
    rows = command.json(*argv)["contracts"]
    sample = sample_chain()
    found = implied_volatility(sample.kind, sample.price, 100.0, sample.strike, sample.years, 0.03, 0.01)
    assert [row["volatility"] for row in rows] == [
        None if math.isnan(each) else each for each in np.asarray(found.volatility).tolist()
    ]
    assert 0 < sum(row["volatility"] is None for row in rows) < 12
    assert all(bool(row["reason"]) == (row["volatility"] is None) for row in rows)
    assert rows == command.json("greeks", "--sample")["contracts"]
    told = command(*argv, "--export", files / "greeks.csv")
    assert len(told.out.splitlines()) == len(rows) + 1
    assert "nan" not in told.out
    read = list(csv.DictReader((files / "greeks.csv").read_text().splitlines()))
    assert [each["delta"] for each in read] == ["" if row["delta"] is None else repr(row["delta"]) for row in rows]


def test_a_chain_may_bring_volatilities_and_share_its_years(command: Commands, tmp_path: Path) -> None:
    (tmp_path / "chain.csv").write_text("Strike,Kind,Volatility\n90,CALL,0.2\n110,put,0.3\n")
    rows = command.json("greeks", "--chain", tmp_path / "chain.csv", "--spot", 100, "--years", 0.25)["contracts"]
    assert [row["price"] for row in rows] == [
        price("call", 100, 90, 0.25, 0, 0.2), price("put", 100, 110, 0.25, 0, 0.3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["greeks"], "--kind is missing"),
        (["greeks", "--kind", "call", "--spot", 1, "--years", 1], "--strike is missing"),
        (ONE, "give either --volatility or --price"),
        ([*ONE, "--volatility", 0.2, "--price", 3], "give either --volatility or --price"),
        ([*ONE, "--volatility", "-0.2"], "volatility in row 0 must be finite and not below 0"),
        ([*ONE, "--volatility", "0.2", "--strike", 0], "strike in row 0 must be finite and above 0, not 0.0"),
        ([*ONE, "--volatility", "0.2", "--spot", -5], "spot must be finite and above 0, not -5.0"),
        ([*ONE, "--volatility", "0.2", "--years", -1], "years in row 0"),
        ([*ONE, "--volatility", "inf"], "argument --volatility: must be a number, not 'inf'"),
        ([*ONE, "--volatility", "0.2", "--dividend", "3"], "--dividend: must be YEARS:AMOUNT, two numbers, not '3'"),
        ([*ONE, "--volatility", "0.2", "--dividend", "1:-3"], "dividends.amounts in row 0"),
        ([*ONE, "--kind", "straddle"], "argument --kind: invalid choice: 'straddle'"),
        (["greeks", "--sample", "--spot", 90], "--spot is not for this chain"),
        (["greeks", "--chain", "x.csv", "--spot", 100, "--strike", 3], "--strike is not for this chain"),
        (["greeks", "--chain", "x.csv"], "--spot is missing"),
        (["greeks", "--chain", "x.csv", "--spot", 100], "--chain: cannot read x.csv"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(command: Commands, arguments: list[str], words: str) -> None:
    assert words in command.refused(*arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind,strike,years\ncall,90,1\n", "volatility: must be in the header, or price, not both (rule header)"),
        ("kind,strike,years,price,volatility\ncall,90,1,1,1\n", "volatility: must be in the header, or price"),
        ("kind,strike,price\ncall,90,1\n", "years: must be in the header, or --years given (rule header)"),
        ("kind,strike,years,price\n", "strike: has no contract (rule present)"),
        ("kind,strike,years,price\ncall,90,1,11\ncallput,90,1,11\n", "kind in row 1 must be 'call'"),
        ("kind,strike,years,price\ncall,90,1,11\ncall,-90,1,11\n", "strike in row 1 must be finite and above 0"),
        ("kind,strike,years,price\ncall,90,1,11\ncall,90,1,much\n", "price, row 1: 'much' is not a number"),
        ("kind,strike,years,price\ncall,90,1,nan\n", "price in row 0 must be a finite number, not nan"),
        ("kind,strike,years,volatility\ncall,90,-1,0.2\n", "years in row 0"),
    ],
)
def test_a_bad_chain_names_file_field_and_row(command: Commands, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "chain.csv"
    path.write_text(text)
    line = command.refused("greeks", "--chain", path, "--spot", 100)
    assert str(path) in line
    assert words in line


def test_every_reason_has_its_words() -> None:
    from core.cli.greeks import WHY

    assert set(WHY) == set(NoVolatility) - {NoVolatility.NONE}


def test_a_sample_chain_is_refused_when_it_has_no_strikes() -> None:
    with pytest.raises(InvalidInput, match="at least 2 strikes"):
        sample_chain(1)
