"""REST that lags behind the stream (N22): answers show an account as it was some seconds ago, or come late.

The stream tells a fill at once while REST may need seconds (reference/alpaca.md §8.1), each endpoint for itself. While
the fault is on, copies of the accounts are kept after each change; an answer is made anew from the newest copy that is
old enough. Before the fault has lasted `lagSeconds`, the state at its beginning is shown.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from aiohttp import web
from pydantic import Field, PrivateAttr

from bridge.simulator.alpaca.faults.base import RestFault
from bridge.simulator.alpaca.faults.documents import PARTS, Part, in_place_of, part_of
from bridge.simulator.alpaca.hooks import RestCall
from bridge.simulator.alpaca.refusals import ApiRefusal
from bridge.simulator.alpaca.rest.exact import truth_value

if TYPE_CHECKING:
    from bridge.simulator.alpaca.accounts.account import Account

MOST_COPIES = 200  # of one account
_SINGLE: dict[str, Part] = {
    "GET /v2/positions/{asset}": "positions",
    "GET /v2/orders/{id}": "orders",
    "GET /v2/orders:by_client_order_id": "orders",
}


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

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        if call.caller is None or response.status != 200 or self._part(call) not in self.parts:
            return None
        account = self._as_of(call.caller.account_id)
        if account is None or not self.hits_call(call):
            return None
        try:
            old = in_place_of(response, orjson.dumps(self._render(call, account)))
        except ApiRefusal as unknown_then:
            old = web.json_response(unknown_then.body(), status=unknown_then.status)
        await asyncio.sleep(self.delay_s)
        return old

    def _part(self, call: RestCall) -> Part | None:
        return part_of(call) or _SINGLE.get(call.route)

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

    def _render(self, call: RestCall, account: Account) -> Any:
        world, query = self.services.world, call.request.query
        path = call.request.match_info
        match call.route:
            case "GET /v2/account":
                return world.account_document(account)
            case "GET /v2/positions":
                return world.positions(account)
            case "GET /v2/positions/{asset}":
                return world.position(account, path["asset"])
            case "GET /v2/orders":
                return world.orders(account, query)
            case "GET /v2/orders/{id}":
                return world.order(account, path["id"], truth_value(query, "nested"))
            case "GET /v2/orders:by_client_order_id":
                return world.order_by_client_id(account, query["client_order_id"])
            case _:
                return world.activities(account, query, path.get("type"))
