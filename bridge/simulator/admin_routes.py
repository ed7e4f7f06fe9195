"""Admin routes that every simulated broker has: its faults and its counters."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from aiohttp import web

from bridge.simulator.admin_http import read_json, send_json
from core.errors import InvalidInput


class Watched(Protocol):
    """What these routes call: a part of each broker's `Actions`."""

    def fault(self, fault_id: str, **parameters: Any) -> int: ...

    def clear_faults(self, number: int | None = None) -> int: ...

    def active_faults(self) -> list[dict[str, Any]]: ...

    def fault_catalogue(self) -> list[dict[str, Any]]: ...

    def counters(self) -> dict[str, Any]: ...

    def reset_counters(self) -> None: ...


A = TypeVar("A", bound=Watched)


def fault_and_counter_routes(prefix: str, actions: web.AppKey[A]) -> list[web.RouteDef]:
    """Under a prefix such as `/sim/alpaca`; `actions` is where the application keeps the broker's `Actions`."""

    async def list_faults(request: web.Request) -> web.Response:
        broker = request.app[actions]
        return send_json({"catalogue": broker.fault_catalogue(), "active": broker.active_faults()})

    async def begin_fault(request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, dict) or not isinstance(body.get("id"), str):
            raise InvalidInput("the body must be an object with the fault's id", field="id")
        parameters = {name: value for name, value in body.items() if name != "id"}
        return send_json({"number": request.app[actions].fault(body["id"], **parameters)})

    async def clear_faults(request: web.Request) -> web.Response:
        number = request.match_info.get("number")
        return send_json({"ended": request.app[actions].clear_faults(None if number is None else int(number))})

    async def counters(request: web.Request) -> web.Response:
        return send_json(request.app[actions].counters())

    async def reset_counters(request: web.Request) -> web.Response:
        request.app[actions].reset_counters()
        return send_json({})

    return [
        web.get(f"{prefix}/faults", list_faults),
        web.post(f"{prefix}/faults", begin_fault),
        web.delete(f"{prefix}/faults", clear_faults),
        web.delete(f"{prefix}/faults/{{number:[0-9]{{1,9}}}}", clear_faults),
        web.get(f"{prefix}/counters", counters),
        web.delete(f"{prefix}/counters", reset_counters),
    ]
