"""Reconcile: compare a mirror with the broker's snapshot and say which events are missing. Pure.

The caller buffers the executions that arrive while the snapshot is on its way and replays them afterwards: on one
ordered stream what arrives after the reply supersedes it, and versions make a replay of older ones harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.account import SETTINGS, AccountMirror, Snapshot
from core.events import (
    AccountChanged,
    BalanceChanged,
    Event,
    Execution,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
)

_HELD = ("balance", "positions", "orders")


def reconcile(mirror: AccountMirror, snapshot: Snapshot) -> list[Event]:
    """Return the events that turn the mirror into the snapshot; an empty list means they agree.

    The balance is left out when the mirror already holds a higher balance version. Objects that the mirror holds in
    a newer version than the snapshot's are kept.
    """
    events: list[Event] = []
    if _account_differs(mirror, snapshot.account):
        events.append(snapshot.account)
    if snapshot.balance is not None and _balance_differs(mirror, snapshot.balance):
        events.append(snapshot.balance)
    held = {position.id for position in snapshot.positions}
    events.extend(PositionClosed(key) for key in mirror.positions if key not in held)
    for position in snapshot.positions:
        mine = mirror.positions.get(position.id)
        if mine is None or (mine != position and mine.updated_at_ms <= position.updated_at_ms):
            events.append(PositionChanged(position, margin_known=position.used_margin is not None))
    working = {order.id for order in snapshot.orders}
    events.extend(OrderGone(key) for key in mirror.orders if key not in working)
    for order in snapshot.orders:
        known = mirror.orders.get(order.id)
        if known is None or (known != order and known.updated_at_ms <= order.updated_at_ms):
            events.append(OrderChanged(order))
    return events


def empties(mirror: AccountMirror, snapshot: Snapshot) -> bool:
    """True when the snapshot would remove everything from a non-empty account: ask a second time before believing."""
    return mirror.at_risk and not snapshot.positions and not snapshot.orders


def rebuild(mirror: AccountMirror, snapshot: Snapshot, buffered: Sequence[Execution], now_ms: int) -> list[Event]:
    """Make the mirror equal to the snapshot plus the buffered executions, in one step.

    A copy is built aside from the snapshot, the buffered executions are replayed on it, and the differences to the
    mirror are applied and returned: what the stream had lost or what happened while nobody listened.
    """
    aside = AccountMirror(
        mirror.environment, mirror.account_id, mirror.catalogue, mirror.quote_digits, mirror.equity_rule
    )
    aside.apply_all(reconcile(aside, snapshot), now_ms)
    _keep_known_margins(mirror, aside)
    for execution in buffered:
        aside.apply(execution, now_ms)
    missing = reconcile(mirror, _reading(aside))
    changed = bool(missing) or any(getattr(mirror, name) != getattr(aside, name) for name in _HELD)
    mirror.replace_content(aside, now_ms, changed=changed)
    mirror.confirmed_at_ms = now_ms
    return missing


def _keep_known_margins(mirror: AccountMirror, aside: AccountMirror) -> None:
    for key, position in aside.positions.items():
        mine = mirror.positions.get(key)
        if position.used_margin is None and mine is not None:
            position.used_margin = mine.used_margin


def _reading(mirror: AccountMirror) -> Snapshot:
    account = AccountChanged(**{name: getattr(mirror, name) for name in SETTINGS})
    balance = BalanceChanged(mirror.balance, mirror.balance_version) if mirror.balance is not None else None
    return Snapshot(account, balance, tuple(mirror.positions.values()), tuple(mirror.orders.values()))


def _balance_differs(mirror: AccountMirror, balance: BalanceChanged) -> bool:
    held = mirror.balance_version
    if balance.version is not None and held is not None and balance.version < held:
        return False
    return mirror.balance != balance.balance or mirror.balance_version != balance.version


def _account_differs(mirror: AccountMirror, account: AccountChanged) -> bool:
    return any(
        getattr(account, name) is not None and getattr(account, name) != getattr(mirror, name) for name in SETTINGS
    )
