"""The record: exact fields, exact numbers, strict JSON, and a freshness horizon that no reader can misread."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cache import shown as showing
from bridge.cache.record import Reading, RecordStatus, earlier_figures, is_fresh, make_record, stale_after_ms
from core.account import AccountMirror, Quote
from core.instruments import Catalogue, Hop, Instrument
from core.money import MAX_MINOR_UNITS, from_minor
from core.orders import Order, OrderType, Side
from core.positions import Position
from tests.unit.cache.builders import NOW_MS, Source, account, reading_of

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures" / "record_vectors.json").read_text(), parse_float=str)
EXPECTED = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "record_vectors.json").read_text(),
    parse_float=Decimal,
    parse_int=Decimal,
)


def refuse_constant(text: str) -> Any:
    raise AssertionError(f"not JSON: {text}")


def strict(document: bytes) -> Any:
    """The document as a strict reader sees it, numbers kept exactly."""
    return json.loads(document, parse_float=Decimal, parse_int=Decimal, parse_constant=refuse_constant)


def order_of_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, order_of_fields(each)) for key, each in value.items()]
    return [order_of_fields(each) for each in value] if isinstance(value, list) else None


@pytest.mark.parametrize("index", range(len(VECTORS["vectors"])), ids=[v["name"] for v in VECTORS["vectors"]])
def test_a_record_says_exactly_what_was_worked_by_hand(index: int) -> None:
    vector = VECTORS["vectors"][index]
    record = make_record(reading_of(vector), fence=vector["fence"], version=vector["version"], now_ms=vector["now"])
    expected = EXPECTED["vectors"][index]["document"]
    assert strict(record.document) == expected
    assert order_of_fields(strict(record.document)) == order_of_fields(expected)
    assert record.live == (vector["status"] == "live")
    assert record.stale_after_ms == vector["document"]["staleAfter"]


# ---------------------------------------------------------------- freshness


def test_a_record_is_fresh_for_ten_seconds_after_the_last_contact_when_positions_are_open() -> None:
    assert stale_after_ms(Source(account(at_risk=True)).reading()) == NOW_MS + 10_000


def test_a_record_is_fresh_for_ten_seconds_after_the_last_contact_when_only_orders_work() -> None:
    mirror = account(at_risk=False)
    mirror.orders["o"] = Order("o", "1", Side.BUY, OrderType.LIMIT, Decimal(1000))
    assert stale_after_ms(Source(mirror).reading()) == NOW_MS + 10_000


def test_a_record_is_fresh_for_a_minute_after_the_last_contact_when_the_account_is_empty() -> None:
    assert stale_after_ms(Source(account(at_risk=False)).reading()) == NOW_MS + 60_000


def test_the_horizon_counts_from_contact_and_never_from_writing() -> None:
    late = make_record(Source().reading(), fence=1, version=1, now_ms=NOW_MS + 9_000)
    assert late.stale_after_ms == NOW_MS + 10_000
    assert strict(late.document)["staleAfter"] == NOW_MS + 10_000


@pytest.mark.parametrize("status", list(RecordStatus))
def test_only_a_live_record_within_its_horizon_is_fresh(status: RecordStatus) -> None:
    record = strict(make_record(Source(status=status).reading(), fence=1, version=1, now_ms=NOW_MS).document)
    live = status is RecordStatus.LIVE
    stale_after = int(record["staleAfter"])
    assert is_fresh(record["status"], stale_after, NOW_MS + 9_999) is live
    assert is_fresh(record["status"], stale_after, NOW_MS + 10_000) is False


def test_a_live_record_is_never_fresh_when_the_broker_was_never_heard() -> None:
    record = strict(make_record(Source(as_of_ms=None).reading(), fence=1, version=1, now_ms=NOW_MS).document)
    assert record["staleAfter"] is None
    assert not is_fresh(record["status"], record["staleAfter"], NOW_MS)
    assert not is_fresh("live", "9999999999999", NOW_MS)


# ---------------------------------------------------------------- absent data


def test_lots_are_null_when_the_broker_has_none() -> None:
    mirror = account()
    mirror.catalogue.instruments["1"] = Instrument("1", "EURUSD", 5, "EUR", "USD", None)
    assert (
        strict(make_record(Source(mirror).reading(), fence=1, version=1, now_ms=NOW_MS).document)["positions"][0][
            "lots"
        ]
        is None
    )


def test_symbol_lots_and_digits_are_null_when_the_instrument_is_unknown() -> None:
    mirror = account()
    mirror.catalogue.instruments.clear()
    position = strict(make_record(Source(mirror).reading(), fence=1, version=1, now_ms=NOW_MS).document)["positions"][0]
    assert [position[name] for name in ("symbol", "lots", "priceDigits", "unrealizedPnl")] == [None] * 4
    assert position["currentPrice"] == Decimal("1.1")


def test_total_margin_is_null_when_one_position_does_not_say_its_margin() -> None:
    mirror = account()
    mirror.positions["p"].used_margin = None
    record = strict(make_record(Source(mirror).reading(), fence=1, version=1, now_ms=NOW_MS).document)
    assert [record[name] for name in ("usedMargin", "freeMargin", "marginLevel")] == [None] * 3
    assert record["equity"] is not None


def test_one_valuation_serves_the_whole_record(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[AccountMirror] = []
    value = showing.value_account

    def counting(mirror: AccountMirror) -> Any:
        calls.append(mirror)
        return value(mirror)

    monkeypatch.setattr(showing, "value_account", counting)
    monkeypatch.setattr(showing, "stakes_of", lambda mirror: None)
    make_record(Source().reading(), fence=1, version=1, now_ms=NOW_MS)
    assert len(calls) == 1


# ---------------------------------------------------------------- any account

MINOR = st.integers(-MAX_MINOR_UNITS, MAX_MINOR_UNITS)
DIGITS = st.integers(0, 8)


@given(amount=MINOR, digits=DIGITS)
def test_money_comes_out_exactly_as_the_broker_sent_it(amount: int, digits: int) -> None:
    mirror = account(at_risk=False)
    mirror.balance = from_minor(amount, digits)
    mirror.money_digits = digits
    record = strict(make_record(Source(mirror).reading(), fence=1, version=1, now_ms=NOW_MS).document)
    assert record["balance"].scaleb(digits) == amount
    assert record["equity"] == record["balance"]


PRICES = st.decimals("0.00001", "99999.99999", places=5)
SMALL_MONEY = st.decimals(-1_000_000, 1_000_000, places=2)
TEXTS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@st.composite
def mirrors(draw: st.DrawFn) -> AccountMirror:
    catalogue = Catalogue(
        {
            "1": Instrument("1", draw(TEXTS) or "EURUSD", 5, "EUR", "USD", Decimal(100_000)),
            "2": Instrument("2", "USDJPY", 3, "USD", "JPY", draw(st.sampled_from([None, Decimal(3)]))),
        },
        {("JPY", "USD"): (Hop("2", True),)},
    )
    mirror = AccountMirror("demo", "1", catalogue, currency="USD", balance=draw(st.none() | SMALL_MONEY))
    mirror.confirmed_at_ms = NOW_MS
    mirror.login, mirror.broker_title = draw(TEXTS), draw(TEXTS)
    ticks = st.none() | st.integers(0, 10**10)
    mirror.quotes = {number: Quote(draw(ticks), draw(ticks)) for number in draw(st.sets(st.sampled_from("12")))}
    for number in range(draw(st.integers(0, 3))):
        mirror.positions[str(number)] = Position(
            str(number),
            draw(st.sampled_from("123")),
            draw(st.sampled_from(list(Side))),
            draw(st.decimals("0.01", 10**9, places=2)),
            draw(PRICES),
            draw(st.none() | PRICES),
            None,
            draw(SMALL_MONEY),
            draw(SMALL_MONEY),
            draw(st.none() | SMALL_MONEY),
        )
    return mirror


@given(mirror=mirrors(), status=st.sampled_from(list(RecordStatus)), as_of=st.none() | st.integers(0, 2**43))
def test_every_record_is_strict_json_with_the_same_fields_whatever_the_account_holds(
    mirror: AccountMirror, status: RecordStatus, as_of: int | None
) -> None:
    reading = Reading("ctrader", "demo", "1", status, None, mirror, as_of)
    record = strict(make_record(reading, fence=1, version=1, now_ms=NOW_MS).document)
    assert list(record) == list(EXPECTED["vectors"][0]["document"])
    assert record["login"] == mirror.login
    assert len(record["positions"]) == len(mirror.positions)
    for shown, held in zip(record["positions"], mirror.positions.values(), strict=True):
        assert list(shown) == list(EXPECTED["vectors"][0]["document"]["positions"][0])
        assert (shown["swap"], shown["commission"], shown["usedMargin"]) == (
            held.swap,
            held.commission,
            held.used_margin,
        )
        assert (shown["units"], shown["entryPrice"], shown["stopLoss"]) == (
            held.units,
            held.entry_price,
            held.stop_loss,
        )


# ---------------------------------------------------------------- an earlier life


def taken_over(document: bytes, **changes: Any) -> Any:
    """What a process writes that has read nothing yet and found `document` in the store."""
    names = {"broker": "ctrader", "environment": "demo", "account_id": "1", **changes}
    earlier = earlier_figures(document, **names)
    reading = Reading("ctrader", "demo", names["account_id"], RecordStatus.STARTING, None, None, None, earlier)
    return strict(make_record(reading, fence=8, version=1, now_ms=NOW_MS + 5_000).document)


def test_the_last_figures_stay_visible_and_stay_stale_until_the_account_was_read_again() -> None:
    before = make_record(Source(account()).reading(), fence=7, version=9, now_ms=NOW_MS).document
    now = taken_over(before)
    same = {"status": "starting", "fence": 8, "version": 1, "_cacheTimestamp": NOW_MS + 5_000}
    assert now == strict(before) | same
    assert order_of_fields(now) == order_of_fields(strict(before))
    assert not is_fresh(now["status"], now["staleAfter"], NOW_MS)


@pytest.mark.parametrize(
    "change", [{"account_id": "2"}, {"environment": "live"}, {"broker": "other"}, {"account_id": None}]
)
def test_figures_of_another_account_are_never_shown(change: dict[str, Any]) -> None:
    before = make_record(Source(account()).reading(), fence=7, version=9, now_ms=NOW_MS).document
    assert earlier_figures(before, **{"broker": "ctrader", "environment": "demo", "account_id": "1", **change}) is None


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"null", b'{"schema": 2}', b'{"schema": 1, "broker": "ctrader", "environment": "demo"}']
    + [
        b'{"schema": 1, "broker": "ctrader", "environment": "demo", "accountId": "1", %b}' % wrong
        for wrong in (b'"positions": {}', b'"orders": "x"', b'"staleAfter": "soon"', b'"asOf": 1.5')
    ],
)
def test_whatever_else_stands_in_the_store_is_ignored(document: bytes) -> None:
    now = taken_over(document)
    assert now["balance"] is now["positions"] is now["staleAfter"] is now["asOf"] is None


def test_figures_of_an_earlier_life_end_with_the_first_reading() -> None:
    earlier = earlier_figures(
        make_record(Source(account("5.00")).reading(), fence=7, version=9, now_ms=NOW_MS).document,
        broker="ctrader",
        environment="demo",
        account_id="1",
    )
    reading = Reading("ctrader", "demo", "1", RecordStatus.LIVE, None, account("6.00"), NOW_MS, earlier)
    assert strict(make_record(reading, fence=8, version=2, now_ms=NOW_MS).document)["balance"] == 6
