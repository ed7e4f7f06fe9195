"""The way of a request: who calls, how often, which route, may they, what they sent, about whom, then the handler.

Every refusal on that way is a Problem and every answer gets the same headers. Invariant: whatever a caller sends, the
answer is a problem document or what the route promises; a 500 means a fault of ours, is logged, and says nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
from aiohttp import web
from aiohttp.web_request import BaseRequest

from bridge.api import requests
from bridge.api.access_log import OK, AccessLog
from bridge.api.bodies import read_json
from bridge.api.callers import Access, Caller, CallerResolver, check_access, check_named
from bridge.api.handlers import Handlers
from bridge.api.limits import RateLimiter
from bridge.api.problems import Problem, problem_of, retry_after
from bridge.api.routes import HTML, Call, Reply, Route, Router
from bridge.telemetry.tracing import TRACER
from core.errors import BridgeError

log = logging.getLogger(__name__)

WHOLE_REQUEST_S = 10.0
AT_ONCE = 1024  # requests in work; some wait for a session
KEY_RATE = 100  # per second
ADDRESS_RATE = 20
PROBES = ("/health/live", "/health/ready")
MOST_PARAMETERS = 16
PROBLEM_JSON = "application/problem+json"
_ALLOWED_HEADERS = "Authorization, Content-Type, If-None-Match"
_SAID_ONCE = ("Authorization", "X-User-Id", "Origin")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "pulse-bridge",
}
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose: exact web origins, whether TLS is in front, rates per second."""

    cors_origins: frozenset[str] = frozenset()
    https: bool = False
    key_rate: int = KEY_RATE
    address_rate: int = ADDRESS_RATE


@dataclass(slots=True)
class _Visit:
    """What is known of one request by the time it is answered."""

    caller: Caller | None = None
    route: Route | None = None
    user_key: str | None = None  # canonical: for whom a key acts


