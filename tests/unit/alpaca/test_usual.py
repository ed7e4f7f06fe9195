"""The direct way for usual updates says what the general way says, or nothing; a hub holds the same by either way."""

import asyncio
from dataclasses import fields
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.brokers.alpaca import frames, updates, usual
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.updates import Facts
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.events import Fill
from core.orders import Order, OrderType, Side
from core.positions import Position
from tests.unit.alpaca.documents import AAPL, TIME, TIME_MS, a_fill, a_mirror, a_position, an_order
from tests.unit.alpaca.test_login_steps import Rig

COIN, OPTION = "276e2673-764b-4ab6-a611-caf665ca6340", "8bd3d0b1-ea7a-4a7c-a4f5-1a2b3c4d5e6f"
NAMES = {AAPL: "AAPL", COIN: "BTC/USD", OPTION: "AAPL270115C00200000"}
EVENTS = [*sorted(updates.SAY_ALL), "trade_bust", "trade_correct", "replaced", "restated", "tomorrow", "", None, 7]
PLAIN_STATES = ["new", "partially_filled", "filled", "canceled", "held", "pending_cancel"]
STATES = [*PLAIN_STATES, "replaced", "tomorrow", "", None, 3]
TIMES = [TIME, "2026-11-20T14:30:05Z", "2026-11-20T09:29:00.5-05:00", "2026-11-20T14:30:00", "then", "", None, 5]
NUMBERS: list[Any] = [
    "10",
    "0.5",
    "0",
    "100.25",
    "",
    None,
    "-1",
    "NaN",
    "Infinity",
    "1e3",
    "1" * 16,
    "x",
    10,
    0.5,
    True,
    [],
    {},
]
IDS = ["o1", "o2", "e1", "e2", "", None, "i" * 128, "i" * 129, "ü", "a\nb", 7]
WORDS = ["", "simple", "bracket", "mleg", None, 7]
ODD: dict[str, list[Any]] = {
    "id": IDS,
    "client_order_id": IDS,
    "asset_id": [*NAMES, "unknown", "", None, 7, "00000000-0000-0000-0000-000000000000"],
    "symbol": [*NAMES.values(), "BTCUSD", "NEW", "", None, 7],
    "qty": NUMBERS,
    "filled_qty": NUMBERS,
    "notional": NUMBERS,
    "type": ["market", "limit", "stop_limit", "tomorrow", "", None, 7],
    "side": ["buy", "sell", "sell_short", "tomorrow", "", None, 7],
    "limit_price": NUMBERS,
    "stop_price": NUMBERS,
    "status": STATES,
    "order_class": WORDS,
    "created_at": TIMES,
    "updated_at": TIMES,
    "submitted_at": TIMES,
    "legs": [None, [], [an_order(id="leg")], [3], {}, "x"],
    "surprise": [1, {"a": [None]}, "x"],
}
ODD_AROUND: dict[str, list[Any]] = {
    "event": EVENTS,
    "timestamp": TIMES,
    "at": TIMES,
    "execution_id": IDS,
    "event_id": IDS,
    "price": NUMBERS,
    "qty": NUMBERS,
    "position_qty": [*NUMBERS, "-4", "14"],
    "position_qtys": [None, {}, {"AAPL": "4"}],
    "legs": [None, [], [{"id": "leg", "qty": "1", "price": "2"}]],
    "order": [None, [], 7, {}],
}


def changes(odd: dict[str, list[Any]]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """A few fields that are gone (...), or hold something else."""
    change = st.sampled_from(sorted(odd)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from([..., *odd[name]]))
    )
    return st.one_of(st.just([]), st.lists(change, max_size=3))


