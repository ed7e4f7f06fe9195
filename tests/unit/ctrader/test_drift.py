"""Our figures against the broker's: what a difference tells."""

from decimal import Decimal

import pytest

from bridge.brokers.ctrader import drift
from bridge.brokers.ctrader.drift import Verdict
from protos.ctrader import messages_pb2, model_pb2

D = Decimal


@pytest.mark.parametrize(
    ("before", "after", "broker", "apart"),
    [
        ("10.00", "10.00", "10.00", 0),
        ("10.00", "10.00", "10.01", 0),  # rounding
        ("10.00", "10.00", "10.02", 1),
        ("10.00", "10.00", "9.98", 1),
        ("10.00", "11.00", "10.40", 0),  # the price moved through it
        ("11.00", "10.00", "10.40", 0),
        ("11.00", "10.00", "11.02", 1),
        (None, "10.00", "99", None),
        ("10.00", None, "99", None),
        ("10.00", "10.00", None, None),
    ],
)
def test_difference_counts_when_it_is_more_than_a_minor_unit(
    before: str | None, after: str | None, broker: str | None, apart: int | None
) -> None:
    ours, later, theirs = ({"1": None if text is None else D(text)} for text in (before, after, broker))
    assert drift.drifts(ours, later, theirs, 2) == apart


def test_each_position_counts_when_several_differ() -> None:
    ours = {"1": D(1), "2": D(2), "3": D(3)}
    assert drift.drifts(ours, ours, {"1": D(1), "2": D(5), "3": D(9), "4": D(1)}, 0) == 2


@pytest.mark.parametrize(
    ("apart", "changed", "verdict"),
    [
        (0, False, Verdict.AGREES),
        (0, True, Verdict.AGREES),
        (2, False, Verdict.DIFFERS),
        (2, True, Verdict.UNCLEAR),
        (None, False, Verdict.UNCLEAR),
    ],
)
def test_difference_tells_nothing_when_something_changed_meanwhile(
    apart: int | None, changed: bool, verdict: Verdict
) -> None:
    assert drift.judge(apart, changed=changed) is verdict


def test_figure_is_unknown_when_the_broker_sends_an_absurd_one() -> None:
    answer = messages_pb2.ProtoOAGetPositionUnrealizedPnLRes(ctidTraderAccountId=1, moneyDigits=2)
    for position, net in ((1, -1234), (2, 2**62)):
        answer.positionUnrealizedPnL.append(
            model_pb2.ProtoOAPositionUnrealizedPnL(positionId=position, grossUnrealizedPnL=0, netUnrealizedPnL=net)
        )
    assert drift.theirs(answer) == {"1": D("-12.34"), "2": None}
