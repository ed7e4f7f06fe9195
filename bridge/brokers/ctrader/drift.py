"""Our own profit and loss against the broker's: a sampled check that counts and never corrects (DESIGN §5).

The broker computes P&L on request only. The two figures may be compared when nothing arrived for the account between
question and answer: then both sides used the same prices, since one connection keeps its order.
"""

from __future__ import annotations

import logging

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader.hub import AccountHub
from bridge.brokers.ctrader.scheduling import Priority
from core.errors import ProtocolViolation
from core.money import from_minor
from core.valuation import value_account
from protos.ctrader import messages_pb2

log = logging.getLogger(__name__)


async def check(hub: AccountHub) -> None:
    """Compare one account, if it is its turn. Counts `pnl_checks`, `pnl_skipped` and `pnl_drifts`; raises no fault."""
    context, channel, mirror = hub.context, hub.channel, hub.mirror
    now = context.clock.monotonic()
    if channel is None or not mirror.positions or now < context.next_pnl_check:
        return
    context.next_pnl_check = now + context.settings.pnl_check_every_s
    seen = mirror.events
    request = messages_pb2.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=hub.number)
    reply = messages_pb2.ProtoOAGetPositionUnrealizedPnLRes
    timeout_s = context.settings.reconcile_timeout_s
    try:
        answer = await channel.call(request, reply, Priority.RECONCILE, timeout_s, hub.number)
    except BrokerFault:
        context.stats.count("pnl_skipped")
        return
    if mirror.events != seen:
        context.stats.count("pnl_skipped")
        return
    context.stats.count("pnl_checks")
    drifts = _drifts(hub, answer)
    if drifts:
        context.stats.count("pnl_drifts", drifts)
        log.warning("the broker's P&L differs from ours", extra={"positions": drifts})


def _drifts(hub: AccountHub, answer: messages_pb2.ProtoOAGetPositionUnrealizedPnLRes) -> int:
    """Positions whose net P&L differs by more than one minor unit; those we cannot value are no drift."""
    ours = value_account(hub.mirror).positions
    tolerance = from_minor(1, hub.mirror.money_digits)
    drifts = 0
    for theirs in answer.positionUnrealizedPnL:
        value = ours.get(str(theirs.positionId))
        if value is None or value.unrealized_pnl is None:
            continue
        try:
            net = from_minor(theirs.netUnrealizedPnL, answer.moneyDigits)
        except ProtocolViolation:
            drifts += 1
            continue
        drifts += abs(net - value.unrealized_pnl) > tolerance
    return drifts
