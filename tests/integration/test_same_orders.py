"""One list of 1,000 random orders through the backtester, a paper account and the simulated cTrader: all the same."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import numpy as np
import pytest

from core.backtester.trades import Trades
from core.orders import OrderType, TimeInForce
from core.paper_account import Amend, Cancel, Close, Protect, Trade
from core.paper_trader import OrderRequest
from tests.support.order_list import OrderList, make_list
from tests.support.order_places import PaperPlace, backtested
from tests.support.order_records import Outcome
from tests.support.order_simulator import simulator_place

REQUESTS = 1_000
# Account and user of the simulator, and the deposit; the last account is so poor that it is stopped out.
USD, EUR_SIMEX = (1_000_011, 1, 100_000), (1_000_021, 2, 100_000)
JPY_NETTED, JPY_POOR = (1_000_022, 2, 30_000), (1_000_031, 3, 6_000)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "account"), [(1, USD), (2, EUR_SIMEX), (3, JPY_NETTED), (4, JPY_POOR)])
async def test_a_thousand_orders_are_filled_the_same_in_all_three_places(
    seed: int, account: tuple[int, int, int]
) -> None:
    async with simulator_place(*account) as place:
        terms = place.terms()
        orders = make_list(seed, terms, place.starts(), PaperPlace(terms), REQUESTS)
        check_list(orders)
        simulated = await place.go_through(orders)
    paper = PaperPlace(terms)
    papered = paper.go_through(orders)
    tested, result = backtested(orders)

    same(papered, simulated)
    same(papered, tested)
    check_variety(papered, stopped_out=account is JPY_POOR)
    same_trades(paper.account.trades(), result.trades)
    last = papered.checks[len(orders.moments) - 1]
    assert (result.final.balance, result.final.equity, result.final.used_margin) == (
        last.balance,
        last.equity,
        last.used_margin,
    )


def same(first: Outcome, second: Outcome) -> None:
    """Every deal with its money, every swap, every refusal, and the account at every checkpoint."""
    for number, (one, other) in enumerate(zip(first.fills, second.fills, strict=False)):
        assert one == other, f"deal {number}"
    assert len(first.fills) == len(second.fills)
    assert first.swaps == second.swaps
    assert first.calls == second.calls
    assert Counter(first.refusals) == Counter(second.refusals)
    assert list(first.checks) == list(second.checks)
    for moment, check in first.checks.items():
        assert check == second.checks[moment], f"moment {moment}"
    assert first.counts == second.counts


def check_list(orders: OrderList) -> None:
    """A thousand requests of every kind."""
    asked = [each.request for moment in orders.moments for each in moment.asked]
    assert len(asked) == REQUESTS
    kinds = Counter(type(each) for each in asked)
    assert min(kinds[kind] for kind in (OrderRequest, Amend, Cancel, Close, Protect)) >= 30, kinds
    types = Counter(each.type for each in asked if isinstance(each, OrderRequest))
    assert min(types[kind] for kind in OrderType if kind is not OrderType.TRAILING_STOP) >= 20, types
    assert {each.time_in_force for each in asked if isinstance(each, OrderRequest)} >= {
        TimeInForce.GTD,
        TimeInForce.IOC,
        TimeInForce.FOK,
    }
    assert len({each.instrument.quote_asset for each in orders.terms.listings}) >= 5


def check_variety(outcome: Outcome, *, stopped_out: bool) -> None:
    """Much happened, and of every kind."""
    by = Counter("order" if each.by.startswith("r") else each.by for each in outcome.fills)
    assert by["order"] >= 150, by
    assert not stopped_out or (by["stop out"] and outcome.calls), by
    assert min(by["close"], by["protection"]) >= 20, by
    held = [row for check in outcome.checks.values() for row in check.positions]
    closings = [each.close for each in outcome.fills if each.close is not None]
    assert any(each.swap for each in closings)
    assert any(each.commission for each in closings)
    assert any(row.swap for row in held)
    assert len({row.instrument_id for row in held}) >= 8
    assert len(outcome.refusals) >= 20
    assert outcome.counts["expired"]
    assert sum(1 for check in outcome.checks.values() if check.used_margin) >= 20
    assert len({each.position for each in outcome.fills if each.close is not None}) < len(closings), "parts were closed"


def same_trades(ours: tuple[Trade, ...], theirs: Trades) -> None:
    """The table of a backtest tells the same round trips, as floats."""
    columns = {
        "side": [1 if each.side == "buy" else -1 for each in ours],
        "instrument_id": [each.instrument_id for each in ours],
        "units": [each.units for each in ours],
        "entry_ms": [each.entry_at_ms for each in ours],
        "exit_ms": [each.exit_at_ms for each in ours],
        "entry_price": [each.entry_price for each in ours],
        "exit_price": [each.exit_price for each in ours],
        "gross_profit": [each.gross for each in ours],
        "commission": [each.commission for each in ours],
        "swap": [each.swap for each in ours],
        "profit": [each.net for each in ours],
        "balance": [each.balance for each in ours],
        "reason": [each.reason.value for each in ours],
    }
    for name, column in columns.items():
        wanted = [float(each) if isinstance(each, Decimal) else each for each in column]
        assert np.asarray(theirs.columns()[name]).tolist() == wanted, name
