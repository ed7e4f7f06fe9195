"""Moving prices through the engine: jumps and walks, stopping only where something happens.

A walk means that the price visits every point from where it is to where it goes. Points that reach no level of the
engine change nothing there (`Desk`), so the walk goes from level to level: the same deals, money and margins as quoting
every point, at the cost of what happens. Levels that only pull a trailing stop along need no halt of their own: the
point before the next halt, or the end of the walk, pulls it just as far.
"""

from __future__ import annotations

from core.backtester.desk import Desk, Quoted
from core.backtester.tracks import FAR


def due(desk: Desk, until_ms: int) -> None:
    """Let the engine do what falls due by then, at the prices that stand before it."""
    if desk.due_ms <= until_ms:
        desk.sync()
        desk.note(desk.engine.advance(until_ms))
        desk.refresh()
    desk.at_ms = until_ms


def jump(desk: Desk, each: Quoted, bid: int, ask: int, *, always: bool = False) -> None:
    """Quote new prices at once: what they pass fills at them. `always`: tell the engine even when nothing can."""
    each.bid, each.ask, each.stale = bid, ask, True
    if always or not each.known or (desk.busy and not each.quiet(bid, bid, ask, ask)):
        _fire(desk, each)


def walk(desk: Desk, each: Quoted, bid: int) -> None:
    """Visit every point up to that bid; the spread stays."""
    spread = each.ask - each.bid
    while each.bid != bid:
        halt = _next_halt(each, bid) if desk.busy else None
        if halt is None:
            each.bid, each.ask, each.stale = bid, bid + spread, True
            if desk.busy and not each.quiet(bid, bid, bid + spread, bid + spread):
                _fire(desk, each)  # a trailing stop to pull along
            return
        before = halt + 1 if bid < each.bid else halt - 1
        if before != each.bid and _trails(each, before, before + spread):
            halt = before  # trailing stops stand where they belong before anything else happens
        each.bid, each.ask, each.stale = halt, halt + spread, True
        _fire(desk, each)


def _trails(each: Quoted, bid: int, ask: int) -> bool:
    """Whether a trailing stop is to be pulled along at these prices."""
    return (
        bid <= each.trail_bid_floor
        or bid >= each.trail_bid_ceiling
        or ask <= each.trail_ask_floor
        or ask >= each.trail_ask_ceiling
    )


def _fire(desk: Desk, each: Quoted) -> None:
    """Quote the present prices where they set something off; what others stand at must be known first."""
    for other in desk.quoted:
        if other.stale and other is not each:
            desk.quote(other)
    desk.quote(each)
    desk.refresh()


def _next_halt(each: Quoted, target: int) -> int | None:
    """The first point after the present one, up to the target, at which the engine must be asked."""
    now, spread = each.bid, each.ask - each.bid
    if target < now:
        near = now - 1
        halt = max(
            min(near, each.bid_floor),
            min(near, each.ask_floor - spread),
            near if near >= each.bid_ceiling or near + spread >= each.ask_ceiling or each.any_quote else -FAR,
        )
        return halt if halt >= target else None
    near = now + 1
    halt = min(
        max(near, each.bid_ceiling),
        max(near, each.ask_ceiling - spread),
        near if near <= each.bid_floor or near + spread <= each.ask_floor or each.any_quote else FAR,
    )
    return halt if halt <= target else None


def visit_every_point(desk: Desk, each: Quoted, bid: int) -> None:
    """The same as `walk`, told to the engine point by point: slow, for checking."""
    spread = each.ask - each.bid
    step = 1 if bid > each.bid else -1
    while each.bid != bid:
        each.bid += step
        each.ask = each.bid + spread
        desk.quote(each)
    desk.refresh()
