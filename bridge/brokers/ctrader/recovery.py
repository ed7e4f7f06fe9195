"""Executions that no live message told of are looked for in the broker's history.

One account after another, one page at a time, in the history class with its own budget: no login and no other request
waits for it. Accounts that hold something go first. History lags behind the event (ctrader.md §4.3), so an account is
done only when it was asked once more after that long. What fails is left to the account's next login or reconcile.
History goes by the broker's clock: once ours has jumped, so much more is asked for.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from contextlib import suppress
from typing import Protocol

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.deals import DealBook
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.account import AccountMirror
from core.errors import ProtocolViolation
from protos.ctrader import messages_pb2, model_pb2

QUEUE_CAP = 10_000
TRIES = 3


class Owing(Protocol):
    """An account hub, as far as its missed executions are concerned."""

    number: int
    live: bool
    channel: Channel | None
    mirror: AccountMirror
    deals: DealBook

    def deal(self, deal: model_pb2.ProtoOADeal, *, recovered: bool = False) -> None:
        """Note what a deal executed, once. Raises ProtocolViolation."""

    def judge(self, fault: BrokerFault) -> None:
        """Decide whether a failed request ends the account's authorisation."""


class _Search:
    """The looking of one account: from when the next page is, and when history has certainly caught up."""

    __slots__ = ("account", "caught_up_at", "page_ms", "tries")

    def __init__(self, account: Owing, caught_up_at: float) -> None:
        self.account = account
        self.caught_up_at = caught_up_at
        self.page_ms: int | None = None  # None: from the beginning
        self.tries = 0


class Recovery:
    """The queue of accounts whose deals are asked for; a task of its own while there are any."""

    def __init__(self, settings: CtraderSettings, clock: Clock, tasks: Tasks, stats: Stats) -> None:
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._stats = stats
        self._searches: dict[Owing, _Search] = {}
        self._holders: deque[_Search] = deque()
        self._others: deque[_Search] = deque()
        self._later: list[tuple[float, int, _Search]] = []
        self._number = 0
        self._added = asyncio.Event()
        self._running = False
        self._began_ms = self._wall_ms()
        self._ahead_ms = 0  # the most that the wall clock was ahead of where it would be without jumps

    def ask(self, account: Owing) -> None:
        """Look for what this account owes, if anything. Never waits. Asked after every reading, whose time is kept."""
        self._ahead_ms = max(self._ahead_ms, self._jumped_ms())
        if account.deals.owed_since_ms is None:
            return
        caught_up_at = self._clock.monotonic() + self._settings.history_lag_s
        search = self._searches.get(account)
        if search is not None:
            search.caught_up_at, search.page_ms, search.tries = caught_up_at, None, 0
            return
        if len(self._searches) >= QUEUE_CAP:
            self._stats.count("deal_searches_refused")  # it still owes: its next reconcile asks again
            return
        search = self._searches[account] = _Search(account, caught_up_at)
        self._queue(search)
        if not self._running:
            self._running = True
            self._tasks.start(self._work(), name="deals")

    def _wall_ms(self) -> int:
        """What the wall clock says beyond the time that has passed: the same for ever, unless it jumps."""
        return self._clock.now_ms() - round(self._clock.monotonic() * 1000)

    def _jumped_ms(self) -> int:
        return self._wall_ms() - self._began_ms

    def _queue(self, search: _Search) -> None:
        (self._holders if search.account.mirror.at_risk else self._others).append(search)
        self._added.set()

    def _queue_at(self, search: _Search, when: float) -> None:
        self._number += 1
        heapq.heappush(self._later, (when, self._number, search))

    async def _work(self) -> None:
        try:
            while self._searches:
                search = self._next(self._clock.monotonic())
                if search is not None:
                    await self._turn(search)
                    continue
                self._added.clear()
                wait_s = max(self._later[0][0] - self._clock.monotonic(), 0.001)
                with suppress(TimeoutError):  # nothing new came: what was put off is due
                    async with asyncio.timeout(wait_s):
                        await self._added.wait()
        finally:
            self._running = False

    def _next(self, now: float) -> _Search | None:
        while self._later and self._later[0][0] <= now:
            self._queue(heapq.heappop(self._later)[2])
        if self._holders:
            return self._holders.popleft()
        return self._others.popleft() if self._others else None

    async def _turn(self, search: _Search) -> None:
        """Ask for one page and decide what follows."""
        account = search.account
        channel, since_ms = account.channel, account.deals.owed_since_ms
        if not account.live or channel is None or since_ms is None:
            del self._searches[account]  # it still owes: its next login asks again
            return
        asked_at, caught_up_at = self._clock.monotonic(), search.caught_up_at
        first_ms = max(since_ms - self._ahead_ms - int(self._settings.deals_overlap_s * 1000), 0)
        page_ms = search.page_ms = first_ms if search.page_ms is None else search.page_ms
        try:
            answer = await self._page(account, channel, page_ms)
        except BrokerFault as fault:
            self._failed(search, fault)
            return
        for deal in answer.deal:
            self._take(account, deal)
        if search.caught_up_at != caught_up_at:  # more was found missing meanwhile: from the beginning again
            self._queue(search)
        elif answer.hasMore and answer.deal:
            search.page_ms = max(page_ms + 1, *(deal.executionTimestamp for deal in answer.deal))
            self._queue(search)
        elif asked_at < caught_up_at:
            search.page_ms = None
            self._queue_at(search, caught_up_at)
        else:
            account.deals.owed_since_ms = None
            del self._searches[account]
            self._stats.count("deal_searches")

    async def _page(self, account: Owing, channel: Channel, page_ms: int) -> messages_pb2.ProtoOADealListRes:
        """Deals from then until now, oldest first; the overlap allows for clocks that differ. Raises BrokerFault."""
        until_ms = self._clock.now_ms() - min(0, self._jumped_ms()) + int(self._settings.deals_overlap_s * 1000)
        request = messages_pb2.ProtoOADealListReq(
            ctidTraderAccountId=account.number, fromTimestamp=page_ms, toTimestamp=until_ms
        )
        timeout_s, reply = self._settings.history_timeout_s, messages_pb2.ProtoOADealListRes
        return await channel.call(request, reply, Priority.HISTORY, timeout_s, account.number)

    def _take(self, account: Owing, deal: model_pb2.ProtoOADeal) -> None:
        try:
            account.deal(deal, recovered=True)
        except ProtocolViolation:
            self._stats.count("quarantined")

    def _failed(self, search: _Search, fault: BrokerFault) -> None:
        self._stats.count("deal_lists_failed")
        search.account.judge(fault)
        search.tries += 1
        if search.tries >= TRIES:
            del self._searches[search.account]  # it still owes: its next reconcile asks again
            return
        wait_s = max(fault.retry_after_s or 0.0, self._settings.history_lag_s)
        self._queue_at(search, self._clock.monotonic() + wait_s)
