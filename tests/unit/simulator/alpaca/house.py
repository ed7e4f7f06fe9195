"""A simulated Alpaca with standing prices and short ways to act on it, and what its stream said, for tests."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from bridge.simulator.alpaca.refusals import ApiRefusal
from bridge.simulator.alpaca.world import World, WorldSettings

# Wednesday 2026-11-18, 06:06:40 in New York.
START_MS = 1_795_000_000_000
CALL, HIGH_CALL = "AAPL350119C00200000", "AAPL350119C00240000"


def dec(text: str | int) -> Decimal:
    return Decimal(str(text))


class House:
    """User 1's paper account by default; `updates` hold (account id, payload) of everything the stream said."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        settings = {"users": 2, "prices": "frozen", "partial_fill_share": 0.0, **settings}
        self.now_ms = START_MS
        self.world = World(WorldSettings(**settings), random.Random(seed), START_MS)
        self.account = self.world.of_user[1][0]
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.world.on_update = lambda account_id, payload: self.updates.append((account_id, payload))

    def quote(self, symbol: str, bid: str, ask: str | None = None, **more: Any) -> None:
        more = {name: dec(value) for name, value in more.items()}
        self.world.set_quote(symbol, self.now_ms, bid=dec(bid), ask=dec(ask or bid), **more)

    def place(self, symbol: str = "AAPL", qty: Any = None, side: str = "buy", **body: Any) -> dict[str, Any]:
        whole = {"symbol": symbol, "side": side, "type": "market", "time_in_force": "day", **body}
        if qty is not None:
            whole["qty"] = qty
        return self.world.place(self.account, whole, self.now_ms)

    def limit(self, symbol: str, qty: Any, side: str, price: str, **body: Any) -> dict[str, Any]:
        return self.place(symbol, qty, side, type="limit", limit_price=price, **body)

    def bracket(self, qty: Any = 10, side: str = "buy", *, profit: str, loss: str, **body: Any) -> dict[str, Any]:
        exits = {"take_profit": {"limit_price": profit}, "stop_loss": {"stop_price": loss}}
        return self.place("AAPL", qty, side, order_class="bracket", **exits, **body)

    def oco(self, qty: Any = 10, side: str = "sell", *, profit: str, loss: str, **body: Any) -> dict[str, Any]:
        exits = {"take_profit": {"limit_price": profit}, "stop_loss": {"stop_price": loss}}
        return self.place("AAPL", qty, side, type="limit", order_class="oco", **exits, **body)

    def replace(self, order: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return self.world.replace(self.account, order["id"], changes, self.now_ms)

    def cancel(self, order: dict[str, Any]) -> None:
        self.world.cancel(self.account, order["id"], self.now_ms)

    def advance(self, ms: int = 0) -> None:
        self.now_ms += ms
        self.world.advance(self.now_ms)

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        return self.world.order(self.account, order["id"])

    def status(self, order: dict[str, Any]) -> str:
        return str(self.order(order)["status"])

    def position(self, symbol: str = "AAPL") -> dict[str, Any]:
        return self.world.position(self.account, symbol)

    def document(self) -> dict[str, Any]:
        return self.world.account_document(self.account)

    def events(self) -> list[str]:
        """Names of what the stream said since the last time this was asked."""
        said = [payload["event"] for _, payload in self.updates]
        self.updates.clear()
        return said


class Refused:
    """`with Refused(40310000, "insufficient") as check:` — the block must be refused so; `check.extra` after it."""

    def __init__(self, code: int, words: str) -> None:
        self._code, self._words = code, words
        self.extra: dict[str, Any] = {}

    def __enter__(self) -> Refused:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ApiRefusal):
            if error is None:
                pytest.fail("nothing was refused")
            return False
        assert (error.code, error.status) == (self._code, 422 if self._code == 40010001 else self._code // 100_000)
        assert self._words in error.message
        self.extra = error.extra
        return True
