"""Our own profit and loss against the broker's: compared, counted and never corrected (DESIGN §5). Decides only.

The broker computes P&L on request only. The two figures tell something when no price changed between question and
answer: then both sides used the same prices, since one connection keeps its order. When one did change, a figure
between ours before and ours after is as good as equal, and any other tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum, auto

from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.money import from_minor
from core.valuation import value_account
from protos.ctrader import messages_pb2

Figures = Mapping[str, Decimal | None]
"""Net P&L by position id; None where it is not known."""


class Verdict(Enum):
    """What a comparison tells of our prices."""

    AGREES = auto()
    DIFFERS = auto()
    UNCLEAR = auto()


def ours(mirror: AccountMirror) -> Figures:
    """Our figures, now."""
    return {key: value.unrealized_pnl for key, value in value_account(mirror).positions.items()}


def theirs(answer: messages_pb2.ProtoOAGetPositionUnrealizedPnLRes) -> Figures:
    """The broker's figures. Absurd ones are None."""
    figures: dict[str, Decimal | None] = {}
    for position in answer.positionUnrealizedPnL:
        try:
            figures[str(position.positionId)] = from_minor(position.netUnrealizedPnL, answer.moneyDigits)
        except ProtocolViolation:
            figures[str(position.positionId)] = None
    return figures


def basis(mirror: AccountMirror) -> list[tuple[object, ...]]:
    """What figures depend on besides prices: equal while no position changed."""
    return [(p.id, p.units, p.entry_price, p.swap, p.commission) for p in mirror.positions.values()]


def drifts(before: Figures, after: Figures, broker: Figures, money_digits: int) -> int | None:
    """Positions whose net P&L is more than one minor unit off what we had before and after the question.

    None when there was nothing to compare: those that one side cannot value are no drift.
    """
    tolerance = from_minor(1, money_digits)
    compared = apart = 0
    for key, figure in broker.items():
        first, last = before.get(key), after.get(key)
        if figure is None or first is None or last is None:
            continue
        compared += 1
        apart += not min(first, last) - tolerance <= figure <= max(first, last) + tolerance
    return apart if compared else None


def judge(apart: int | None, *, changed: bool) -> Verdict:
    """`apart` as from `drifts`; `changed`: prices or positions changed between question and answer."""
    if apart == 0:
        return Verdict.AGREES
    return Verdict.UNCLEAR if apart is None or changed else Verdict.DIFFERS