def changed(source: dict[str, Any], by: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(source)
    for name, value in by:
        made.pop(name, None)
        if value is not ...:
            made[name] = value
    return made


@st.composite
def some_updates(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(NAMES)))
    status = draw(st.sampled_from(PLAIN_STATES))
    plain = an_order(
        id=draw(st.sampled_from(["o1", "o2"])),
        asset_id=key,
        symbol=NAMES[key],
        status=status,
        side=draw(st.sampled_from(["buy", "sell"])),
        filled_qty=draw(st.sampled_from(["0", "4"])),
        updated_at=draw(st.sampled_from(TIMES[:3])),
    )
    order = changed(plain, draw(changes(ODD)))
    data = {"event": draw(st.sampled_from(EVENTS[:6])), "timestamp": TIME, "order": order}
    if draw(st.booleans()):
        position = draw(st.sampled_from(["4", "-4", "0", "14", "1"]))
        data = a_fill(draw(st.sampled_from(["e1", "e2", "e3"])), order=order, position_qty=position)
        data["event"] = draw(st.sampled_from(sorted(updates.FILLS)))
    return changed(data, draw(changes(ODD_AROUND)))


def in_frame(data: Any) -> bytes:
    return orjson.dumps({"stream": "trade_updates", "data": data})


def known_assets() -> Assets:
    assets = Assets()
    for key, name in NAMES.items():
        assets.of_asset({"id": key, "symbol": name})
    return assets


def general(data: Any, mirror: AccountMirror, assets: Assets, known: set[str]) -> tuple[str, Facts] | None:
    try:
        update = updates.read(data)
        return update.event, updates.facts(update, mirror, assets, known.__contains__)
    except ProtocolViolation:
        return None


@st.composite
def mirrors(draw: st.DrawFn) -> tuple[AccountMirror, Assets]:
    assets = known_assets()
    mirror = a_mirror(assets)
    mirror.balance = draw(st.sampled_from([None, Decimal(1000), Decimal("-0.05")]))
    for key in draw(st.lists(st.sampled_from(sorted(NAMES)), max_size=2)):
        at_ms = draw(st.sampled_from([TIME_MS, TIME_MS + 1]))
        mirror.note_fill(Fill("e0", "o0", key, Side.BUY, Decimal(1), Decimal(1), at_ms))
    for key in draw(st.lists(st.sampled_from(["o1", "o2"]), unique=True)):
        mirror.orders[key] = Order(key, AAPL, Side.SELL, OrderType.STOP, Decimal(7))
    for key in draw(st.lists(st.sampled_from(sorted(NAMES)), unique=True)):
        side = draw(st.sampled_from(Side))
        mirror.positions[key] = Position(key, key, side, Decimal(4), Decimal("99.5"), cost=Decimal(398))
    return mirror, assets


@given(some_updates(), mirrors(), st.sets(st.sampled_from(["e1", "e2"])))
def test_direct_way_says_what_the_general_way_says_when_it_says_anything(
    data: dict[str, Any], account: tuple[AccountMirror, Assets], known: set[str]
) -> None:
    mirror, assets = account
    before = repr((mirror, assets.catalogue))
    direct = usual.facts(in_frame(data), mirror, assets, known.__contains__)
    assert repr((mirror, assets.catalogue)) == before
    if direct is not None:
        assert repr(direct) == repr(general(data, mirror, assets, known))  # the times of versions too
        assert repr((mirror, assets.catalogue)) == before  # it would have changed nothing either


@pytest.mark.parametrize("status", PLAIN_STATES)
@pytest.mark.parametrize("event", sorted(updates.SAY_ALL))
def test_direct_way_is_taken_when_nothing_is_odd(event: str, status: str) -> None:
    assets = known_assets()
    mirror = a_mirror(assets)
    mirror.balance = Decimal(1000)
    mirror.orders["o1"] = Order("o1", AAPL, Side.BUY, OrderType.LIMIT, Decimal(10))
    data = {**a_fill(order=an_order(status=status)), "event": event}
    direct = usual.facts(in_frame(data), mirror, assets, set[str]().__contains__)
    assert direct is not None
    assert repr(direct) == repr(general(data, mirror, assets, set()))


