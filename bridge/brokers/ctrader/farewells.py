"""Logging an account out once more: the broker refused the logout, said nothing, or had a login still to carry out.

A channel that others share stays open, so an account that was not logged out would stay authorised there for as long as
the channel lives. Works on a channel alone, when the account's hub has gone. Invariant: nothing is said for an account
that is served on the channel again, nor on a socket that came after.
"""

from __future__ import annotations

import asyncio

from bridge.brokers.base import BrokerFault, FaultKind
from bridge.brokers.ctrader import faults
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.context import Context
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from protos.ctrader import messages_pb2

TRIES = 6
FIRST_WAIT_S = 1.0
# the account is not authorised here (any more), which is what was wanted
_GONE = frozenset({FaultKind.ACCOUNT_AUTH_LOST, FaultKind.CLIENT_AUTH_LOST, FaultKind.TOKEN, FaultKind.FATAL_USER})


async def ask_logout(channel: Channel, number: int, timeout_s: float) -> None:
    """Ask for the end of an account's authorisation on a channel. Raises BrokerFault."""
    request = messages_pb2.ProtoOAAccountLogoutReq(ctidTraderAccountId=number)
    reply = messages_pb2.ProtoOAAccountLogoutRes
    await channel.call(request, reply, Priority.LOGOUT, timeout_s, number)


def repeat_later(context: Context, channel: Channel, number: int, error: Exception | None) -> None:
    """Log an account out again of a channel on which it may be authorised all the same.

    `error`: what became of the first logout; None: whatever it was, a login is under way that may be carried out after
    it. It is repeated a few times, each after the wait that the broker told.
    """
    channel.unsure = True
    context.tasks.start(_repeat(context, channel, number, error), name=f"logout-{number}")


async def _repeat(context: Context, channel: Channel, number: int, error: Exception | None) -> None:
    settings, stats = context.settings, context.stats
    for failures in range(TRIES):
        await asyncio.sleep(_wait_s(error, failures, settings))
        if not (channel.up and channel.unsure) or number in channel.router.routes:
            return
        try:
            await ask_logout(channel, number, settings.auth_timeout_s)
        except BrokerFault as fault:
            if fault.kind not in _GONE:
                error = fault
                continue
        stats.count("logouts_repeated")
        return
    stats.count("logouts_given_up")


def _wait_s(error: Exception | None, failures: int, settings: CtraderSettings) -> float:
    """Seconds until the next try: as the broker said, or growing."""
    if error is None:
        return settings.auth_timeout_s
    if isinstance(error, BrokerFault) and error.kind is FaultKind.MAINTENANCE:
        return faults.maintenance_wait_s(error, failures, settings.maintenance_default_s, settings.maintenance_cap_s)
    said_s = error.retry_after_s if isinstance(error, BrokerFault) else None
    return max(FIRST_WAIT_S * 2.0**failures, min(said_s or 0.0, settings.maintenance_cap_s))
