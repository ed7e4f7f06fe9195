"""Executions of orders that nobody told of: a message was lost or overtaken, or it is not this account's at all.

A trade update does not say whose it is (alpaca.md §2.2), so the broker is asked whether the account has that order
before the execution is used (faults.md N18). One of an order that is known already is never held up.
"""

from __future__ import annotations

import logging
from typing import Protocol

from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.context import Context
from bridge.brokers.alpaca.reading import Executions
from bridge.brokers.alpaca.requests import Requests
from bridge.brokers.alpaca.updates import TradeUpdate
from bridge.brokers.base import BrokerFault
from core.account import AccountMirror

log = logging.getLogger(__name__)


class Strange(Protocol):
    """An account hub, as far as strangers concern it."""

    account_id: str
    context: Context
    live: bool
    requests: Requests

    def apply(self, update: TradeUpdate) -> None:
        """Use an update."""

    def unusable(self) -> None:
        """An update may have been lost: read the account."""


def is_strange(update: TradeUpdate, mirror: AccountMirror, memory: Executions) -> bool:
    """Whether an execution is new and its order is none that worked here."""
    order_id = update.order.get("id")
    if type(order_id) is not str or order_id in mirror.orders or memory.gone_since(order_id, 0):
        return False
    return not all(part.execution_id is not None and memory.included(part.execution_id) for part in update.parts)


def look_up(hub: Strange, update: TradeUpdate) -> None:
    """Ask the broker, then use the update or count it as somebody else's."""
    hub.context.stats.count("strange_executions")
    hub.context.tasks.start(_look_up(hub, update), name=f"stranger-{hub.account_id}")


async def _look_up(hub: Strange, update: TradeUpdate) -> None:
    try:
        order = await hub.requests.order(update.order["id"], Priority.LOGIN)
    except BrokerFault:
        hub.unusable()
        return
    if order is None:
        hub.context.stats.count("foreign_events")
        log.warning("an execution of somebody else's order came in")
    elif hub.live:
        hub.apply(update)
