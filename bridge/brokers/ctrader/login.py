"""The steps that make an account live, and those that keep it true: authorise, read, compare, subscribe.

Invariant: events are buffered from before the authorisation until the snapshot is in, so nothing that happens in
between is lost, and the mirror changes from the old content to the new in one step.
"""

from __future__ import annotations

import asyncio

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode, Stage
from bridge.brokers.ctrader import checks, faults, feeding, normalize
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.hub import AccountHub
from bridge.brokers.ctrader.members import LoginRequest
from bridge.brokers.ctrader.price_classes import Kind
from bridge.brokers.ctrader.scheduling import Priority
from core.account import Snapshot
from core.errors import ProtocolViolation
from core.events import Execution
from core.reconcile import empties, rebuild
from protos.ctrader import messages_pb2

AUTH_LOOPS = 3
SNAPSHOT_LOOPS = 3


async def make_live(hub: AccountHub, request: LoginRequest) -> None:
    """Authorise the account, read it, feed it prices. Raises BrokerFault; then nothing is half-open but the
    broker-side authorisation, which the next login takes over."""
    context = hub.context
    gate = context.gate(hub.environment, hub.listed.broker_title or "")
    probing = await gate.enter(context.clock.monotonic())
    channel = hub.place()
    try:
        await _make_live(hub, channel, request)
        gate.passed()
    except BrokerFault as fault:
        if fault.kind is FaultKind.CLIENT_AUTH_LOST:
            channel.authorisation_lost(fault)
        if fault.kind is FaultKind.MAINTENANCE and not fault.shared:
            raise gate.refused(fault, context.clock.monotonic()) from fault
        raise
    finally:
        hub.buffer = None
        if not hub.live:
            hub.login_failed()
        if probing:
            gate.left()


async def _make_live(hub: AccountHub, channel: Channel, request: LoginRequest) -> None:
    await channel.ready()
    channel.router.routes[hub.number] = hub
    for _ in range(AUTH_LOOPS):
        hub.buffer, hub.overflowed, hub.current = [], False, False
        await _authorise(hub, channel, request)
        hub.tell_stage(Stage.SYNCING)
        try:
            await _synchronise(hub, channel, Priority.SNAPSHOT)
            hub.current = True
            hub.unfeed()
            hub.mirror.forget_quotes(list(hub.mirror.quotes))  # prices from before the cut must not look present
            await feeding.feed(hub)
        except BrokerFault as fault:
            if fault.kind is not FaultKind.ACCOUNT_AUTH_LOST:
                raise
            hub.authorised = False
            continue
        if hub.authorised:
            hub.live = True
            hub.follow()
            checks.confirm(hub)
            hub.context.recovery.ask(hub)
            return
    raise faults.transient(ReasonCode.ACCOUNT_SESSION_ENDED, "The broker keeps ending this account's session.")


async def _authorise(hub: AccountHub, channel: Channel, request: LoginRequest) -> None:
    if hub.authorised and hub.authorised_by == request.fingerprint:
        return  # by a login that failed after it
    message = messages_pb2.ProtoOAAccountAuthReq(ctidTraderAccountId=hub.number, accessToken=request.token.reveal())
    reply = messages_pb2.ProtoOAAccountAuthRes
    priority = Priority.AUTH_AT_RISK if request.at_risk or hub.mirror.at_risk else Priority.AUTH
    hub.asked = True
    try:
        await channel.call(message, reply, priority, hub.context.settings.auth_timeout_s, hub.number)
    except BrokerFault as fault:
        if fault.broker_code != faults.ALREADY_LOGGED_IN:  # authorised on this channel already: as good as done
            hub.asked = fault.broker_code is None
            raise
    hub.asked, hub.authorised = False, True
    hub.authorised_by = request.fingerprint


async def reconcile_live(hub: AccountHub) -> int:
    """Compare a live account with the broker's snapshot and repair it. Returns the number of lost events."""
    channel = hub.channel
    if channel is None or not hub.live:
        raise faults.transient(ReasonCode.ACCOUNT_SESSION_ENDED, "The account is not live.")
    hub.buffer, hub.overflowed = [], False
    try:
        lost = await _synchronise(hub, channel, Priority.RECONCILE)
    finally:
        hub.buffer = None
    hub.context.stats.count("reconciles")
    if lost:
        hub.context.stats.count("lost_events", lost)
    hub.follow()
    hub.context.recovery.ask(hub)
    await checks.sample(hub)
    return lost


