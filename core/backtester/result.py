"""What a backtest gives back: trades, equity and the account at the end, with the settings they came from."""

from __future__ import annotations

from dataclasses import dataclass

from core.backtester.drawdowns import Drawdowns, drawdowns_of
from core.backtester.equity import Equity
from core.backtester.metrics import CALENDAR_DAYS, Metrics, Sampling, metrics_of
from core.backtester.settings import BacktestSettings
from core.backtester.trades import Trades
from core.paper_trader import AccountTruth, RequestRejected


@dataclass(frozen=True, slots=True, eq=False)
class BacktestResult:
    """What a run gave. `final`: the account at the last prices; `refusals`: requests the broker refused."""

    trades: Trades
    equity: Equity
    settings: BacktestSettings
    final: AccountTruth
    refusals: tuple[RequestRejected, ...]

    def metrics(self, sampling: Sampling = CALENDAR_DAYS) -> Metrics:
        """The figures of the run, by formulas that `core.backtester.metrics` states."""
        return metrics_of(self.equity, self.trades, sampling)

    def drawdowns(self) -> Drawdowns:
        """Every period below the highest equity so far."""
        return drawdowns_of(self.equity)
