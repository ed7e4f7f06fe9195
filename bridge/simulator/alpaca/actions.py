"""What a test or the admin routes may do to the simulated Alpaca: trade, move cash and prices, revoke, cause faults.

Synchronous; clients hear of it as they would of a trade made on the broker's own page. Raises NotFound and InvalidInput
for impossible input; what the broker refuses is an ApiRefusal. Accounts are named by their UUIDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from bridge.simulator.alpaca.access import SCOPES
from bridge.simulator.alpaca.services import Services
from bridge.simulator.alpaca.world import World
from core.errors import InvalidInput, NotFound
from core.money import json_number

Revocable = Literal["all", "tokens", "keys"]


class Actions:
    """Direct control of one simulator."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def accounts(self) -> list[dict[str, Any]]:
        """Every account with its user and environment, and an `example` of what it can trade and how little of it."""
        return [
            {
                "accountId": account.id,
                "login": account.number,
                "userId": f"user-{account.user}",
                "broker": "alpaca",
                "environment": "live" if account.environment == "live" else "demo",
                "currency": account.currency,
                "moneyDigits": 2,
                "example": {"symbol": "AAPL", "units": 1},
            }
            for account in self.services.world.accounts.values()
        ]

    def truth(self, account_id: str) -> dict[str, Any]:
        """What the broker believes of an account, in the record's field names."""
        return self._world.truth(self._world.account(account_id))

    def deposit(self, account_id: str, amount: Decimal) -> dict[str, Any]:
        """Deposit, or withdraw a negative amount; returns the balance after."""
        self._world.deposit(self._world.account(account_id), amount, self._now_ms)
        return {"balance": self.truth(account_id)["balance"]}

    def pay(self, account_id: str, kind: str, amount: Decimal, symbol: str | None = None) -> dict[str, Any]:
        """Other money: a dividend ("DIV"), a fee ("FEE"), interest ("INT"); returns the balance after."""
        self._world.pay(self._world.account(account_id), kind, amount, self._now_ms, symbol=symbol)
        return {"balance": self.truth(account_id)["balance"]}

    def order(
        self,
        account_id: str,
        *,
        symbol: str | None = None,
        side: str | None = None,
        units: Decimal | None = None,
        type: str = "market",
        time_in_force: str | None = None,
        take_profit: Decimal | None = None,
        stop_loss: Decimal | None = None,
        stop_loss_limit: Decimal | None = None,
        legs: Sequence[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Place an order. `fields`: further ones of the API's body (limit_price, stop_price, order_class, notional …).

        Time in force: gtc for crypto, else day. Returns order id, status, filled units and their average price.
        """
        body = {
            "symbol": symbol,
            "side": side,
            "qty": units,
            "type": type,
            "time_in_force": time_in_force or self._usual_time_in_force(symbol),
            "take_profit": None if take_profit is None else {"limit_price": take_profit},
            "stop_loss": None if stop_loss is None else _given(stop_price=stop_loss, limit_price=stop_loss_limit),
            "legs": None if legs is None else [_leg(**leg) for leg in legs],
            **fields,
        }
        account = self._world.account(account_id)
        placed = self._world.place(account, _given(**body), self._now_ms)
        return self._outcome(account_id, placed["id"])

    def replace(self, account_id: str, order_id: str, **changes: Any) -> dict[str, Any]:
        """Replace an order; `changes` in the API's words (qty, limit_price, stop_price, trail …)."""
        account = self._world.account(account_id)
        replaced = self._world.replace(account, order_id, _given(**changes), self._now_ms)
        return self._outcome(account_id, replaced["id"])

    def cancel(self, account_id: str, order_id: str) -> dict[str, Any]:
        """Ask for an order's end; it comes at the next step of the simulator."""
        self._world.cancel(self._world.account(account_id), order_id, self._now_ms)
        return self._outcome(account_id, order_id)

    def cancel_all(self, account_id: str) -> list[dict[str, Any]]:
        return self._world.cancel_all(self._world.account(account_id), self._now_ms)

    def close(
        self, account_id: str, symbol: str, *, units: Decimal | None = None, percentage: Decimal | None = None
    ) -> dict[str, Any]:
        """Close a position (by symbol or asset id), or part of it."""
        query = {name: f"{value:f}" for name, value in _given(qty=units, percentage=percentage).items()}
        order = self._world.close_position(self._world.account(account_id), symbol, query, self._now_ms)
        return self._outcome(account_id, order["id"])

    def close_all(self, account_id: str, *, cancel_orders: bool = True) -> list[dict[str, Any]]:
        """Close every position, after its orders unless told otherwise; rows of symbol and status."""
        rows = self._world.close_all(self._world.account(account_id), cancel_orders, self._now_ms)
        return [{"symbol": row["symbol"], "status": row["status"]} for row in rows]

    def quote(
        self,
        symbol: str,
        *,
        price: Decimal | None = None,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
        bid_size: Decimal | None = None,
        ask_size: Decimal | None = None,
    ) -> None:
        """Set a symbol's last price, or its quote. Sizes limit what can trade until the next quote."""
        self._world.set_quote(symbol, self._now_ms, last=price, bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size)

    def quotes(self) -> dict[str, Any]:
        """Newest last price, bid and ask by symbol."""
        prices, catalogue = self._world.prices, self._world.catalogue
        symbols = [name for kind in ("us_equity", "us_option", "crypto") for name in catalogue.symbols(kind)]
        newest = {symbol: prices.quote(symbol) for symbol in symbols}
        return {
            "frozen": prices.frozen,
            "market": self._world.market_state,
            "symbols": {
                symbol: {"price": json_number(q.price), "bid": json_number(q.bid), "ask": json_number(q.ask)}
                for symbol, q in newest.items()
            },
        }

    def freeze(self) -> None:
        """Prices stand still until `resume`."""
        self._world.prices.frozen = True

    def resume(self) -> None:
        self._world.prices.frozen = False

    def set_market(self, state: str) -> None:
        """Open, close or keep to extended hours: "open", "extended", "closed". Crypto never closes."""
        self._world.set_market(state, self._now_ms)

    def revoke(self, user: int, what: Revocable = "all") -> None:
        """The user's tokens or key pairs die; open streams hear of it as far as the broker tells them."""
        if not self.services.access.environments_of(user):
            raise NotFound(f"no user {user}")
        if what in ("all", "tokens"):
            self.services.access.revoke_tokens(user)
        if what in ("all", "keys"):
            self.services.access.revoke_pairs(user)

    def restore_keys(self, user: int) -> int:
        """Revoked key pairs are good again; how many."""
        return self.services.access.restore_pairs(user)

    def mint_code(
        self,
        user: int,
        *,
        environment: str | None = None,
        scope: str = " ".join(SCOPES),
        redirect_uri: str | None = None,
    ) -> str:
        """A consent code, as the redirect after consent would carry it: single use, ten minutes."""
        access = self.services.access
        held = access.environments_of(user)
        if not held:
            raise NotFound(f"no user {user}")
        environments = held if environment is None else held & {environment}
        if not environments:
            raise InvalidInput("this user has no such account", field="env")
        scopes = frozenset(scope.split())
        if not scopes <= set(SCOPES):
            raise InvalidInput(f"scope is any of {', '.join(SCOPES)}", field="scope")
        return access.mint_code(
            user, environments=environments, scopes=scopes, now_ms=self._now_ms, redirect_uri=redirect_uri
        )

    def fault(self, fault_id: str, **parameters: Any) -> int:
        """Begin a fault of the catalogue; parameters by their admin names. Returns its number."""
        return self.services.faults.begin(self.services, fault_id, parameters)

    def clear_faults(self, number: int | None = None) -> int:
        """End one fault or all of them."""
        return self.services.faults.clear(number)

    def active_faults(self) -> list[dict[str, Any]]:
        """Faults that are on, with what they did so far."""
        return self.services.faults.active()

    def fault_catalogue(self) -> list[dict[str, Any]]:
        return self.services.faults.catalogue()

    def counters(self) -> dict[str, Any]:
        return self.services.counters.as_json()

    def reset_counters(self) -> None:
        self.services.counters.reset()

    @property
    def _world(self) -> World:
        return self.services.world

    @property
    def _now_ms(self) -> int:
        return self.services.clock.now_ms()

    def _usual_time_in_force(self, symbol: str | None) -> str:
        return "gtc" if symbol in self._world.catalogue.symbols("crypto") else "day"

    def _outcome(self, account_id: str, order_id: str) -> dict[str, Any]:
        order = self._world.order(self._world.account(account_id), order_id)
        average = order["filled_avg_price"]
        return {
            "orderId": order_id,
            "status": order["status"],
            "filledUnits": json_number(Decimal(order["filled_qty"])),
            "averagePrice": None if average is None else json_number(Decimal(average)),
        }


def _leg(symbol: str, side: str, ratio: Decimal = Decimal(1), intent: str | None = None) -> dict[str, Any]:
    return _given(symbol=symbol, side=side, ratio_qty=ratio, position_intent=intent)


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