async def feed(hub: AccountHub) -> None:
    """Bring the price subscriptions of a live account in step with what it holds. Raises BrokerFault."""
    await feeding.feed(hub)
    checks.confirm(hub)


async def _synchronise(hub: AccountHub, channel: Channel, priority: Priority) -> int:
    """Read the snapshot and make the mirror equal to it plus what was buffered meanwhile; returns the differences."""
    for _ in range(SNAPSHOT_LOOPS):
        snapshot = await _read_snapshot(hub, channel, priority)
        if _doubtful(hub, snapshot):
            hub.context.stats.count("snapshots_confirmed")
            if hub.current or empties(hub.mirror, snapshot):  # else closed during a cut, most likely: ask at once
                await asyncio.sleep(hub.context.settings.confirm_delay_s)
            snapshot = await _read_snapshot(hub, channel, priority)
        if not hub.overflowed:
            before_ms, now_ms = hub.mirror.confirmed_at_ms, hub.context.clock.now_ms()
            missing = rebuild(hub.mirror, snapshot, _take_buffered(hub), now_ms)
            hub.deals.compared(missing, before_ms, now_ms)
            return len(missing)
        hub.buffer, hub.overflowed = [], False
        hub.context.stats.count("buffer_overflows")
    reason = Reason(ReasonCode.SNAPSHOT_REFUSED, "The account changes too fast to be read; it is tried again.")
    raise BrokerFault(FaultKind.TRANSIENT, reason)


def _doubtful(hub: AccountHub, snapshot: Snapshot) -> bool:
    """A snapshot that removes what nobody closed is believed only on a second reading (DESIGN §5, faults.md N23)."""
    positions = {position.id for position in snapshot.positions}
    orders = {order.id for order in snapshot.orders}
    return not (positions >= hub.mirror.positions.keys() and orders >= hub.mirror.orders.keys())


def _take_buffered(hub: AccountHub) -> list[Execution]:
    executions: list[Execution] = []
    for message in hub.buffer or ():
        try:
            executions.append(hub.taken(message))
        except ProtocolViolation:
            hub.quarantine()
    hub.buffer = None
    return executions


async def _read_snapshot(hub: AccountHub, channel: Channel, priority: Priority) -> Snapshot:
    settings = hub.context.settings
    timeout_s = settings.reconcile_timeout_s if priority is Priority.RECONCILE else settings.snapshot_timeout_s
    trader_request = messages_pb2.ProtoOATraderReq(ctidTraderAccountId=hub.number)
    asked_trader = channel.send(trader_request, priority, timeout_s)
    try:
        asked_content = channel.send(
            messages_pb2.ProtoOAReconcileReq(ctidTraderAccountId=hub.number), priority, timeout_s
        )
        try:
            answer = await channel.result(asked_trader, messages_pb2.ProtoOATraderRes, hub.number)
            content = await channel.result(asked_content, messages_pb2.ProtoOAReconcileRes, hub.number)
        finally:
            channel.requests.abandon(asked_content)
    finally:
        channel.requests.abandon(asked_trader)
    trader = answer.trader
    server = trader.brokerName or hub.listed.broker_title or f"account {hub.number}"
    market = hub.market = hub.context.market(hub.environment, server)
    hub.kind = Kind(server, normalize.product(trader))
    hub.mirror.catalogue = market.catalogue
    currency = await market.currency(trader.depositAssetId, hub)
    held = {position.tradeData.symbolId for position in content.position}
    await market.describe(held | {order.tradeData.symbolId for order in content.order}, hub)
    scales = normalize.Scales(normalize.money_digits(trader), market.price_digits)
    try:
        if trader.ctidTraderAccountId != hub.number:
            raise ProtocolViolation("the trader entity is another account's")
        return normalize.snapshot(
            trader, content, scales, currency, hub.listed.broker_title or trader.brokerName or None
        )
    except ProtocolViolation as error:
        hub.context.stats.count("quarantined")
        reason = Reason(ReasonCode.SNAPSHOT_REFUSED, "The broker's account data could not be used; it is read again.")
        raise BrokerFault(FaultKind.TRANSIENT, reason) from error
