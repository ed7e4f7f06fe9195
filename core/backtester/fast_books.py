"""The books of a fast run: trades in order, balance and equity at every moment, the account at the end.

Checks on the way that no entry could have been refused and no stop-out happened, with bounds on the safe side.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.curve import money, spans
from core.backtester.data.columns import Bools, Floats, Int64s
from core.backtester.equity import equity_of
from core.backtester.fast_money import NotFast, Part, as_floats, decimals, exact_product
from core.backtester.result import BacktestResult
from core.backtester.settings import BacktestSettings
from core.backtester.signals import label_of
from core.backtester.tracks import FAR, Timeline
from core.backtester.trades import trades_of_columns
from core.backtester.valued import account_truth, open_position, position_truth
from core.money import round_money
from core.paper_trader import AccountTruth, PositionTruth

Row = tuple[Part, int]


class Books:
    """Everything that is worked out from the parts of one run."""

    def __init__(self, timeline: Timeline, settings: BacktestSettings, parts: list[Part]) -> None:
        self.timeline = timeline
        self.settings = settings
        self.parts = parts
        self.digits = settings.account.money_digits
        self.count = len(timeline.moments)
        self.start = int(round_money(settings.balance, self.digits).scaleb(self.digits))
        self.ids = self._position_ids()

    def result(self) -> BacktestResult:
        """Trades, curve and final account. Raises NotFast."""
        open_rows = sorted(
            ((part, row) for part in self.parts for row in range(part.closed, len(part.entry))),
            key=lambda each: self.ids[each[0].index][each[1]],
        )
        table = self._trade_columns()
        balance = np.full(self.count + 1, self.start, dtype=np.int64)
        balance[1:] += self._sums(
            [part.leave[: part.closed] for part in self.parts], [_profit(part) for part in self.parts]
        )
        open_profit, exposed = self._open_profit()
        self._check_enough_money(balance)
        equity = balance + open_profit
        stamps = np.concatenate(([self.timeline.start_ms], self.timeline.moments))
        curve = equity_of(stamps, money(equity, self.digits), money(balance, self.digits), exposed)
        final = self._final(int(balance[-1]), open_rows)
        return BacktestResult(trades_of_columns(table), curve, self.settings, final, ())

    def _position_ids(self) -> list[Int64s]:
        """Positions are numbered as their orders are accepted: by time, instrument, signal."""
        lengths = [len(part.entry) for part in self.parts]
        keys = [
            np.concatenate([values(part) for part in self.parts]) if self.parts else np.array([], dtype=np.int64)
            for values in (
                lambda part: np.full(len(part.entry), part.index),
                lambda part: np.full(len(part.entry), part.order),
                lambda part: part.entry_ms,
            )
        ]
        ranks = np.empty(sum(lengths), dtype=np.int64)
        ranks[np.lexsort(keys)] = np.arange(1, sum(lengths) + 1)
        return np.split(ranks, np.cumsum(lengths)[:-1]) if lengths else []

    def _trade_columns(self) -> dict[str, npt.NDArray[Any]]:
        """Columns of `Trades`, in the order of closing."""
        gathered: dict[str, list[npt.NDArray[Any]]] = {}
        for part in self.parts:
            done, units = part.closed, float(part.units)
            value_places = part.track.digits + decimals(part.units)
            whole_units = int(part.units.scaleb(decimals(part.units)))
            exit_places = part.costs.places + decimals(part.units)
            columns: dict[str, npt.NDArray[Any]] = {
                "position_id": self.ids[part.index][:done],
                "instrument_id": np.full(done, part.signal.instrument_id, dtype=object),
                "side": np.full(done, part.sign),
                "units": np.full(done, units),
                "entry_ms": part.entry_ms[:done],
                "exit_ms": part.exit_ms,
                "entry_price": as_floats(part.entry[:done], part.costs.places),
                "exit_price": as_floats(part.exit, part.costs.places),
                "gross_profit": money(part.gross, self.digits),
                "commission": money(_charges(part), self.digits) + 0.0,
                "swap": np.zeros(done),
                "profit": _profit(part),
                "entry_value": as_floats(exact_product(part.entry_bid[:done], whole_units), value_places),
                "exit_value": as_floats(exact_product(part.exit, whole_units), exit_places),
                "order": np.full(done, part.order),
                "signal": np.full(done, part.index),
                "reason": np.full(done, "order", dtype=object),
            }
            if part.at_end:  # the loop closes these last, oldest first
                columns["reason"][-1] = "end"
                columns["order"][-1] = len(self.timeline.tracks)
                columns["signal"][-1] = columns["position_id"][-1]
            for name, column in columns.items():
                gathered.setdefault(name, []).append(column)
        table = {name: np.concatenate(columns) for name, columns in gathered.items()}
        if not table:
            return {}
        sequence = np.lexsort((table.pop("signal"), table.pop("order"), table["exit_ms"]))
        table = {name: column[sequence] for name, column in table.items()}
        table["balance"] = money(self.start + np.cumsum(table["profit"]), self.digits)
        table["profit"] = money(table["profit"], self.digits)
        return table

    def _open_profit(self) -> tuple[Int64s, Bools]:
        """Net profit of what is open at each moment, and whether anything is; row 0 is the start."""
        profit = np.zeros(self.count + 1, dtype=np.int64)
        exposed = np.zeros(self.count + 1, dtype=np.bool_)
        for part in self.parts:
            at, owner = spans(part.enter, part.leave)
            column = part.track.bid if part.sign > 0 else part.track.ask
            prices = column[part.track.steps_at[at] - 1] * 10 ** (part.costs.places - part.track.digits)
            profit[at + 1] += part.costs.results(part.sign * (prices - part.entry[owner]), -part.opening[owner])
            exposed[at + 1] = True
        return profit, exposed

    def _check_enough_money(self, balance: Int64s) -> None:
        """Raises NotFast where the worst price of any bar could bring a refusal or a stop-out near."""
        scale = 10.0**self.digits
        worst: Floats = balance[:-1] / scale
        used: Floats = np.zeros(self.count)
        for part in self.parts:
            units, point = float(part.units), 10.0**-part.track.digits
            low, _, _, high = part.track.slot_bounds()
            at, owner = spans(part.enter, np.minimum(part.leave + 1, self.count))
            column, bound = (part.track.bid, low) if part.sign > 0 else (part.track.ask, high)
            reached = np.where(np.abs(bound[at]) >= FAR, column[part.track.steps_at[at] - 1], bound[at])
            price = reached * point
            entry = part.entry / 10.0**part.costs.places
            worst[at] += part.sign * (price - entry[owner]) * units - part.opening[owner] / scale
            margins = np.array([float(each) for each in self._margins(part)]) if len(part.entry) else np.zeros(0)
            used[at] += margins[owner]
            np.add.at(worst, part.leave[: part.closed], np.minimum(_profit(part), 0) / scale)
        level = float(self.settings.account.stop_out_level) / 100
        near = (used > 0) & ((worst <= used * level * 1.0001 + 0.01) | (worst <= used + 0.01))
        if near.any():
            raise NotFast("money is short")

    def _margins(self, part: Part) -> Floats:
        """Used margin of each trade, a little more than the engine's."""
        listing, account = self.settings.listing(part.signal.instrument_id), self.settings.account
        value = part.entry_bid * 10.0**-part.track.digits * float(part.units)
        if listing.margin_fraction is not None:
            return np.asarray(value * float(listing.margin_fraction) + 0.01)
        return np.asarray(value / float(min(account.leverage, listing.max_leverage or account.leverage)) + 0.01)

    def _sums(self, moments: list[Int64s], amounts: list[Int64s]) -> Int64s:
        """Running sum over the moments of amounts that fall at some of them."""
        steps = np.zeros(self.count, dtype=np.int64)
        for at, amount in zip(moments, amounts, strict=True):
            np.add.at(steps, at, amount)
        return np.cumsum(steps)

    def _final(self, balance: int, open_rows: list[Row]) -> AccountTruth:
        positions = [self._truth(part, row) for part, row in open_rows]
        closed = sum(part.closed for part in self.parts)
        return account_truth(self.settings, Decimal(balance).scaleb(-self.digits), closed, positions)

    def _truth(self, part: Part, row: int) -> PositionTruth:
        """A position still open, valued at the last prices."""
        digits = part.track.digits
        position = open_position(
            self.settings,
            self.settings.listing(part.signal.instrument_id),
            position_id=int(self.ids[part.index][row]),
            side=part.signal.side,
            units=part.units,
            opened_ms=int(part.entry_ms[row]),
            entry=Decimal(int(part.entry[row])).scaleb(-part.costs.places),
            commission=-Decimal(int(part.opening[row])).scaleb(-self.digits),
            bid=Decimal(int(part.entry_bid[row])).scaleb(-digits),
            labels=(label_of(part.index), None),
        )
        last = int(part.track.steps_at[-1]) - 1
        price = (part.track.bid if part.sign > 0 else part.track.ask)[last]
        return position_truth(self.settings, position, Decimal(int(price)).scaleb(-digits))


def _charges(part: Part) -> Int64s:
    return -(part.opening[: part.closed] + part.closing)


def _profit(part: Part) -> Int64s:
    return part.gross + _charges(part)
