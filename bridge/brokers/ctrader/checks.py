"""Sampling: which account's figures are compared with the broker's own, when, and what follows.

*Own quotes.* One account every `pnl_check_every_s` over the whole adapter, at a reconcile. Differences are counted.

*Shared quotes.* Every account is compared once it shares a price that its figures have not confirmed yet, and again at
a reconcile when the last time is `quotes_check_every_s` ago. One after another on each channel, in the lowest class of
requests, at most `quotes_check_share` of the channel's request rate; unclear ones a few times more. One whose figures
differ moves to a class with its prices (`price_classes`), which is counted and logged. What an account serves by its
own subscriptions is its own price, and needs no proof.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader import drift
from bridge.brokers.ctrader.board import Sharer
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.context import Context
from bridge.brokers.ctrader.drift import Verdict
from bridge.brokers.ctrader.price_classes import PriceClass
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.sharing import Sharing
from core.account import AccountMirror
from protos.ctrader import messages_pb2

log = logging.getLogger(__name__)

TRIES = 5


class Checked(Protocol):
    """An account hub, as far as its figures go."""

    context: Context
    number: int
    live: bool
    channel: Channel | None
    mirror: AccountMirror

    def follow(self) -> None:
        """Bring the price subscriptions in step with what is to be held."""


async def sample(hub: Checked) -> None:
    """After a reconcile: compare this account now or soon, if it is its turn. Raises no fault."""
    sharing = None if hub.channel is None else hub.channel.sharing
    sharer = None if sharing is None else sharing.board.sharer(hub.number)
    if sharing is None or sharer is None or sharer.serves_itself:
        await _check_own(hub)
    else:
        standing = sharing.board.classes.standing(hub.number)
        at = None if standing is None else standing.checked_at
        if at is None or hub.context.clock.monotonic() - at >= hub.context.settings.quotes_check_every_s:
            _queue(hub, sharing)
    if sharing is not None:
        back = sharing.board.classes.look(hub.number, hub.context.clock.monotonic())
        if back:
            hub.context.stats.count("quotes_returned", len(back))
            log.info("accounts have the common prices again", extra={"accounts": len(back)})
            sharing.call(back)


def confirm(hub: Checked) -> None:
    """After feeding: have figures compared if a price is shared that they have not confirmed. Never waits."""
    sharing = None if hub.channel is None else hub.channel.sharing
    sharer = None if sharing is None else sharing.board.sharer(hub.number)
    if sharing is None or sharer is None or sharer.serves_itself:
        return
    standing = sharing.board.classes.standing(hub.number)
    if standing is not None and not sharer.wanted <= standing.agreed:
        _queue(hub, sharing)


async def _check_own(hub: Checked) -> None:
    """Compare one account, if it is its turn."""
    context, channel, mirror = hub.context, hub.channel, hub.mirror
    now = context.clock.monotonic()
    if channel is None or not mirror.positions or now < context.next_pnl_check:
        return
    context.next_pnl_check = now + context.settings.pnl_check_every_s
    seen, before = mirror.events, drift.ours(mirror)
    broker = await _ask(hub, channel)
    if broker is None:
        return
    apart = drift.drifts(before, drift.ours(mirror), broker, mirror.money_digits)
    _count(context, apart, drift.judge(apart, changed=mirror.events != seen))


async def _ask(hub: Checked, channel: Channel) -> drift.Figures | None:
    request = messages_pb2.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=hub.number)
    reply = messages_pb2.ProtoOAGetPositionUnrealizedPnLRes
    timeout_s = hub.context.settings.reconcile_timeout_s
    try:
        return drift.theirs(await channel.call(request, reply, Priority.RECONCILE, timeout_s, hub.number))
    except BrokerFault:
        hub.context.stats.count("pnl_skipped")
        return None


def _count(context: Context, apart: int | None, verdict: Verdict) -> None:
    if verdict is Verdict.UNCLEAR:
        context.stats.count("pnl_skipped")
        return
    context.stats.count("pnl_checks")
    if apart:
        context.stats.count("pnl_drifts", apart)
        log.warning("the broker's P&L differs from ours", extra={"positions": apart})


# ---------------------------------------------------------------- shared quotes


def _queue(hub: Checked, sharing: Sharing) -> None:
    """File an account for comparison; a task per channel works while there are any."""
    sharing.unchecked.setdefault(hub.number, 0)
    if not sharing.checking:
        sharing.checking = True
        hub.context.tasks.start(_work(hub.context, sharing), name="compare-quotes")


async def _work(context: Context, sharing: Sharing) -> None:
    settings = context.settings
    pause_s = 1.0 / (settings.requests_per_second * settings.quotes_check_share)
    try:
        while sharing.unchecked:
            number, tries = next(iter(sharing.unchecked.items()))
            del sharing.unchecked[number]
            hub = sharing.account(number)
            verdict = await _check_shared(hub, sharing) if hub is not None and hub.live else Verdict.AGREES
            if verdict is Verdict.UNCLEAR and tries + 1 < TRIES:
                sharing.unchecked.setdefault(number, tries + 1)
            await asyncio.sleep(pause_s)  # the share of the request rate that comparing may use
    finally:
        sharing.checking = False


async def _check_shared(hub: Checked, sharing: Sharing) -> Verdict:
    """Compare one account that shares, and let it move if its prices are others."""
    board, channel, mirror = sharing.board, hub.channel, hub.mirror
    sharer = board.sharer(hub.number)
    if channel is None or sharer is None or not mirror.positions or sharer.serves_itself:
        return Verdict.AGREES
    wanted, mine = sharer.wanted, sharer.price_class
    known = {mine: mine.ticks(wanted), **{one: one.ticks(wanted) for one in board.classes.others(mine)}}
    before, basis = drift.ours(mirror), drift.basis(mirror)
    broker = await _ask(hub, channel)
    if broker is None or board.sharer(hub.number) is not sharer or drift.basis(mirror) != basis:
        return Verdict.UNCLEAR
    apart = drift.drifts(before, drift.ours(mirror), broker, mirror.money_digits)
    verdict = drift.judge(apart, changed=known[mine] is None or mine.ticks(wanted) != known[mine])
    _count(hub.context, apart, verdict)
    now = hub.context.clock.monotonic()
    if verdict is Verdict.AGREES:
        board.classes.agreed(hub.number, wanted, now)
    elif verdict is Verdict.DIFFERS:
        _part(hub, sharing, sharer, lambda one: _agrees(one, wanted, known.get(one), mirror, broker))
    return verdict


def _agrees(
    price_class: PriceClass, wanted: frozenset[int], ticks: int | None, mirror: AccountMirror, broker: drift.Figures
) -> bool:
    """True when the broker's figures are those of another class's prices, which stood still meanwhile."""
    if ticks is None or price_class.ticks(wanted) != ticks:
        return False
    quotes = {str(symbol_id): price_class.feeds[symbol_id].quote for symbol_id in wanted}
    figures = drift.ours(replace(mirror, quotes=dict(quotes), on_dirty=None, on_clean=None))
    return drift.drifts(figures, figures, broker, mirror.money_digits) == 0


def _part(hub: Checked, sharing: Sharing, sharer: Sharer, fits: Callable[[PriceClass], bool]) -> None:
    classes = sharing.board.classes
    into = next((one for one in classes.others(sharer.price_class) if fits(one)), None)
    if not classes.part(hub.number, into, hub.context.clock.monotonic()):
        return
    hub.context.stats.count("quotes_parted")
    server = sharer.price_class.kind.server
    log.warning(
        "an account's prices are not those of the others: it gets its own subscription"
        if into is None
        else "an account's prices are not those of most: it shares with others like it",
        extra={"server": server},
    )
    hub.follow()
