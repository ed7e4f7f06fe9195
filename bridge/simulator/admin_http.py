"""How the admin server reads and answers, for the routes of every broker.

Errors are `{"error": {"code", "message", "field"}}` with 404 for unknown things, 422 for impossible input, 409 for what
the broker refuses. It knows no route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from bridge.simulator.bodies import Body, impossible
from core.errors import InvalidInput, NotFound

MAX_BODY_BYTES = 256 * 1024

B = TypeVar("B", bound=Body)
Stop = Callable[[], Awaitable[None]]


async def serve(app: web.Application, host: str, port: int) -> tuple[Stop, int]:
    """Serve an application; returns what stops it and the port. Raises OSError when the port is taken."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    bound: int = runner.addresses[0][1]
    return runner.cleanup, bound


def problems(*refusals: type[Exception]) -> Middleware:
    """Turns our errors into answers. `refusals`: what brokers raise when they refuse; each has a `code`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except NotFound as problem:
            return _problem(404, "NOT_FOUND", str(problem))
        except InvalidInput as problem:
            return _problem(422, "INVALID_INPUT", str(problem), problem.field)
        except refusals as problem:
            return _problem(409, str(getattr(problem, "code", "REFUSED")), str(problem))

    return middleware


def send_json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


async def read_json(request: web.Request) -> Any:
    """The body's JSON; {} for an empty one. Raises InvalidInput."""
    raw = await request.read()
    try:
        return orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as cause:
        raise InvalidInput("the body is not JSON") from cause


async def read_body(request: web.Request, kind: type[B]) -> B:
    """The body as a checked value. Raises InvalidInput with the field's path."""
    try:
        return kind.model_validate(await read_json(request))
    except ValidationError as cause:
        raise impossible(cause) from cause


def _problem(status: int, code: str, message: str, field: str | None = None) -> web.Response:
    return send_json({"error": {"code": code, "message": message, "field": field}}, status)
