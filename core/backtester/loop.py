"""The event loop: moment by moment, prices through the engine, rows revealed, the strategy asked, its wishes sent.

A moment whose prices touch no level of the engine costs no more than a comparison. `exhaustive` quotes every point of
every bar instead; it is slow and gives the same results.
Invariant: at every decision the desk's present prices are those of the last step before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.backtester.carrying import Carrier
from core.backtester.certain import Certain, Dealt, certain_of
from core.backtester.curve import Valuer, equity_curve
from core.backtester.data.ticks import Ticks
from core.backtester.desk import Desk, desk_of
from core.backtester.evaluate import Evaluator
from core.backtester.fast_money import NotFast
from core.backtester.lanes import lane_of
from core.backtester.ledger import Ledger
from core.backtester.orders import Orders
from core.backtester.result import BacktestResult
from core.backtester.revealing import Revealer, Stream, columns_of
from core.backtester.settings import ACCOUNT, MARKET, BacktestSettings, check_settings
from core.backtester.strategy import Now, Strategy
from core.backtester.terms import check_account, check_chain, check_listing
from core.backtester.tracks import FAR, Data, Timeline, timeline_of
from core.backtester.walking import due, jump, visit_every_point, walk
from core.paper_trader import AccountType

Progress = Callable[[int, int], None]
REPORT_EVERY = 4096
MOST_CERTAIN_POINTS = 10**15  # beyond it the engine rounds rates


def run(
    strategy: Strategy,
    data: Mapping[str, Data],
    settings: BacktestSettings,
    *,
    progress: Progress | None = None,
    exhaustive: bool = False,
) -> BacktestResult:
    """Run a strategy over bars or ticks of every listed instrument.

    `progress(done, total)` is called now and then with moments. Raises BadData and InvalidInput for bad data, settings
    or orders; a strategy's own exceptions pass through. Nothing is kept between runs.
    """
    check_settings(settings, data)
    return _Run(strategy, timeline_of(data, settings), settings, exhaustive=exhaustive).finish(progress)


class _Run:
    def __init__(self, strategy: Strategy, timeline: Timeline, settings: BacktestSettings, *, exhaustive: bool) -> None:
        self.strategy = strategy
        self.timeline = timeline
        self.settings = settings
        self.exhaustive = exhaustive
        self.desk: Desk = desk_of(
            settings, [(each.instrument_id, each.digits) for each in timeline.tracks], timeline.start_ms
        )
        self.lanes = [lane_of(*each) for each in zip(timeline.tracks, self.desk.quoted, strict=True)]
        self.carrier = Carrier(self.desk)
        self.ledger = Ledger()
        preparing = columns_of(timeline)
        strategy.prepare(preparing)
        self.revealer = Revealer(timeline, Evaluator(timeline), preparing.watched)
        self.now = Now(self.desk, self.revealer.revealed)
        self.certain: Certain | None = None
        self.orders = Orders({each.instrument_id: each.digits for each in timeline.tracks})

    def finish(self, progress: Progress | None) -> BacktestResult:
        """All moments, then the end."""
        moments: list[int] = self.timeline.moments.tolist()
        total = len(moments)
        self._note(0)
        stream = None if self.exhaustive or len(self.lanes) > 1 else self.revealer.only_stream()
        if stream is None:
            self._all(moments, progress)
        else:
            self._all_of_one(moments, stream, progress)
        self._end(total)
        if progress is not None:
            progress(total, total)
        return self._result()

    def _all(self, moments: list[int], progress: Progress | None) -> None:
        start, own, waiting = self.revealer.start, self.revealer.own, self.carrier.waiting
        quiet_until = 0
        for lane in self.lanes:
            lane.prepare_rest()
        for moment, at_ms in enumerate(moments):
            if moment >= quiet_until and not waiting:
                quiet_until = self._quiet_until(moment)
            if moment < quiet_until and not waiting:
                for lane in self.lanes:
                    lane.rest(moment)
            else:
                self._move(moment, at_ms)
                quiet_until = moment + 1
            self.revealer.reveal(moment)
            if self.desk.events or self.desk.told:
                self._note(moment)
            if moment >= start and (not own or self.revealer.ready()):
                self.now.time_ms, self.now.moment = at_ms, moment
                self.strategy.on_bar(self.now, self.orders)
                if self.orders.actions:
                    self._send(at_ms)
                    quiet_until = moment + 1
            if progress is not None and moment % REPORT_EVERY == 0:
                progress(moment, len(moments))

    def _all_of_one(self, moments: list[int], stream: Stream, progress: Progress | None) -> None:
        """The same for one instrument with a row at every moment, which leaves less to do each time."""
        desk, now, orders, waiting = self.desk, self.now, self.orders, self.carrier.waiting
        start, on_bar, quoted = self.revealer.start, self.strategy.on_bar, self.lanes[0].quoted
        quoted.cells, quoted.width = stream.revealed, len(stream.columns)
        quoted.ticks = isinstance(self.lanes[0].track.data, Ticks)
        self._take_shortcut()
        quiet_until = 0
        rows = zip(range(len(moments)), moments, stream.coming, strict=True)
        for moment, at_ms, _ in rows:  # which reveals the bar; nobody looks before the prices have moved
            if moment >= quiet_until and not waiting:
                quiet_until = self._quiet_until(moment)
                desk.behind = desk.behind or moment < quiet_until
            if moment >= quiet_until or waiting:
                if desk.behind:
                    quoted.catch_up(1)
                    desk.behind = False
                if desk.shortcut is None or not self._deal(moment):
                    self._move(moment, at_ms)
                quiet_until = moment + 1
            now.moment = moment
            now.time_ms = at_ms
            if desk.events or desk.told:
                self._note(moment)
            if moment >= start:
                on_bar(now, orders)
                if orders.actions:
                    self._send(at_ms)
                    quiet_until = moment + 1
            if progress is not None and moment % REPORT_EVERY == 0:
                progress(moment, len(moments))

    def _take_shortcut(self) -> None:
        """Leave the engine out until it is needed, where the terms allow that at all."""
        desk, settings, lane = self.desk, self.settings, self.lanes[0]
        listing = settings.listings[0]
        try:
            check_account(settings)
            check_listing(settings, listing, lane.track)
            check_chain(desk.engine, settings, listing)
        except NotFast:
            return
        if settings.account.type is AccountType.HEDGED and int(lane.track.ask.max()) < MOST_CERTAIN_POINTS:
            self.certain = certain_of(settings, listing, desk, self.ledger, lane.quoted)
            desk.shortcut = self.certain

    def _deal(self, moment: int) -> bool:
        """Carry out what waits at the open, without the engine; False when it has had to take over instead."""
        lane = self.lanes[0]
        track, quoted, waiting = lane.track, lane.quoted, self.carrier.waiting
        step = moment * track.steps_per_row
        actions = tuple(waiting.get(quoted.instrument_id, ()))
        dealt = Dealt(moment, int(track.time_ms[step]), int(track.bid[step]), int(track.ask[step]), actions)
        if self.certain is None or not actions or not self.certain.deal(dealt, lane.bounds_at(moment)):
            self.desk.give_up()
            return False
        waiting.clear()
        last = int(track.steps_at[moment]) - 1
        quoted.bid, quoted.ask, quoted.stale = int(track.bid[last]), int(track.ask[last]), True
        return True

    def _quiet_until(self, moment: int) -> int:
        """Up to which moment, at least, nothing happens in the engine, as its levels stand now."""
        desk = self.desk
        if self.exhaustive or (desk.shortcut is None and not all(lane.quoted.known for lane in self.lanes)):
            return moment
        end = len(self.timeline.moments)
        if desk.busy:
            if desk.due_ms < FAR:
                end = int(np.searchsorted(self.timeline.moments, desk.due_ms))
            for lane in self.lanes:
                if moment < end:
                    end = lane.quiet_until(moment, end)
        return end

    def _move(self, moment: int, at_ms: int) -> None:
        """Every step that belongs to the moment, in the order of time and then of the listings."""
        steps = [step for order, lane in enumerate(self.lanes) for step in lane.steps_of(moment, order)]
        if len(self.lanes) > 1:
            steps.sort()
        for step_ms, order, step, bid, ask in steps:
            lane = self.lanes[order]
            track, quoted = lane.track, lane.quoted
            due(self.desk, step_ms)
            if step % track.steps_per_row == 0:
                jump(self.desk, quoted, bid, ask, always=self.exhaustive)
            elif self.exhaustive:
                visit_every_point(self.desk, quoted, bid)
            else:
                walk(self.desk, quoted, bid)
            if self.carrier.waiting:
                self.carrier.after_step(track.instrument_id)
        due(self.desk, at_ms)

    def _send(self, at_ms: int) -> None:
        """Carry out what was asked for."""
        actions, self.orders.actions = self.orders.actions, []
        due(self.desk, at_ms)
        self.carrier.send(actions)

    def _note(self, moment: int, *, ending: bool = False) -> None:
        """Let the ledger and the strategy know what happened."""
        desk = self.desk
        events, desk.events = desk.events, []
        desk.told = tuple(events)
        if events:
            self.ledger.take(events, ending=ending)
            self.ledger.snapshot(moment, desk.engine.account(ACCOUNT).balance, desk.positions())

    def _end(self, total: int) -> None:
        """Value, or close, what is open at the last prices."""
        desk = self.desk
        desk.sync()
        due(desk, int(self.timeline.moments[-1]))
        self._note(total - 1)
        if self.certain is not None and desk.shortcut is not None:
            if not self.settings.close_at_end or self.certain.close_all(total - 1, desk.at_ms):
                self.certain.finish(total)
                return
            desk.give_up()
        if self.settings.close_at_end:
            for position in desk.positions():
                desk.note(desk.engine.close(ACCOUNT, position.id, None, desk.at_ms))
            self._note(total - 1, ending=True)
        self.ledger.snapshot(total, desk.engine.account(ACCOUNT).balance, ())

    def _result(self) -> BacktestResult:
        currency = self.settings.account.currency
        chains = {
            each.instrument.id: self.desk.engine.conversion_chain(MARKET, each.instrument.quote_asset, currency) or ()
            for each in self.settings.listings
        }
        valuer = Valuer(self.timeline, self.settings, chains)
        balances = self.ledger.balances
        return BacktestResult(
            trades=self.ledger.table(),
            equity=equity_curve(self.timeline, valuer, self.ledger.held, balances, self.settings.account.money_digits),
            settings=self.settings,
            final=self.desk.truth(),
            refusals=tuple(self.ledger.refusals),
        )
