"""The steps that make an account live, and those that keep it true: listen, read, judge, swap, follow.

Invariant: the stream is listened to before anything is read, so that nothing happens unheard in between (alpaca.md
§2.3); updates that come during a reading are applied at once and once more to the reading that is accepted, as far as
it does not hold them; the mirror changes from the old content to the new in one step, without an await.
"""

from __future__ import annotations

import asyncio

import orjson

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca import faults, normalize
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.differences import Contents, doubtful, lost_events
from bridge.brokers.alpaca.hub import AccountHub, not_live
from bridge.brokers.alpaca.instruments import AssetClass
from bridge.brokers.alpaca.members import Login
from bridge.brokers.alpaca.past import picture
from bridge.brokers.alpaca.pricing import take_prices
from bridge.brokers.alpaca.reading import Reading, Verdict, judge
from bridge.brokers.alpaca.snapshot import assemble, missing_orders, with_updates
from bridge.brokers.alpaca.stream import TradingStream
from bridge.brokers.base import BrokerFault, ReasonCode, Stage
from core.account import Snapshot
from core.errors import ProtocolViolation
from core.reconcile import rebuild

UNKNOWN_SYMBOLS = 20  # asked for in one reading


async def make_live(hub: AccountHub, login: Login) -> None:
    """Open the account's stream, read it, feed it prices. Raises BrokerFault; then nothing stays open."""
    context = hub.context
    blocked = hub.pace.blocked(context.clock.monotonic())
    if blocked is not None:
        raise blocked
    if hub.closing is not None:
        await asyncio.wait([hub.closing])  # the account has one slot, and our own last stream may still be in it
        hub.closing = None
    hub.serve(login)
    stream = hub.stream = TradingStream(hub, context.dialer, context.settings, context.clock, context.stats)
    try:
        await _open(hub, stream, login)
        hub.tell_stage(Stage.SYNCING)
        await _synchronise(hub, stream, Priority.LOGIN)
        await describe(hub)
        if not stream.up:
            raise _cut(hub)
        hub.pace.up(context.clock.monotonic())
        hub.live = True
        hub.upkeep.read()
        hub.follow()
    finally:
        if not hub.live:
            hub.stream = None
            await stream.close()


async def _open(hub: AccountHub, stream: TradingStream, login: Login) -> None:
    """Raises a shared BrokerFault that says when to try again."""
    context = hub.context
    greeting = orjson.dumps(credentials.stream_auth(login.credential))
    try:
        await stream.open(context.settings.stream_url(hub.environment), greeting)
    except BrokerFault as fault:
        context.stats.count(f"dials_failed.{fault.reason.code}")
        raise hub.pace.lost(fault, context.clock.monotonic()) from fault


async def read_live(hub: AccountHub, priority: Priority) -> int:
    """Compare a live account with a reading and repair it. Returns the number of lost events. Raises BrokerFault."""
    stream = hub.stream
    if stream is None or not hub.live:
        raise not_live()
    lost = await _synchronise(hub, stream, priority)
    hub.context.stats.count("reconciles" if priority is Priority.RECONCILE else "readings")
    if lost:
        hub.context.stats.count("lost_events", lost)
    await describe(hub)
    if hub.live:
        hub.upkeep.read()
        hub.follow()
    return lost


async def _synchronise(hub: AccountHub, stream: TradingStream, priority: Priority) -> int:
    """Read until a reading holds together, and make the mirror equal to it. Returns the number of lost events."""
    settings, stats = hub.context.settings, hub.context.stats
    delay_s, doubted = settings.lag_first_s, False
    try:
        for tries_left in reversed(range(settings.reading_tries)):
            hub.buffer, hub.overflowed = [], False
            began = hub.context.clock.monotonic()
            reading = await hub.requests.reading(priority, hub.memory)
            if not stream.up:
                raise _cut(hub)
            _check_account(hub, reading)
            await _name_executions(hub, reading)
            verdict = _judge(hub, reading, began)
            if hub.overflowed:
                stats.count("buffer_overflows")
            elif verdict is Verdict.ACCEPT or (not tries_left and _better_than_nothing(hub, verdict)):
                snapshot, prices = _assemble(hub, reading)
                if doubted or not doubtful(hub.mirror, snapshot):
                    return _swap(hub, reading, snapshot, prices)
                doubted = True
                stats.count("readings.doubted")
                await asyncio.sleep(settings.confirm_delay_s if hub.live else 0.0)
                continue
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, settings.lag_cap_s)
    finally:
        hub.buffer = None
    raise faults.transient(ReasonCode.SNAPSHOT_REFUSED, "The account changes too fast to be read; it is tried again.")


