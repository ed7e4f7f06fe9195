"""What a benchmark says must follow from what it measured: percentiles that occurred, and verdicts that can fail."""

import asyncio
import time

import pytest

from protos.ctrader import PAYLOAD_CLASSES, common_messages_pb2, messages_pb2, model_pb2
from scripts.benchmarks.frames import BATCH, amendments, prices
from scripts.benchmarks.measure import lagging, percentile
from scripts.benchmarks.parts import ALONE, NAMES, ON_THE_CROWD, parts
from scripts.benchmarks.report import Row, Spread, Target, at_least, at_most


def test_percentile_is_a_value_that_occurred_when_few_were_taken() -> None:
    readings = [float(number) for number in range(1, 11)]
    assert [percentile(readings, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 5, 9, 10, 10]


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (at_least(10), 10.0, "met"),
        (at_least(10), 9.0, "MISSED by 10 %"),
        (at_most(16, " KiB"), 16.0, "met"),
        (at_most(16, " KiB"), 20.0, "MISSED by 25 %"),
    ],
)
def test_verdict_says_by_how_much_when_a_target_is_missed(target: Target, value: float, verdict: str) -> None:
    row = Row("figure", "ours", "theirs", "1 ×", target, value)
    assert (row.verdict, row.met) == (verdict, verdict == "met")


def test_verdict_names_the_reason_when_a_target_is_missed() -> None:
    missed, met = (Row("figure", "ours", "theirs", "", at_most(1), value, reason="flush") for value in (2.0, 1.0))
    assert (missed.verdict, met.verdict) == ("MISSED by 100 %: flush", "met")
    assert Row("figure", "ours", "theirs", "", at_most(1), float("inf")).verdict == "MISSED"


def test_every_part_has_its_place_in_the_table_when_all_are_wanted() -> None:
    assert sorted(NAMES) == sorted([*ALONE, *ON_THE_CROWD])
    assert sorted(name for names, _ in parts(NAMES, quick=True) for name in names) == sorted(NAMES)


def test_crowd_is_cut_last_when_it_is_shared() -> None:
    assert parts(["mass-cut", "account", "event-store"], quick=True)[0][0][-1] == "mass-cut"


def test_row_is_not_judged_when_it_has_no_target() -> None:
    row = Row("figure", "ours", "theirs", "1 ×")
    assert (row.verdict, row.met, row.as_json()["target"]) == ("", None, None)


def test_spread_shows_median_and_both_ends_when_rounds_differ() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1, " ×") == "2.0 × (1.0–3.0)"


async def test_lag_is_seen_when_the_loop_is_held_up() -> None:
    async with lagging() as lag:
        await asyncio.sleep(0.01)
        time.sleep(0.05)
        await asyncio.sleep(0.01)
    assert lag.max_ms() >= 45


def unmasked(written: bytes) -> list[bytes]:
    """The messages of unmasked, unfragmented WebSocket frames of less than 64 KiB."""
    messages: list[bytes] = []
    while written:
        assert written[0] == 0x82
        start = 2 if written[1] < 126 else 4
        size = written[1] if start == 2 else int.from_bytes(written[2:4], "big")
        messages.append(written[start : start + size])
        written = written[start + size :]
    return messages


def test_frames_name_the_account_and_differ_when_a_batch_is_built() -> None:
    accepted = messages_pb2.ProtoOAExecutionEvent(ctidTraderAccountId=7, executionType=model_pb2.ORDER_ACCEPTED)
    order = accepted.order
    order.orderId, order.orderType, order.orderStatus = 3, model_pb2.LIMIT, model_pb2.ORDER_STATUS_ACCEPTED
    order.tradeData.symbolId, order.tradeData.volume, order.tradeData.tradeSide = 1, 100_000, model_pb2.BUY
    for written in (prices(7, (1, 2)), amendments(accepted.SerializeToString())):
        messages = unmasked(written)
        assert len(messages) == BATCH
        assert len(set(messages)) == BATCH
        for message in messages:
            envelope = common_messages_pb2.ProtoMessage.FromString(message)
            assert PAYLOAD_CLASSES[envelope.payloadType].FromString(envelope.payload).ctidTraderAccountId == 7
