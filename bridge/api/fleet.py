"""What the routes of the fleet do: for operators, and the same at every process."""

from __future__ import annotations

from typing import Protocol

from bridge.api import answers
from bridge.api.ports import Fleet, Services
from bridge.api.routes import Call, Reply
from core.errors import Conflict


class _HasServices(Protocol):
    _services: Services


class FleetHandlers:
    """One method per handler name of the route table; a part of `Handlers`."""

    async def fleet(self: _HasServices, call: Call) -> Reply:
        """Processes, shares, leases."""
        return Reply(answers.render(answers.FleetAnswer, await _fleet(self._services).view()))

    async def drain_process(self: _HasServices, call: Call) -> Reply:
        """202; the process gives its sessions up in the background."""
        name = await _fleet(self._services).drain(call.body.owner, draining=call.body.draining, actor=call.caller.actor)
        return Reply({"owner": name, "draining": call.body.draining}, status=202)

    async def move_sessions(self: _HasServices, call: Call) -> Reply:
        """202; the sessions are logged out at one process and in at the other."""
        body = call.body
        moving = await _fleet(self._services).move(
            await self._services.sessions.user_key(call.user_key),
            broker=body.broker,
            account_id=body.account_id,
            to=body.to,
            actor=call.caller.actor,
        )
        return Reply(answers.render(answers.MovesAnswer, {"sessions": moving}), status=202)


def _fleet(services: Services) -> Fleet:
    if services.fleet is None:
        raise Conflict("without DATABASE_URL there is this one process only")
    return services.fleet