def _better_than_nothing(hub: AccountHub, verdict: Verdict) -> bool:
    """Whether a reading that does not hold together is used when no other is to be had. A live account keeps what the
    stream said rather than go back to what REST said before it."""
    return verdict is Verdict.NEWER or not hub.live


def _check_account(hub: AccountHub, reading: Reading) -> None:
    """Whose account is it, and is there one still? Raises BrokerFault."""
    try:
        foreign, closed = normalize.account_id(reading.account) != hub.account_id, normalize.closed(reading.account)
    except ProtocolViolation as error:
        hub.context.stats.count("quarantined")
        raise faults.snapshot_refused() from error
    if foreign:
        hub.context.stats.count("foreign_events")
        raise faults.foreign_account()
    if closed:
        raise faults.account_closed()


def _judge(hub: AccountHub, reading: Reading, began: float) -> Verdict:
    try:
        missing = missing_orders(reading, hub.mirror)
        _, cash = normalize.account(reading.account)
        held = [normalize.position(source, hub.assets) for source in reading.positions]
    except ProtocolViolation as error:
        hub.context.stats.count("quarantined")
        raise faults.snapshot_refused() from error
    verdict = judge(reading, hub.memory, missing, began)
    said = picture(held, None if cash is None else cash.balance)
    if verdict is Verdict.ACCEPT and hub.past.shown(said, hub.mirror, began):
        verdict = Verdict.STALE
    hub.memory.shown(reading)
    hub.context.stats.count(f"readings.{verdict.name.lower()}")
    return verdict


def _assemble(hub: AccountHub, reading: Reading) -> tuple[Snapshot, dict[str, int]]:
    """The reading with what the stream said meanwhile, and its prices."""
    mirror, memory = hub.mirror, hub.memory
    try:
        found = assemble(reading, mirror, hub.assets, memory)
        snapshot = with_updates(found.snapshot, hub.kept(), reading, mirror, hub.assets, memory)
    except ProtocolViolation as error:
        hub.context.stats.count("quarantined")
        raise faults.snapshot_refused() from error
    if found.left_out:
        hub.context.stats.count("orders_left_out", found.left_out)
    return snapshot, found.prices


def _swap(hub: AccountHub, reading: Reading, snapshot: Snapshot, prices: dict[str, int]) -> int:
    """The mirror becomes the reading. Returns the number of lost events."""
    context, mirror = hub.context, hub.mirror
    now, before = context.clock.monotonic(), Contents.of(mirror)
    missing = rebuild(mirror, snapshot, (), context.clock.now_ms())
    recovered = hub.memory.accept(reading, hub.assets, now)
    for fill in recovered:
        mirror.note_fill(fill)
    context.stats.count("fills_recovered", len(recovered))
    context.stats.count("fills", len(recovered))
    take_prices(mirror, hub.following, prices, now - context.settings.slow_poll_s)
    return lost_events(before, missing)


async def describe(hub: AccountHub) -> None:
    """Ask what crypto is called that only positions told of: its price stream wants the slash. A failure is no harm."""
    mirror = hub.mirror
    held = {each.instrument_id for each in mirror.positions.values()}
    held.update(each.instrument_id for each in mirror.orders.values())
    for instrument_id in hub.assets.undescribed(held):
        if hub.assets.asset_class(instrument_id) is not AssetClass.CRYPTO:
            continue
        try:
            asset = await hub.requests.asset(instrument_id, Priority.POLL)
            if asset is not None:
                hub.assets.of_asset(asset)
                mirror.mark_dirty()
        except (BrokerFault, ProtocolViolation):
            hub.context.stats.count("assets_failed")


async def _name_executions(hub: AccountHub, reading: Reading) -> None:
    """Ask what was traded that nobody holds any more: an execution tells its symbol only. A failure is no harm."""
    unknown = {
        row.symbol
        for row in reading.fills
        if row.symbol is not None
        and hub.assets.id_of_symbol(row.symbol) is None
        and not hub.memory.included(row.execution_id)
    }
    if hub.mirror.confirmed_at_ms is None:
        return  # of an account's first reading no execution is told
    for symbol in sorted(unknown)[:UNKNOWN_SYMBOLS]:
        try:
            asset = await hub.requests.asset(symbol, Priority.LOGIN)
            if asset is not None:
                hub.assets.of_asset(asset)
        except (BrokerFault, ProtocolViolation):
            hub.context.stats.count("assets_failed")


def _cut(hub: AccountHub) -> BrokerFault:
    """The stream ended while the account was read."""
    fault = faults.transient(ReasonCode.CONNECTION_LOST, "The connection to the broker was lost.")
    return hub.pace.lost(fault, hub.context.clock.monotonic())
