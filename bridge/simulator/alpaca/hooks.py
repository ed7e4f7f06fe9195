"""Where faults may step in: the interface between the ordinary parts of the simulated Alpaca and its faults.

The ordinary parts know this interface only; `faults` implements it. Every hook is cheap while no fault is active.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from bridge.simulator.alpaca.access import Caller


@dataclass(frozen=True, slots=True)
class RestCall:
    """One request at the REST door. `route` is `GET /v2/orders/{id}`; `caller` None where no credential was good."""

    request: web.Request
    route: str
    environment: str  # paper | live
    caller: Caller | None


class FaultHooks(Protocol):
    """Questions asked at a few points."""

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        """Asked when the credential is known and before the budget is charged. An answer goes out in place of the
        ordinary one, and nothing is done. May wait first; may cut `call.request.transport`."""

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        """Asked when the request was carried out. An answer goes out in place of `response`."""

    def begin(self, services: Any, fault_id: str, parameters: dict[str, Any]) -> int:
        """Begin a fault of the catalogue; its number. Raises NotFound, InvalidInput."""

    def clear(self, number: int | None = None) -> int:
        """End one fault (NotFound) or all; how many ended."""

    def active(self) -> list[dict[str, Any]]:
        """Faults that are on: number, id, effects, parameters."""

    def catalogue(self) -> list[dict[str, Any]]:
        """Every fault with title and parameters."""

    def tick(self) -> None:
        """Time passes."""
