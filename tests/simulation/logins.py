"""15, as the brokers themselves see it: nobody is logged in to an account that no live session of any process serves.

Asked when all is at rest, and some seconds after every acknowledged stop where nothing hinders it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.sessions.states import State

if TYPE_CHECKING:
    from tests.simulation.world import World

STOPPED_WITHIN_S = 15.0  # for the notice of it, or a look for what others stored, and for the logout


def unserved(world: World) -> list[tuple[str, str]]:
    """Broker and account of every login at a broker that belongs to no live session."""
    served = {
        (session.broker, session.account_id)
        for process in world.alive
        for session in process.service._table
        if session.state is State.LIVE
    }
    hub = world.brokers.ctrader.services.hub
    streams = world.brokers.alpaca.services.streams.trading
    found = [("ctrader", str(each)) for each in world.brokers.ctrader.services.world.accounts if hub.listeners(each)]
    found += [("alpaca", each) for each in world.brokers.alpaca.services.world.accounts if streams.listeners(each)]
    return [login for login in found if login not in served]


def stops_take_hold(world: World) -> None:
    """15: soon after a stop was acknowledged nobody is logged in any more, unless it was started again."""
    now = world.loop.time()
    if not world.commands.stopped_at or world.half_open or now < world.refusing_until + STOPPED_WITHIN_S:
        return
    well_s = min(
        (world.well_for_s(process, broker) for process in world.alive for broker in process.lines), default=0.0
    )
    logins = set(unserved(world))
    for row, at in world.commands.stopped_at.items():
        where = (row[0], row[1])
        if where in world.commands.busy or where in world.loose or world.commands.wanted.get(row) != {False}:
            continue
        if min(well_s, now - at) > STOPPED_WITHIN_S and (row[1], row[2]) in logins:
            world.report(15, f"{row} was stopped {now - at:.1f} s ago and is logged in")
