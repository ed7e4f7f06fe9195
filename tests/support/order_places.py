"""Two of the places an order list goes through: a paper account, and a backtest by its real strategy protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from core.backtester.data.ticks import Ticks, ticks_of
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.result import BacktestResult
from core.backtester.settings import BacktestSettings
from core.backtester.strategy import Now, Preparing
from core.paper_account import Amend, Cancel, Close, PaperAccount, PaperTerms, Protect, Refused
from core.paper_trader import EngineSettings, Operation, OrderRequest
from tests.support.order_list import Look, OrderList, Quote, Send, Terms
from tests.support.order_records import Check, Outcome, order_row

OPERATIONS = {
    OrderRequest: Operation.PLACE,
    Amend: Operation.AMEND,
    Cancel: Operation.CANCEL,
    Close: Operation.CLOSE,
    Protect: Operation.PROTECT,
}


class PaperPlace:
    """A paper account by its public interface. Its ids begin elsewhere, so that none is taken for another's."""

    def __init__(self, terms: Terms) -> None:
        engine = EngineSettings(first_order_id=500, first_position_id=7_000, first_deal_id=90_000, history_limit=10_000)
        self.account = PaperAccount(
            PaperTerms(account_id="paper", listings=terms.listings, account=terms.account, engine=engine),
            terms.start_ms,
        )
        self.account.move_cash(terms.balance, terms.start_ms)
        self.outcome = Outcome()
        self.names = self.outcome.names

    def go_through(self, orders: OrderList) -> Outcome:
        for step in orders.steps():
            match step:
                case Quote():
                    self.quote(step)
                case Send():
                    self.send(step)
                case Look():
                    self.outcome.checks[step.moment] = self.check()
        return self.outcome

    def quote(self, step: Quote) -> None:
        for event in self.account.quote([step.price], step.at_ms):
            self.outcome.take(event)

    def send(self, step: Send) -> None:
        asked = step.asked
        try:
            events = self.account.apply([asked.numbered(self.names)], step.at_ms)
        except Refused as refused:
            operation = OPERATIONS[type(asked.request)].value
            self.outcome.refusals.append((operation, refused.rule, asked.refusal_about))
            return
        for event in events:
            self.outcome.take(event)

    def check(self) -> Check:
        value, held = self.account.valuation(), {each.id: each for each in self.account.positions()}
        version = self.account.state().engine.accounts[0].balance_version
        return Check(
            value.balance,
            version,
            value.equity,
            value.used_margin,
            value.free_margin,
            value.margin_level,
            tuple(self.outcome.held(held[each.position_id], each.gross, each.net) for each in value.positions),
            tuple(map(order_row, self.account.orders())),
        )


@dataclass
class Sender:
    """A strategy that sends the requests of an order list at the moments they were decided at."""

    orders: OrderList
    outcome: Outcome = field(default_factory=Outcome)

    def prepare(self, market: Preparing) -> None:
        assert market.instruments() == tuple(each.instrument.id for each in self.orders.terms.listings)

    def on_bar(self, now: Now, orders: Orders) -> None:
        moment = self.orders.moments[now.moment]
        assert now.time_ms == moment.at_ms
        for event in now.events:
            self.outcome.take(event)
        if moment.checked:
            self.outcome.checks[now.moment] = self._check(now)
        held = {each.id: each for each in now.positions}
        for asked in moment.asked:
            match asked.numbered(self.outcome.names):
                case OrderRequest() as request:
                    orders.place(request)
                case Amend(order_id=order_id, changes=changes):
                    orders.amend(order_id, changes)
                case Cancel(order_id=order_id):
                    orders.cancel(order_id)
                case Close(position_id=position_id, units=units):
                    orders.close(held[position_id], units)
                case Protect(position_id=position_id) as request:
                    orders.protect(
                        held[position_id],
                        stop_loss=request.stop_loss,
                        take_profit=request.take_profit,
                        trailing=request.trailing,
                    )

    def _check(self, now: Now) -> Check:
        truth = now.account
        return Check(
            truth.balance,
            truth.balance_version,
            truth.equity,
            truth.used_margin,
            truth.free_margin,
            truth.margin_level,
            tuple(self.outcome.held(each.position, each.gross_pnl, each.unrealized_pnl) for each in truth.positions),
            tuple(map(order_row, truth.orders)),
        )


def backtested(orders: OrderList) -> tuple[Outcome, BacktestResult]:
    """The list through the backtester, with ticks."""
    terms = orders.terms
    settings = BacktestSettings(listings=terms.listings, account=terms.account, balance=terms.balance)
    sender = Sender(orders)
    result = run(sender, ticks_for(orders), settings)
    return sender.outcome, result


def ticks_for(orders: OrderList) -> Mapping[str, Ticks]:
    rows: dict[str, list[tuple[int, Decimal, Decimal]]] = {each.instrument.id: [] for each in orders.terms.listings}
    for moment in orders.moments:
        for price in moment.prices:
            rows[price.instrument_id].append((moment.at_ms, price.bid, price.ask))
    return {
        name: ticks_of(name, [row[0] for row in each], [float(row[1]) for row in each], [float(row[2]) for row in each])
        for name, each in rows.items()
    }
