"""The REST door: who asks, whether they may, what it costs, and how every answer is dressed.

In this order: the credential (401), a fault's `before`, the budget of the account (429), the scope (403), the route's
own handler, a fault's `after`. Every answer has `X-Request-ID`; every one to a known account has the `X-RateLimit-*`
headers (reference/alpaca.md §1.6). The door knows no route; handlers are synchronous and decide on plain values.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.accounts.watchlists import Watchlists
from bridge.simulator.alpaca.hooks import RestCall
from bridge.simulator.alpaca.rates import Standing
from bridge.simulator.alpaca.refusals import ApiRefusal, malformed, missing
from bridge.simulator.alpaca.rest.exact import read_object
from bridge.simulator.alpaca.services import ENVIRONMENT, SERVICES, Services
from bridge.simulator.alpaca.world import Account, World

MAX_BODY_BYTES = 1 << 18
MAX_QUERY_VALUE = 2_048  # characters


@dataclass(frozen=True, slots=True)
class Ask:
    """What a handler is told. `path`: the variables of the route."""

    world: World
    account: Account
    watchlists: Watchlists
    now_ms: int
    query: Mapping[str, str]
    path: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON object, its numbers exact. Raises ApiRefusal 422."""
        return read_object(self.raw)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON document; None = an empty body."""

    document: Any
    status: int = 200


Handler = Callable[[Ask], Answer]
Route = tuple[str, str, Handler, str | None]  # method, path, handler, OAuth scope (None: every token may)
_Entrance = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(method: str, path: str, handler: Handler, scope: str | None) -> web.RouteDef:
    """A route behind the door."""
    name = f"{method} {path}"

    async def enter(request: web.Request) -> web.StreamResponse:
        return await _enter(request, name, handler, scope)

    return web.route(method, path, enter)


@web.middleware
async def unknown_routes(request: web.Request, handler: _Entrance) -> web.StreamResponse:
    """Unknown addresses, methods and oversized bodies answered as the broker answers: in JSON."""
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        request.app[SERVICES].counters.requests["unknown"] += 1
        return _dress(_refused(missing("endpoint not found.")), None)
    except web.HTTPRequestEntityTooLarge:
        return _dress(_refused(ApiRefusal(413, 41310000, "request body is too large")), None)


async def _enter(request: web.Request, route: str, handler: Handler, scope: str | None) -> web.StreamResponse:
    services, environment = request.app[SERVICES], request.app[ENVIRONMENT]
    services.counters.requests[route] += 1
    caller = services.access.by_headers(request.headers, environment)
    here = caller if caller is not None and caller.environment == environment else None
    call = RestCall(request, route, environment, here)
    response = await services.faults.before(call)
    standing = None
    if response is None:
        raw = await request.read()
        if here is None:
            ordinary = _stranger(services, known=caller is not None)
        else:
            standing = _charge(services, here)
            ordinary = _answer(call, here, standing, raw, handler, scope)
        replaced = await services.faults.after(call, ordinary)
        response = ordinary if replaced is None else replaced
    services.counters.answers[str(response.status)] += 1
    return _dress(response, standing)


def _stranger(services: Services, *, known: bool) -> web.Response:
    """No credential, a wrong one, or (`known`) one of the other environment (reference/alpaca.md §1.6)."""
    services.counters.unauthorized += 1
    services.counters.errors["401"] += 1
    if known:
        return _json({"code": 40110000, "message": "request is not authorized"}, 401)
    return _json({"message": "unauthorized."}, 401)


def _charge(services: Services, caller: Caller) -> Standing:
    counters = services.counters
    counters.requests_by_account[caller.account_id] += 1
    standing = services.rates.charge(caller.account_id, services.clock.now_ms())
    if not standing.admitted:
        counters.budget_violations += 1
        counters.budget_violations_by_account[caller.account_id] += 1
    return standing


def _answer(
    call: RestCall, caller: Caller, standing: Standing, raw: bytes, handler: Handler, scope: str | None
) -> web.Response:
    services = call.request.app[SERVICES]
    try:
        if not standing.admitted:
            raise ApiRefusal(429, 42910000, "too many requests.")
        if scope is not None and not caller.may(scope):
            raise ApiRefusal(403, 40310000, f"the token lacks the scope {scope}")
        if any(len(value) > MAX_QUERY_VALUE for value in call.request.query.values()):
            raise malformed("a query parameter is too long")
        answer = handler(
            Ask(
                services.world,
                services.world.account(caller.account_id),
                services.watchlists[caller.account_id],
                services.clock.now_ms(),
                call.request.query,
                call.request.match_info,
                raw,
            )
        )
    except ApiRefusal as refusal:
        services.counters.errors[str(refusal.code)] += 1
        return _refused(refusal)
    if answer.document is None:
        return web.Response(status=answer.status)
    return _json(answer.document, answer.status)


def _refused(refusal: ApiRefusal) -> web.Response:
    return _json(refusal.body(), refusal.status)


def _json(document: Any, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def _dress(response: web.StreamResponse, standing: Standing | None) -> web.StreamResponse:
    if not response.prepared:
        response.headers.setdefault("X-Request-ID", uuid.uuid4().hex)
        for name, value in (standing.headers() if standing else {}).items():
            response.headers.setdefault(name, value)
    return response
