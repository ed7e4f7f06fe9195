"""Groups, replacements, cancels and prices that meet each other all the time: the dense neighbour of test_life.

Seeded, and weighted towards what chance alone seldom brings together: exits that fill while they are being replaced,
partial fills on both sides of a group, entries that change their size.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

import pytest

from bridge.simulator.alpaca.refusals import ApiRefusal
from tests.unit.simulator.alpaca.books import TYPES, Books
from tests.unit.simulator.alpaca.house import dec


def price_near(books: Books, rng: random.Random, width: int) -> str:
    return str(books.house.world.prices.quote("AAPL").price + dec(rng.randint(-width * 100, width * 100)).scaleb(-2))


def replace_one(books: Books, rng: random.Random) -> None:
    orders = list(books.house.account.open_orders.values())
    if orders:
        order = rng.choice(orders)
        change = {"limit": "limit_price", "stop": "stop_price", "stop_limit": "stop_price", "trailing_stop": "trail"}
        name = rng.choice(["qty", change.get(order.type, "qty")])
        value = "9" if name == "qty" else "3" if name == "trail" else price_near(books, rng, 12)
        with suppress(ApiRefusal):
            books.house.world.replace(books.house.account, order.id, {name: value}, books.house.now_ms)


def busy_step(books: Books, rng: random.Random) -> None:
    """One operation of the kinds that meet each other most: groups, prices near them, replacements, cancels, time."""
    side, tif = rng.choice(["buy", "sell"]), rng.choice(["day", "gtc"])
    at = None if rng.random() < 0.6 else price_near(books, rng, 3)
    match rng.choices(
        ["group", "move", "single", "replace", "cancel", "wait", "close", "market"], [8, 12, 3, 5, 2, 6, 1, 1]
    )[0]:
        case "group":
            name = rng.choice(["bracket", "bracket", "oto", "oco"])
            books.group(side, rng.choice(["1", "7", "10"]), name, at, rng.randint(1, 6), tif)
        case "move":
            size = rng.choice([None, None, "0", "3"])
            books.move(price_near(books, rng, 8), size)
        case "single":
            kind = rng.choice(TYPES)
            books.single(side, rng.choice(["2", "5"]), kind, price_near(books, rng, 5), tif, False)
        case "replace":
            replace_one(books, rng)
        case "cancel":
            books.cancel(rng.randrange(6))
        case "wait":
            books.house.advance(rng.choice([0, 0, 0, 1000, 5 * 3_600_000]))
        case "close":
            books.house.world.close_all(books.house.account, rng.random() < 0.5, books.house.now_ms)
        case "market":
            books.house.world.set_market(rng.choice(["open", "open", "extended", "closed"]), books.house.now_ms)


@pytest.mark.parametrize("seed", [100, 106, 112, 123, 167])
def test_books_are_in_order_after_a_busy_life(seed: int) -> None:
    books, rng = Books(0.3, seed), random.Random(seed)
    for _ in range(800):
        busy_step(books, rng)
        books.what_closes_has_something_to_close()
        books.nothing_is_promised_twice()
    books.check()
    told = Counter(payload["event"] for payload in books.told)
    assert min(told[event] for event in ("fill", "partial_fill", "restated", "canceled", "replaced", "held")) > 0
