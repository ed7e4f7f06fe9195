"""Carrying out requests and movements of cash on an engine, and raising where its broker says no.

Stops at the first refusal and leaves the engine as it is then: whoever calls puts it back (`PaperAccount`).
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from core.errors import InvalidInput
from core.paper_account.checking import refusal
from core.paper_account.errors import Refused
from core.paper_account.values import Amend, Cancel, Close, Protect, Request
from core.paper_trader import Engine, Event, OrderAccepted, OrderRejected, OrderRequest, RequestRejected


def carry_out(engine: Engine, account_id: str, requests: Iterable[Request], now_ms: int) -> list[Event]:
    """Requests in order. Raises Refused for the first that is refused."""
    events: list[Event] = []
    for row, request in enumerate(requests):
        done = _do(engine, account_id, request, now_ms)
        _must_be_taken(request, done, row)
        events += done
    return events


def move_cash(engine: Engine, account_id: str, delta: object, now_ms: int, note: str | None) -> list[Event]:
    """Deposit or withdraw. Raises Refused."""
    if not isinstance(delta, Decimal):
        raise Refused(f"must be a Decimal, not {delta!r}", field="delta", rule="number")
    try:
        events = engine.move_cash(account_id, delta, now_ms, note=note)
    except InvalidInput as cause:
        raise Refused(str(cause), field="delta", rule="number") from cause
    for event in events:
        if isinstance(event, RequestRejected):
            raise Refused(event.message, field="delta", rule=event.code.value)
    return events


def _do(engine: Engine, account_id: str, request: Request, now_ms: int) -> list[Event]:
    match request:
        case OrderRequest():
            return engine.place(account_id, request, now_ms)
        case Amend(order_id=order_id, changes=changes):
            return engine.amend(account_id, order_id, changes, now_ms)
        case Cancel(order_id=order_id):
            return engine.cancel(account_id, order_id, now_ms)
        case Close(position_id=position_id, units=units):
            return engine.close(account_id, position_id, units, now_ms)
        case Protect(position_id=position_id, stop_loss=stop, take_profit=target, trailing=trailing):
            return engine.protect(
                account_id, position_id, now_ms, stop_loss=stop, take_profit=target, trailing_stop_loss=trailing
            )


def _must_be_taken(request: Request, events: Iterable[Event], row: int) -> None:
    """Raises Refused when the broker said no to this very request, or to a new order when it came to fill it at once.

    An amendment that is taken has changed the order; should that order then fail to fill, that is its own fate.
    """
    placed: set[int] = set()
    for event in events:
        if isinstance(event, OrderAccepted) and not event.by_server:
            placed.add(event.order.id)
        elif isinstance(event, RequestRejected) or (isinstance(event, OrderRejected) and event.order.id in placed):
            raise refusal(request, event, row)