class Dispatcher:
    """Answers requests. `in_work` and `answers` (by status) are plain counters for metrics."""

    def __init__(
        self, handlers: Handlers, resolver: CallerResolver, policy: Policy, limits: RateLimiter, access_log: AccessLog
    ) -> None:
        self._handlers = handlers
        self._resolver = resolver
        self._policy = policy
        self._router = Router()
        self._limits = limits
        self._access_log = access_log
        self.in_work = 0
        self.answers: dict[int, int] = {}

    async def answer(self, request: BaseRequest, deadline: float) -> web.Response:
        """The answer to one request. `deadline`: loop time by which it must be on its way."""
        self.in_work += 1
        visit = _Visit()
        outcome: web.Response | Problem
        try:
            outcome = _response(await self._reply(request, deadline, visit))
        except Problem as problem:
            outcome = problem
        except BridgeError as error:
            outcome = problem_of(error)
        except Exception as error:  # last resort: a fault of ours is one 500, not a lost connection
            log.error("request failed", extra={"method": request.method, "route": request.path[:100]}, exc_info=error)
            outcome = Problem("internal", "something went wrong here")
        finally:
            self.in_work -= 1
        self._take_down(visit, outcome)
        response = problem_response(outcome) if isinstance(outcome, Problem) else outcome
        self._finish(request, response)
        self.answers[response.status] = self.answers.get(response.status, 0) + 1
        return response

    async def _reply(self, request: BaseRequest, deadline: float, visit: _Visit) -> Reply:
        path = request.rel_url.raw_path
        if self.in_work > AT_ONCE and not path.startswith("/health"):
            raise Problem("overloaded", "too many requests at once", headers=retry_after(1))
        self._check_host(request)
        _check_once(request)
        caller = visit.caller = await self._resolver.resolve(request.headers, request.remote)
        await self._check_rate(caller, path)
        methods, parameters = self._router.find(path)
        if not methods:
            raise Problem("not-found", "there is nothing at this path")
        if request.method == "OPTIONS":
            return self._preflight(request, methods)
        route = visit.route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join(_allowed(methods))
            raise Problem("method-not-allowed", f"use {allowed}", headers={"Allow": allowed})
        check_access(caller, route.access)
        if route.writes and self._handlers.draining:
            raise Problem("draining", "this process is ending and takes nothing new", headers=retry_after(None))
        call = Call(
            caller=caller,
            headers=request.headers,
            query=_query(route, request),
            body=await self._body(route, request, deadline),
            parameters=parameters,
            deadline=deadline,
        )
        if route.access is not Access.PUBLIC:
            call = self._check_named(call, visit)
        try:
            async with asyncio.timeout_at(deadline):
                with TRACER.span("request", method=route.method, route=route.path):
                    reply: Reply = await getattr(self._handlers, route.handler)(call)
                return reply
        except TimeoutError:
            raise Problem("unavailable", "the answer did not come in time", headers=retry_after(None)) from None

    def _check_named(self, call: Call, visit: _Visit) -> Call:
        """Whom a request names, wherever routes let it: a user themself only. Notes for whom a key acts."""
        places = (call.body, call.query)
        user_ids = [call.headers.get("X-User-Id"), *(getattr(place, "user_id", None) for place in places)]
        path_key = call.parameters.get("userKey")
        user_keys = [path_key, *(getattr(place, "user_key", None) for place in places)]
        check_named(call.caller, user_ids=user_ids, user_keys=[key and key.lower() for key in user_keys])
        visit.user_key = self._resolver.key_of(next((each for each in user_ids if each is not None), None))
        if path_key is None or call.caller.user_id is None:
            return call
        # from here on the whole key: what a user's key begins with, somebody else's may begin with too
        return replace(call, parameters={**call.parameters, "userKey": call.caller.user_keys[0]})

    def _take_down(self, visit: _Visit, outcome: web.Response | Problem) -> None:
        slug = outcome.kind.slug if isinstance(outcome, Problem) else OK
        if isinstance(outcome, Problem) and outcome.kind.status in (401, 403):
            self._access_log.refused(visit.caller, visit.route, slug)
        elif visit.caller is not None and visit.route is not None:
            self._access_log.used(visit.caller, visit.route, visit.user_key, slug)

    async def _body(self, route: Route, request: BaseRequest, deadline: float) -> Any:
        if route.body is None:
            return None
        return requests.parse(route.body, await read_json(request, deadline), where="body")

    def _check_host(self, request: BaseRequest) -> None:
        """An open bridge listens on loopback; a foreign host name there is a page that rebinds its own name to us."""
        if not self._resolver.open:
            return
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name not in _LOOPBACK:
            raise Problem("foreign-host", "this bridge has no keys configured and answers to localhost only")

    async def _check_rate(self, caller: Caller, path: str) -> None:
        """Probes are never refused: it would cost what the answer costs, and have the process restarted.

        Nor does a page that polls /health, from the address that all callers behind a proxy share, use up their rate.
        """
        if path in PROBES:
            return
        kind, _, name = caller.name.partition(":")
        rate = self._policy.key_rate if kind == "key" else self._policy.address_rate
        if not await self._limits.allows(f"{kind}-health" if path == "/health" else kind, name, rate):
            raise Problem("rate-limited", "too many requests from this caller", headers=retry_after(1))

    def _preflight(self, request: BaseRequest, methods: Mapping[str, Route]) -> Reply:
        allowed = ", ".join(_allowed(methods))
        headers = {"Allow": allowed}
        if request.headers.get("Origin") in self._policy.cors_origins:
            headers |= {
                "Access-Control-Allow-Methods": allowed,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": "600",
            }
        return Reply(b"", status=204, headers=headers)

    def _finish(self, request: BaseRequest, response: web.Response) -> None:
        """The headers that every answer has."""
        headers = response.headers
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        if self._policy.https:
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if self._policy.cors_origins:
            headers["Vary"] = "Origin"
            origin = request.headers.get("Origin")
            if origin in self._policy.cors_origins:
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"


def problem_response(problem: Problem) -> web.Response:
    """A problem as an HTTP answer."""
    response = web.Response(
        status=problem.kind.status,
        body=orjson.dumps(problem.document()),
        headers={**problem.headers, **_SECURITY, "Content-Type": PROBLEM_JSON},
    )
    if problem.close:
        response.force_close()
    return response


def _response(reply: Reply) -> web.Response:
    headers = dict(reply.headers)
    if reply.status not in (204, 304):
        headers["Content-Type"] = reply.content_type + ("; charset=utf-8" if reply.content_type == HTML else "")
    if reply.content_type == HTML:
        headers["Content-Security-Policy"] = _PAGE_POLICY
    body = reply.body if isinstance(reply.body, bytes) else orjson.dumps(reply.body)
    return web.Response(status=reply.status, body=body or None, headers=headers)


def _check_once(request: BaseRequest) -> None:
    """Who calls and for whom is said once: of two, whoever stands before us may have checked the other one."""
    for name in _SAID_ONCE:
        if len(request.headers.getall(name, ())) > 1:
            raise Problem("bad-request", f"the header {name} is given twice")


def _allowed(methods: Mapping[str, Route]) -> list[str]:
    return sorted({*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"})


def _query(route: Route, request: BaseRequest) -> Any:
    """The parameters, checked; a route without a model ignores them."""
    if route.query is None:
        return None
    try:
        pairs = parse_qsl(
            request.rel_url.raw_query_string, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError:
        raise Problem("invalid-input", "the query is not readable", errors=[("query", "is not readable")]) from None
    data = dict(pairs)
    if len(data) != len(pairs):
        raise Problem("invalid-input", "a parameter is given twice", errors=[("query", "a name appears twice")])
    return requests.parse(route.query, data, where="query")
