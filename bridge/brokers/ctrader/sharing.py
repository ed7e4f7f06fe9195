"""Carries out on one channel what its board decides about shared price subscriptions (`CTRADER_QUOTES=shared`).

It turns events of accounts into calls of the board, settles it once per turn of the loop, and lets those accounts act
that have something to do. It must not decide who subscribes: `board` does, and `price_classes` who shares with whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from bridge.brokers.ctrader.board import Board, Sharer
from bridge.brokers.ctrader.price_classes import Kind, PriceClasses
from bridge.brokers.ctrader.routing import Route
from bridge.brokers.ctrader.settings import CtraderSettings
from core.account import AccountMirror


class Sharing:
    """The shared subscriptions of one channel. `accounts`: who is on it now, by number."""

    def __init__(self, settings: CtraderSettings, accounts: Mapping[int, Route]) -> None:
        self.board = Board(PriceClasses(settings.quotes_look_every_s, settings.quotes_part_again_s))
        self.unchecked: dict[int, int] = {}  # accounts whose figures are to be compared -> tries so far (`checks`)
        self.checking = False
        self._accounts = accounts
        self._due = False
        self._leaving: dict[int, asyncio.Future[None]] = {}

    def want(self, number: int, mirror: AccountMirror, kind: Kind, symbol_ids: frozenset[int]) -> Sharer:
        """See `Board.want`. What follows from it for this account itself is decided at once."""
        sharer = self.board.want(number, mirror, kind, symbol_ids)
        self._settle(but=number)
        return sharer

    def drop(self, number: int) -> None:
        """See `Board.drop`."""
        self.board.drop(number)
        self.changed()

    def forget(self, number: int) -> None:
        """See `Board.forget`."""
        self.board.forget(number)
        self.changed()

    def subscribed(self, number: int, symbol_ids: list[int]) -> None:
        """See `Board.subscribed`."""
        self.board.subscribed(number, symbol_ids)
        self.changed()

    def refused(self, number: int, symbol_ids: list[int]) -> None:
        """See `Board.refused`."""
        self.board.refused(number, symbol_ids)
        self.changed()

    def failed(self, number: int, symbol_ids: list[int]) -> None:
        """See `Board.failed`."""
        self.board.failed(number, symbol_ids)
        self.changed()

    def gave_up(self, number: int) -> None:
        """See `Board.gave_up`."""
        self.board.gave_up(number)
        self.changed()

    async def hand_on(self, number: int, within_s: float) -> None:
        """Before a logout: wait until others serve what this account serves, for a bounded time."""
        self.board.retire(number)
        self._settle(but=number)
        if self.board.relieved(number):
            return
        relieved = self._leaving[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within_s):
                await relieved
        except TimeoutError:
            pass  # its successor is slow: the price is withdrawn until that one has it
        finally:
            del self._leaving[number]

    def changed(self) -> None:
        """Settle the board when this turn of the loop is over: more may follow in it, such as everybody's end."""
        if not self._due and (self.board.unsettled or self._leaving):
            self._due = True
            asyncio.get_running_loop().call_soon(self._settle)

    def counts(self) -> dict[str, int]:
        """See `CtraderBroker.metrics`."""
        subscriptions, used = self.board.count()
        classes, apart = self.board.classes.count()
        return {
            "quotes_subscriptions": subscriptions,
            "quotes_used": used,
            "quotes_classes": classes,
            "quotes_apart": apart,
            "quotes_handed_on": self.board.handed_on,
        }

    def account(self, number: int) -> Any:
        """The hub of an account that is on the channel now, if any."""
        return self._accounts.get(number)

    def call(self, numbers: Iterable[int]) -> None:
        """These accounts have something to do."""
        for number in numbers:
            account = self._accounts.get(number)
            if account is not None:
                account.follow()

    def _settle(self, but: int | None = None) -> None:
        self._due = False
        self.call([number for number in self.board.settle() if number != but])
        for number, waiting in self._leaving.items():
            if not waiting.done() and self.board.relieved(number):
                waiting.set_result(None)
