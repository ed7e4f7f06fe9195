"""What a test or the admin routes may do to the simulator: trade, move cash and prices, change terms, cause faults.

Synchronous and immediate; clients hear of it as they would of a trader at the broker's own platform. Raises NotFound
and InvalidInput for impossible input; a trading refusal is `Refusal`, with the broker's code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

from bridge.simulator.ctrader import grants
from bridge.simulator.ctrader.catalogue import ListedSymbol
from bridge.simulator.ctrader.faults import FaultTable
from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.truth import truth_of
from bridge.simulator.ctrader.world import Account
from core.errors import BridgeError, InvalidInput, NotFound
from core.money import json_number
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import (
    Access,
    BonusMoved,
    CashMoved,
    Deal,
    Engine,
    Event,
    Level,
    OrderAccepted,
    OrderChanges,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRequest,
    RequestRejected,
    TradingMode,
)


class Refusal(BridgeError):
    """The engine refused a request; `code` is spelled as cTrader spells it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Actions:
    """Direct control of one simulator."""

    def __init__(self, services: Services, faults: FaultTable) -> None:
        self.services = services
        self._faults = faults

    def truth(self, account_id: int) -> dict[str, Any]:
        """What the broker believes of an account, in the record's field names."""
        return truth_of(self.services.world, self.services.world.account(account_id))

    def deposit(self, account_id: int, amount: Decimal, note: str | None = None) -> dict[str, Any]:
        """Deposit, or withdraw a negative amount; returns the balance after."""
        account = self.services.world.account(account_id)
        events = self._run(account, self._engine.move_cash(account.key, amount, self._now_ms, note=note))
        moved = next(event for event in events if isinstance(event, CashMoved))
        return {"balance": json_number(moved.balance), "balanceVersion": moved.balance_version}

    def bonus(self, account_id: int, amount: Decimal, note: str | None = None) -> dict[str, Any]:
        """Grant or take back a bonus; it is not part of the balance."""
        account = self.services.world.account(account_id)
        events = self._run(account, self._engine.move_bonus(account.key, amount, self._now_ms, note=note))
        moved = next(event for event in events if isinstance(event, BonusMoved))
        return {"bonus": json_number(moved.bonus)}

    def order(
        self,
        account_id: int,
        *,
        symbol: str,
        side: Side,
        units: Decimal,
        type: OrderType = OrderType.MARKET,
        time_in_force: TimeInForce | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Place an order. `fields`: those of the engine's OrderRequest (limit_price, stop_loss, trailing_stop_loss …).

        Absolute stop loss and take profit are allowed for market orders too, unlike over the API.
        Returns order id, position id, deals and filled units.
        """
        account = self.services.world.account(account_id)
        listed = self._symbol(account, symbol)
        if type is OrderType.TRAILING_STOP:
            raise InvalidInput("cTrader has no trailing stop orders; trail the stop loss instead", field="type")
        if time_in_force is TimeInForce.DAY:
            raise InvalidInput("cTrader has no day orders", field="timeInForce")
        immediate = type in (OrderType.MARKET, OrderType.MARKET_RANGE)
        wanted = OrderRequest(
            instrument_id=listed.instrument_id,
            side=side,
            type=type,
            units=units,
            time_in_force=time_in_force or (TimeInForce.IOC if immediate else TimeInForce.GTC),
            **fields,
        )
        return _outcome(self._run(account, self._engine.place(account.key, wanted, self._now_ms)))

    def amend(self, account_id: int, order_id: int, changes: OrderChanges) -> dict[str, Any]:
        account = self.services.world.account(account_id)
        return _outcome(self._run(account, self._engine.amend(account.key, order_id, changes, self._now_ms)))

    def cancel(self, account_id: int, order_id: int) -> dict[str, Any]:
        account = self.services.world.account(account_id)
        return _outcome(self._run(account, self._engine.cancel(account.key, order_id, self._now_ms)))

    def close_position(self, account_id: int, position_id: int, units: Decimal | None = None) -> dict[str, Any]:
        """Close a position, or `units` of it."""
        account = self.services.world.account(account_id)
        return _outcome(self._run(account, self._engine.close(account.key, position_id, units, self._now_ms)))

    def close_all(self, account_id: int, *, symbol: str | None = None) -> list[dict[str, Any]]:
        """Close every open position, or those of one symbol."""
        account = self.services.world.account(account_id)
        wanted = None if symbol is None else self._symbol(account, symbol).instrument_id
        held = [each for each in self._engine.positions(account.key) if wanted in (None, each.instrument_id)]
        return [self.close_position(account_id, each.id) for each in held]

    def protect(
        self,
        account_id: int,
        position_id: int,
        *,
        stop_loss: Decimal | None = None,
        take_profit: Decimal | None = None,
        trailing: bool = False,
    ) -> dict[str, Any]:
        """Replace stop loss and take profit of a position; None removes a leg."""
        account = self.services.world.account(account_id)
        events = self._engine.protect(
            account.key,
            position_id,
            self._now_ms,
            stop_loss=stop_loss,
            take_profit=take_profit,
            trailing_stop_loss=trailing,
        )
        return _outcome(self._run(account, events))

    def change_terms(
        self,
        account_id: int,
        *,
        leverage: Decimal | None = None,
        access: Access | None = None,
        swap_free: bool | None = None,
    ) -> None:
        """Change leverage, access rights or swap terms; clients get ProtoOATraderUpdatedEvent and new margins."""
        account = self.services.world.account(account_id)
        events = self._engine.change_account(
            account.key, self._now_ms, leverage=leverage, access=access, swap_free=swap_free
        )
        self._run(account, events)

    def mark_up(self, account_id: int, points: int, group: str | None = None) -> None:
        """Put an account into a price group of its own, or a named one, and widen that group's prices by `points` on
        either side. Its clients get these instead, without being told why. Raises InvalidInput while it has positions
        or orders and is not in that group yet."""
        services = self.services
        account = services.world.account(account_id)
        moved = services.world.move_to_group(account, group or account.key)
        if moved is not account:
            for connection, authorisation in services.hub.listeners(account_id).items():
                services.spots.leave(connection, authorisation)
                for symbol_id in authorisation.spots:
                    services.spots.join(connection, authorisation, moved.server.key, symbol_id)
        services.prices.mark_up(moved.server, points)

    def quote(
        self,
        symbol: str,
        *,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
        bids: list[Level] | None = None,
        asks: list[Level] | None = None,
        server: str | None = None,
    ) -> None:
        """Set a symbol's price on all servers or one. `bids`/`asks`: prices with limited units, for partial fills."""
        self.services.prices.set_quote(symbol, bid, ask, server=server, bids=bids, asks=asks)

    def quotes(self) -> dict[str, Any]:
        """Newest bid and ask by server and symbol name."""
        engine = self._engine
        servers = {}
        for key, catalogue in self.services.world.servers.items():
            found = {name: engine.quote_of(key, listed.instrument_id) for name, listed in catalogue.by_name.items()}
            servers[key] = {name: {"bid": json_number(q.bid), "ask": json_number(q.ask)} for name, q in found.items()}
        return {"frozen": self.services.prices.frozen, "servers": servers}

    def freeze(self) -> None:
        """Prices stand still until `resume`."""
        self.services.prices.frozen = True

    def resume(self) -> None:
        self.services.prices.frozen = False

    def change_symbol(
        self,
        symbol: str,
        *,
        trading_mode: TradingMode | None = None,
        is_open: bool | None = None,
        server: str | None = None,
    ) -> None:
        """Change a symbol's terms, or open or close its market, on all servers or one; announced (2120) to every
        account session there, also when nothing is given. Raises NotFound."""
        changed = [
            (catalogue, catalogue.by_name[symbol])
            for catalogue in self.services.world.priced()
            if symbol in catalogue.by_name and server in (None, catalogue.base)
        ]
        if not changed:
            raise NotFound(f"no symbol {symbol} on {server or 'any server'}")
        for catalogue, listed in changed:
            if trading_mode is not None:
                terms = replace(self._engine.listing(catalogue.key, listed.instrument_id), trading_mode=trading_mode)
                self.services.desk.deliver(self._engine.change_listing(catalogue.key, terms, self._now_ms))
            if is_open is not None:
                opened = self._engine.set_open(catalogue.key, listed.instrument_id, is_open, self._now_ms)
                self.services.desk.deliver(opened)
            self.services.hub.announce_symbol(
                [each.id for each in self.services.world.accounts.values() if each.server is catalogue], listed.id
            )

    def revoke(self, user: int) -> None:
        """The user withdraws consent: both tokens die, sessions end."""
        if not grants.revoke(self.services, user):
            raise NotFound(f"user {user} holds no grant")

    def expire(self, user: int) -> None:
        """The user's access token runs out now; the refresh token still works."""
        if not grants.expire(self.services, user):
            raise NotFound(f"user {user} holds no grant")

    def mint_code(self, user: int, *, trade: bool = True) -> str:
        """A consent code, as the redirect after consent would carry it: single use, one minute."""
        if user not in self.services.world.of_user:
            raise NotFound(f"no user {user}")
        return self.services.tokens.mint_code(user, trade, self._now_ms)

    def fault(self, fault_id: str, **parameters: Any) -> int:
        """Begin a fault of the catalogue; parameters by their admin names. Returns its number."""
        return self._faults.begin(self.services, fault_id, parameters)

    def clear_faults(self, number: int | None = None) -> int:
        """End one fault or all of them."""
        return self._faults.clear(number)

    def active_faults(self) -> list[dict[str, Any]]:
        """Faults that are on, with what they did so far."""
        return self._faults.active()

    def fault_catalogue(self) -> list[dict[str, Any]]:
        return self._faults.catalogue()

    def counters(self) -> dict[str, Any]:
        connections = self.services.hub.connections.values()
        by_account: Counter[str] = Counter()
        by_connection: Counter[str] = Counter()
        for connection in connections:
            for authorisation in connection.authorisations.values():
                by_account[str(authorisation.account_id)] += len(authorisation.spots)
                by_connection[str(connection.number)] += len(authorisation.spots)
        subscriptions = {
            "spotSubscriptions": sum(by_connection.values()),
            "spotSubscriptionsByAccount": {key: held for key, held in by_account.items() if held},
            "spotSubscriptionsByConnection": {key: held for key, held in by_connection.items() if held},
        }
        return {**self.services.counters.as_json(len(connections)), **subscriptions}

    def reset_counters(self) -> None:
        self.services.counters.reset()

    def accounts(self) -> list[dict[str, Any]]:
        """Every account with its user, server and terms, and an `example` of what it can trade and how little of it."""
        rows = []
        for account in self.services.world.accounts.values():
            settings = self._engine.account(account.key).settings
            rows.append(
                {
                    "accountId": str(account.id),
                    "login": str(account.login),
                    "userId": f"user-{account.user}",
                    "broker": "ctrader",
                    "environment": "live" if account.live else "demo",
                    "brokerTitle": account.server.rules.title,
                    "server": account.server.base,
                    "currency": account.currency,
                    "moneyDigits": account.money_digits,
                    "type": settings.type.value,
                    "leverage": int(settings.leverage),
                    "connections": len(self.services.hub.listeners(account.id)),
                    "example": {"symbol": "EURUSD", "units": 1000},
                }
            )
        return rows

    @property
    def _engine(self) -> Engine:
        return self.services.world.engine

    @property
    def _now_ms(self) -> int:
        return self.services.clock.now_ms()

    def _symbol(self, account: Account, name: str) -> ListedSymbol:
        listed = account.server.by_name.get(name)
        if listed is None:
            raise InvalidInput(f"{account.server.key} lists no symbol {name}", field="symbol")
        return listed

    def _run(self, account: Account, events: list[Event]) -> list[Event]:
        self.services.desk.deliver(events)
        for event in events:
            if isinstance(event, RequestRejected) and event.account_id == account.key:
                raise Refusal(event.code.value, event.message)
        return events


def _outcome(events: list[Event]) -> dict[str, Any]:
    """Ids and fills of a request's events."""
    deals: list[Deal] = [event.deal for event in events if isinstance(event, (OrderFilled, OrderPartiallyFilled))]
    order = next((event.order for event in events if isinstance(event, OrderAccepted)), None)
    return {
        "orderId": None if order is None else str(order.id),
        "positionId": str(deals[-1].position_id) if deals else None,
        "deals": [str(deal.id) for deal in deals],
        "filledUnits": json_number(sum((deal.filled_units for deal in deals), Decimal(0))),
    }
