"""What follows from what happens to an order: bookings, groups, orders of many legs. Puts the parts together.

The desk knows these rules as a protocol only, so that the parts may use the desk without a circle.
"""

from __future__ import annotations

from decimal import Decimal

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order
from bridge.simulator.alpaca.trading import executions, groups, multileg
from bridge.simulator.alpaca.trading.desk import Desk


class Consequences:
    """The rules of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def filled(self, account: Account, order: Order, qty: Decimal, price: Decimal) -> None:
        executions.book(self._desk, account, order, qty, price)

    def ended(self, account: Account, order: Order) -> None:
        groups.after_end(self._desk, account, order)

    def triggered(self, account: Account, order: Order) -> None:
        groups.give_way(self._desk, account, order)

    def stays_out(self, account: Account, order: Order) -> bool:
        return groups.has_given_way(account, order)

    def combine(self, account: Account, order: Order) -> None:
        multileg.attempt(self._desk, account, order)
