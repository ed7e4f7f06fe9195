"""REST that lags behind the stream (N22): answers show an account as it was some seconds ago, or come late.

The stream tells a fill at once while REST may need seconds (reference/alpaca.md §8.1), each endpoint for itself. While
the fault is on, copies of the accounts are kept after each change; answers are made from the newest copy that is old
enough. Before the fault has lasted `lagSeconds`, the state at its beginning is shown.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web
from pydantic import Field, PrivateAttr

from bridge.simulator.alpaca.faults.answers import PARTS, Part, part_of
from bridge.simulator.alpaca.faults.base import RestFault
from bridge.simulator.alpaca.hooks import RestCall

if TYPE_CHECKING:
    from bridge.simulator.alpaca.account import Account

MOST_COPIES = 200  # of one account


class LaggingRest(RestFault):
    title: ClassVar[str] = "REST answers as of some seconds ago (orders, positions, account, activities), or late"

    lag_s: float = Field(5.0, alias="lagSeconds", ge=0, description="how old the picture is")
    delay_s: float = Field(0.0, alias="delaySeconds", ge=0, description="an answer is made at once and sent so late")
    parts: list[Part] = Field(list(PARTS), description="which answers lag")
    _copies: dict[str, deque[tuple[float, Account]]] = PrivateAttr(default_factory=dict)
    _changed: set[str] = PrivateAttr(default_factory=set)

    def begin(self) -> None:
        for account in self.services.world.accounts.values():
            if self.concerns(account.id, account.environment):
                self._keep(account.id)

    def updated(self, account_id: str) -> None:
        """Something happened on an account; a copy is taken when it is over."""
        self._changed.add(account_id)

    def tick(self) -> None:
        """Copy the accounts that changed."""
        changed, self._changed = self._changed, set()
        for account_id in changed & self._copies.keys():
            self._keep(account_id)

    def view(self, call: RestCall, account: Account) -> Account:
        """The account as it was."""
        if part_of(call) not in self.parts:
            return account
        old = self._as_of(account.id)
        return old if old is not None and self.hits_call(call) else account

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        if self.delay_s and part_of(call) in self.parts and self.concerns_call(call):
            await asyncio.sleep(self.delay_s)
        return None

    def _keep(self, account_id: str) -> None:
        copies = self._copies.setdefault(account_id, deque(maxlen=MOST_COPIES))
        now = self.services.clock.monotonic()
        copies.append((now, copy.deepcopy(self.services.world.account(account_id))))
        while len(copies) > 1 and copies[1][0] <= now - self.lag_s:
            copies.popleft()

    def _as_of(self, account_id: str) -> Account | None:
        """The newest copy that is old enough, the oldest one when none is."""
        self.tick()  # what changed a moment ago is too young to be shown, but must not be lost either
        copies = self._copies.get(account_id)
        if not copies:
            return None
        until = self.services.clock.monotonic() - self.lag_s
        return next((account for at, account in reversed(copies) if at <= until), copies[0][1])