def test_direct_way_says_nothing_when_an_execution_was_overtaken() -> None:
    assets = known_assets()
    mirror = a_mirror(assets)
    mirror.balance = Decimal(1000)
    mirror.orders["o1"] = Order("o1", AAPL, Side.BUY, OrderType.LIMIT, Decimal(10))
    mirror.note_fill(Fill("e0", "o0", AAPL, Side.BUY, Decimal(1), Decimal(1), TIME_MS))
    assert usual.facts(in_frame(a_fill()), mirror, assets, set[str]().__contains__) is not None
    mirror.note_fill(Fill("e2", "o0", AAPL, Side.BUY, Decimal(1), Decimal(1), TIME_MS + 1))
    assert usual.facts(in_frame(a_fill()), mirror, assets, set[str]().__contains__) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01",
        b"{",
        b"[]",
        b"null",
        b'{"stream":"trade_updates"}',
        b'{"stream":"listening","data":{"streams":["trade_updates"]}}',
        b"[" * 100_000,
        b'{"x":' * 100_000,
        in_frame(a_fill()).replace(b'"o1"', b'"\xff\xfe"'),
        in_frame(a_fill()).replace(b'"o1"', b'"\\ud800"'),
        in_frame(a_fill()) + b"x",
        in_frame(a_fill()).replace(b'"100"', b"NaN"),
        in_frame(a_fill()).replace(b'"100"', b"1" * 5000),
    ],
)
def test_direct_way_says_nothing_when_a_frame_is_something_else(frame: bytes) -> None:
    assets = known_assets()
    assert usual.facts(frame, a_mirror(assets), assets, set[str]().__contains__) is None


def state(rig: Rig) -> dict[str, Any]:
    """All that an account holds which updates may change."""
    hub = rig.hub
    return {
        "mirror": {each.name: repr(getattr(hub.mirror, each.name)) for each in fields(hub.mirror) if plain(each.name)},
        "quotes": {key: (quote.bid, quote.ask) for key, quote in hub.mirror.quotes.items()},
        "memory": repr(vars(hub.memory)),
        "counted": rig.stats.read(),
        "updates": hub.updates,
        "wanted at": hub.upkeep._plan._read_at,
        "kept": hub.kept(),
        "assets": repr(hub.assets.catalogue),
    }


def plain(name: str) -> bool:
    return name not in ("on_dirty", "catalogue", "quotes")


class Nobody:
    """Knows of no order that is asked for."""

    async def order(self, order_id: str, priority: object) -> None:
        return None


async def live_rig() -> Rig:
    rig = Rig()
    for key, name in NAMES.items():
        rig.hub.assets.of_asset({"id": key, "symbol": name})
    held = [a_position(), a_position(asset_id=COIN, symbol="BTCUSD", asset_class="crypto", side="short", qty="-4")]
    await rig.live(positions=held, orders=[an_order(), an_order(id="o2", asset_id=COIN, symbol="BTC/USD")])
    rig.hub.requests = Nobody()  # type: ignore[assignment]
    return rig


async def follow(story: list[tuple[dict[str, Any], bool]], *, live: bool, directly: bool) -> dict[str, Any]:
    """An account after these updates, each perhaps while a reading is under way."""
    rig = await live_rig()
    rig.hub.live = live
    for data, reading in story:
        if not reading:
            rig.hub.buffer = None
        elif rig.hub.buffer is None:
            rig.hub.buffer = []
        frame = in_frame(data)
        if not (directly and rig.hub.usual(frame)):
            rig.hub.update(frames.read(frame)["data"])
        rig.clock.advance(0.1)
        await asyncio.sleep(0)
    found = state(rig)
    rig.hub.live = False
    rig.hub.upkeep.stop()
    await rig.tasks.close()
    return found


@settings(max_examples=40)
@given(st.lists(st.tuples(some_updates(), st.booleans()), max_size=8), st.booleans())
@example([(a_fill(), True)], True)
@example([(a_fill(), False), (a_fill(), False), (a_fill("e2", position_qty="0"), False)], True)
def test_account_is_the_same_when_usual_updates_go_the_direct_way(
    story: list[tuple[dict[str, Any], bool]], live: bool
) -> None:
    directly = asyncio.run(follow(story, live=live, directly=True))
    assert directly == asyncio.run(follow(story, live=live, directly=False))
