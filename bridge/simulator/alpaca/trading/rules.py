"""What the desk asks of those who know what follows from an event: bookings, groups, orders of many legs.

Implemented by `consequences`; the desk knows this protocol only, so that the rules may use the desk without a circle.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order


class Rules(Protocol):
    """What follows from what happens to an order; the desk itself only carries orders to the market and back."""

    def filled(self, account: Account, order: Order, qty: Decimal, price: Decimal) -> None:
        """The market traded that much of the order."""

    def ended(self, account: Account, order: Order) -> None:
        """An order ended without being filled or replaced."""

    def triggered(self, account: Account, order: Order) -> None:
        """An order was put into the engine or its stop was reached there."""

    def stays_out(self, account: Account, order: Order) -> bool:
        """Whether the order must not work just now."""

    def combine(self, account: Account, order: Order) -> None:
        """Try an order of many legs at the present prices."""
