"""Bring an account's descriptions, conversion chains and price subscriptions in step with what it holds.

Two ways (`CTRADER_QUOTES`): the account subscribes to everything it needs, or it says what it needs and subscribes to
what the board of its channel gives it to do, for itself and others (`board`). Both listen before they ask, since prices
come at once, and both ask for all symbols in one request, or one by one when a bad one spoils it (ctrader.md §4.4).
"""

from __future__ import annotations

import asyncio

from bridge.brokers.base import BrokerFault, FaultKind
from bridge.brokers.ctrader import faults
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.hub import AccountHub
from bridge.brokers.ctrader.scheduling import Priority, market_class
from bridge.brokers.ctrader.sharing import Sharing
from core.valuation import needed_quotes
from protos.ctrader import messages_pb2


async def feed(hub: AccountHub) -> None:
    """Describe what is held, find its conversion chains and subscribe to its prices; drop what is not needed.

    Raises BrokerFault.
    """
    market, channel = hub.market, hub.channel
    if market is None or channel is None:
        return
    while True:
        mirror = hub.mirror
        held = {int(position.instrument_id) for position in mirror.positions.values()}
        working = {int(order.instrument_id) for order in mirror.orders.values()}
        await market.describe(held | working, hub)
        await market.connect(mirror, hub)
        wanted = frozenset(int(key) for key in needed_quotes(mirror))
        if channel.sharing is None:
            done = await _feed_itself(hub, channel, wanted)
        else:
            done = await _feed_shared(hub, channel, channel.sharing, wanted)
        if done:
            return


async def _feed_itself(hub: AccountHub, channel: Channel, wanted: frozenset[int]) -> bool:
    """Subscribe to what is wanted; True when there was nothing to do."""
    new = wanted - hub.symbols.keys() - hub.unquotable
    old = hub.symbols.keys() - wanted
    if old:
        for symbol_id in old:
            del hub.symbols[symbol_id]
        hub.mirror.forget_quotes(str(symbol_id) for symbol_id in old)
        await _unsubscribe(hub, channel, sorted(old))
    if new:
        await _subscribe(hub, channel, sorted(new))
    return not new and not old


async def _subscribe(hub: AccountHub, channel: Channel, symbol_ids: list[int]) -> None:
    for symbol_id in symbol_ids:
        hub.symbols[symbol_id] = str(symbol_id)
    try:
        await _ask_anew(hub, channel, symbol_ids)
    except BrokerFault as fault:
        for symbol_id in symbol_ids:
            hub.symbols.pop(symbol_id, None)
        if not _spoiled(fault):
            raise
        if len(symbol_ids) == 1:
            hub.unquotable |= set(symbol_ids)
            return
        for symbol_id in symbol_ids:
            await _subscribe(hub, channel, [symbol_id])


async def _feed_shared(hub: AccountHub, channel: Channel, sharing: Sharing, wanted: frozenset[int]) -> bool:
    """Say what is wanted and do what the board says; True when there was nothing to do."""
    if not hub.authorised or hub.kind is None:
        return True  # its session ended meanwhile: nobody may be given it for a holder
    sharer = sharing.want(hub.number, hub.mirror, hub.kind, wanted)
    hub.holds = sharer.holds
    stop, start = sharing.board.work(hub.number)
    if stop:
        for symbol_id in stop:
            del sharer.holds[symbol_id]
        await _unsubscribe(hub, channel, stop)
    if start:
        await _subscribe_for_all(hub, channel, sharing, start)
    return not stop and not start


async def _subscribe_for_all(hub: AccountHub, channel: Channel, sharing: Sharing, symbol_ids: list[int]) -> None:
    """As `_subscribe`, for every account with the same prices."""
    sharer = sharing.board.sharer(hub.number)
    duties = {} if sharer is None else {key: sharer.duties[key] for key in symbol_ids if key in sharer.duties}
    if sharer is None or not duties:
        return  # given to another meanwhile
    asked = list(duties)
    sharer.holds.update((symbol_id, feed.quote) for symbol_id, feed in duties.items())
    try:
        await _ask_anew(hub, channel, asked)
    except BrokerFault as fault:
        for symbol_id in asked:
            sharer.holds.pop(symbol_id, None)
        if not _spoiled(fault):
            sharing.failed(hub.number, asked)
            raise
        if len(asked) == 1:
            sharing.refused(hub.number, asked)
            return
        for symbol_id in asked:
            await _subscribe_for_all(hub, channel, sharing, [symbol_id])
    except asyncio.CancelledError:
        for symbol_id in asked:
            sharer.holds.pop(symbol_id, None)  # not known to be held: whoever does this next asks again
        raise
    else:
        sharing.subscribed(hub.number, asked)


async def _ask_anew(hub: AccountHub, channel: Channel, symbol_ids: list[int]) -> None:
    """A single symbol that the broker still has from before is subscribed to anew: else its price would not be sent
    before it changes."""
    try:
        await _ask(hub, channel, symbol_ids)
    except BrokerFault as fault:
        if fault.broker_code != faults.ALREADY_SUBSCRIBED or len(symbol_ids) > 1:
            raise
        await _unsubscribe(hub, channel, symbol_ids)
        try:
            await _ask(hub, channel, symbol_ids)
        except BrokerFault as again:
            if again.broker_code != faults.ALREADY_SUBSCRIBED:
                raise


async def _ask(hub: AccountHub, channel: Channel, symbol_ids: list[int]) -> None:
    request = messages_pb2.ProtoOASubscribeSpotsReq(ctidTraderAccountId=hub.number, symbolId=symbol_ids)
    reply = messages_pb2.ProtoOASubscribeSpotsRes
    timeout_s = hub.context.settings.market_timeout_s
    await channel.call(request, reply, market_class(hub.live), timeout_s, hub.number)


async def _unsubscribe(hub: AccountHub, channel: Channel, symbol_ids: list[int]) -> None:
    request = messages_pb2.ProtoOAUnsubscribeSpotsReq(ctidTraderAccountId=hub.number, symbolId=symbol_ids)
    reply = messages_pb2.ProtoOAUnsubscribeSpotsRes
    try:
        await channel.call(request, reply, Priority.MARKET, hub.context.settings.market_timeout_s, hub.number)
    except BrokerFault as fault:
        if fault.kind in (FaultKind.ACCOUNT_AUTH_LOST, FaultKind.CLIENT_AUTH_LOST) or fault.shared:
            raise
        hub.context.stats.count("feed_failures")  # its prices are ignored anyway


def _spoiled(fault: BrokerFault) -> bool:
    return fault.broker_code in faults.NO_SUCH_SYMBOL or fault.broker_code == faults.ALREADY_SUBSCRIBED
