"""The model that any life of the simulated Alpaca is held against: the stream itself.

Cash and positions are worked out again from the executions and fees that were told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.refusals import ApiRefusal
from tests.unit.simulator.alpaca.house import CALL, HIGH_CALL, House, dec

FINAL = {"filled", "canceled", "expired", "replaced", "rejected"}
# What may be said of an order after what, written down from reference §8.2 and not from the code.
NEXT = {
    "": {"new", "accepted", "held", "rejected", "canceled"},  # an oco whose take-profit fills at once
    "accepted": {"new", "accepted", "canceled", "expired", "rejected", "pending_cancel", "restated"},
    "held": {"new", "accepted", "canceled", "expired", "pending_cancel", "restated"},
    "new": {"partial_fill", "fill", "canceled", "expired", "pending_cancel", "pending_replace", "restated"},
    "pending_cancel": {"partial_fill", "fill", "canceled", "expired", "restated"},
    "pending_replace": {
        "partial_fill", "fill", "replaced", "canceled", "expired", "order_replace_rejected", "restated",
    },
}  # fmt: skip
NEXT["partial_fill"] = NEXT["restated"] = NEXT["new"] | {
    "replaced",
    "order_replace_rejected",
    "held",
    "new",
    "accepted",
}
NEXT["order_replace_rejected"] = NEXT["new"]
ENDS = {"fill", "canceled", "expired", "replaced", "rejected"}
STATUS_OF = {
    "new": "new", "accepted": "accepted", "held": "held", "fill": "filled", "canceled": "canceled",
    "expired": "expired", "rejected": "rejected", "replaced": "replaced", "pending_cancel": "pending_cancel",
    "pending_replace": "pending_replace",
}  # fmt: skip
TYPES = ["market", "limit", "stop", "stop_limit", "trailing_stop"]
TIMES = ["day", "gtc", "ioc", "fok", "opg", "cls"]


class Books:
    """One account's life: operations that may be refused, and checks of what must always hold."""

    def __init__(self, share: float, seed: int) -> None:
        self.house = House(seed, partial_fill_share=share)
        self.last: dict[str, str] = {}
        self.told: list[dict[str, Any]] = []
        self.house.world.on_update = self.hear
        self.house.quote("AAPL", "226.00", "226.04")

    def hear(self, account_id: str, payload: dict[str, Any]) -> None:
        assert account_id == self.house.account.id
        order = payload["order"]
        before = self.last.get(order["id"], "")
        assert before not in ENDS, f"{payload['event']} after {before}"
        assert payload["event"] in NEXT[before], f"{payload['event']} after {before or 'nothing'}"
        self.last[order["id"]] = payload["event"]
        if payload["event"] in STATUS_OF:
            assert order["status"] == STATUS_OF[payload["event"]]
        now = self.house.world.order(self.house.account, order["id"])
        assert (now["status"], now["filled_qty"]) == (order["status"], order["filled_qty"])
        self.told.append(payload)

    def ask(self, **body: Any) -> None:
        with suppress(ApiRefusal):
            self.house.place(**body)

    def single(self, side: str, qty: str, kind: str, price: str, tif: str, extended: bool) -> None:
        prices: dict[str, Any] = {
            "market": {}, "limit": {"limit_price": price}, "stop": {"stop_price": price},
            "stop_limit": {"stop_price": price, "limit_price": price}, "trailing_stop": {"trail_percent": "2"},
        }[kind]  # fmt: skip
        self.ask(qty=qty, side=side, type=kind, time_in_force=tif, extended_hours=extended, **prices)

    def group(self, side: str, qty: str, name: str, at: str | None, width: int, tif: str) -> None:
        base = dec(at) if at is not None else self.house.world.prices.quote("AAPL").price
        sign = (1 if side == "buy" else -1) * (-1 if name == "oco" else 1)
        exits: dict[str, Any] = {"stop_loss": {"stop_price": str(base - sign * width)}}
        if name != "oto":
            exits["take_profit"] = {"limit_price": str(base + sign * width)}
        kind = "limit" if at is not None or name == "oco" else "market"
        prices = {} if kind == "market" or name == "oco" else {"limit_price": str(base)}
        self.ask(qty=qty, side=side, type=kind, order_class=name, time_in_force=tif, **exits, **prices)

    def crypto(self, side: str, qty: str, tif: str) -> None:
        self.ask(symbol="BTC/USD", qty=qty, side=side, time_in_force=tif)

    def notional(self, side: str, amount: str) -> None:
        self.ask(symbol="AAPL", side=side, notional=amount)

    def spread(self, opens: bool, limit: str | None) -> None:
        word = "open" if opens else "close"
        first, second = ("buy", "sell") if opens else ("sell", "buy")
        legs = [
            {"symbol": CALL, "ratio_qty": "1", "position_intent": f"{first}_to_{word}"},
            {"symbol": HIGH_CALL, "ratio_qty": "1", "position_intent": f"{second}_to_{word}"},
        ]
        body: dict[str, Any] = {"order_class": "mleg", "legs": legs, "type": "market", "time_in_force": "day"}
        if limit is not None:
            body |= {"type": "limit", "limit_price": limit}
        self.ask(symbol=None, side=None, qty=1, **body)

    def pick(self, which: int) -> str | None:
        ids = [row["id"] for row in self.house.world.orders(self.house.account, {"status": "all"})]
        return ids[which % len(ids)] if ids else None

    def cancel(self, which: int) -> None:
        order_id = self.pick(which)
        if order_id is not None:
            with suppress(ApiRefusal):
                self.house.world.cancel(self.house.account, order_id, self.house.now_ms)

    def replace(self, which: int, changes: str, price: str) -> None:
        order_id = self.pick(which)
        if order_id is not None:
            value = {"qty": "9", "trail": "3"}.get(changes, price)
            with suppress(ApiRefusal):
                self.house.world.replace(self.house.account, order_id, {changes: value}, self.house.now_ms)

    def close_all(self, cancel: bool) -> None:
        self.house.world.close_all(self.house.account, cancel, self.house.now_ms)

    def cancel_all(self) -> None:
        self.house.world.cancel_all(self.house.account, self.house.now_ms)

    def move(self, price: str, size: str | None) -> None:
        sizes = {} if size is None else {"bid_size": size, "ask_size": size}
        self.house.quote("AAPL", price, str(dec(price) + dec("0.04")), **sizes)

    def move_other(self, symbol: str, up: bool) -> None:
        last = self.house.world.prices.quote(symbol).price
        self.house.quote(symbol, str(round(last * (dec("1.1") if up else dec("0.9")), 2)))

    def wait(self, ms: int) -> None:
        self.house.advance(ms)

    def market(self, state: str) -> None:
        self.house.world.set_market(state, self.house.now_ms)

    def pay(self, amount: str) -> None:
        self.house.world.deposit(self.house.account, dec(amount), self.house.now_ms)

    def executions(self) -> list[tuple[str, str, Decimal, Decimal, str]]:
        """(execution id, symbol, signed qty, price, order id) as the stream told them."""
        rows = []
        for payload in self.told:
            if payload["event"] not in ("fill", "partial_fill"):
                continue
            order = payload["order"]
            parts = payload.get("legs") or [
                {**payload, "symbol": order["symbol"], "side": order["side"], "order_id": order["id"]}
            ]
            for part in parts:
                sign = 1 if part["side"] == "buy" else -1
                rows.append(
                    (
                        part["execution_id"],
                        part["symbol"],
                        sign * dec(part["qty"]),
                        dec(part["price"]),
                        part["order_id"],
                    )
                )
        return rows

    def books_agree_with_what_was_told(self) -> None:
        house = self.house
        cash = Decimal(0)
        units: dict[str, Decimal] = defaultdict(Decimal)
        for _, symbol, qty, price, _ in self.executions():
            cash -= qty * price * (100 if len(symbol) > 10 else 1)
            units[symbol.replace("/", "")] += qty
        for row in (each.row for each in house.account.activities):
            if row["activity_type"] != "FILL":
                cash += dec(row["net_amount"])
                units[row["symbol"].replace("/", "")] += dec(row["qty"] or 0)
        assert dec(house.document()["cash"]) == cash
        held = {row["symbol"]: dec(row["qty"]) for row in house.world.positions(house.account)}
        assert held == {symbol: qty for symbol, qty in units.items() if qty}

    def nothing_is_promised_twice(self) -> None:
        for row in self.house.world.positions(self.house.account):
            qty, available = dec(row["qty"]), dec(row["qty_available"])
            assert 0 <= abs(available) <= abs(qty)
            assert available * qty >= 0
        assert dec(self.house.document()["buying_power"]) >= 0

    def what_closes_has_something_to_close(self) -> None:
        held = {row["symbol"]: dec(row["qty"]) for row in self.house.world.positions(self.house.account)}
        for row in self.house.world.orders(self.house.account, {"limit": "500"}):
            if row["position_intent"].endswith("close") and row["status"] in ("new", "partially_filled"):
                qty = held.get(row["symbol"].replace("/", ""), Decimal(0))
                assert qty > 0 if row["side"] == "sell" else qty < 0

    def every_execution_is_one_activity(self) -> None:
        fills = [each.row for each in self.house.account.activities if each.kind == "FILL"]
        assert [row["id"].partition("::")[2] for row in fills] == [execution for execution, *_ in self.executions()]
        assert max(Counter(row["id"] for row in fills).values(), default=1) == 1
        filled: dict[str, Decimal] = defaultdict(Decimal)
        for _, _, qty, _, order_id in self.executions():
            filled[order_id] += abs(qty)
        for order in self.house.account.orders.values():
            if order.asset is not None:
                assert order.filled_qty == filled[order.id]
                assert order.remaining >= 0

    def open_orders_are_those_that_live(self) -> None:
        account, desk = self.house.account, self.house.world.desk
        alive = {order.id for order in account.orders.values() if order.status.value not in FINAL}
        assert set(account.open_orders) == alive
        working = {order.client_order_id for order in desk._engine.orders(account.id)}
        assert working <= alive
        assert set(desk.combos) <= alive

    def equity_is_cash_and_values(self) -> None:
        row, held = self.house.document(), self.house.world.positions(self.house.account)
        worth = dec(row["cash"]) + sum((dec(each["market_value"]) for each in held), Decimal(0))
        assert abs(dec(row["equity"]) - worth) <= dec("0.005")

    def check(self) -> None:
        """Everything."""
        self.books_agree_with_what_was_told()
        self.nothing_is_promised_twice()
        self.what_closes_has_something_to_close()
        self.every_execution_is_one_activity()
        self.open_orders_are_those_that_live()
        self.equity_is_cash_and_values()
