"""The one table of routes: path, method, who may call, what goes in, what comes out.

Authorisation, documentation and tests all walk this table; a route that is not here does not exist. Paths are matched
byte for byte, without decoding, so no spelling of a path can slip past its access rule.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.api import schemas
from bridge.api.callers import Access, Caller

JSON = "application/json"
HTML = "text/html"
TEXT = "text/plain; version=0.0.4"
USER_KEY = re.compile(r"[0-9A-Fa-f]{12,64}")
_PARAMETER = "{userKey}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: what a handler works with. `deadline`: loop time by which the answer must be on its way."""

    caller: Caller
    headers: Mapping[str, str]
    query: Any
    body: Any
    user_key: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer; `body` is data for JSON, or bytes that are sent as they are."""

    body: Any
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `handler` names a method of `Handlers`; `query` None: parameters are ignored, not refused."""

    method: str
    path: str
    access: Access
    handler: str
    summary: str
    answer: type[Any] | None
    aliases: tuple[str, ...] = ()
    body: type[Any] | None = None
    query: type[Any] | None = None
    status: int = 200
    content_type: str = JSON
    problems: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # further request headers: name, meaning

    @property
    def writes(self) -> bool:
        """Refused while the process is ending."""
        return self.method != "GET"

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)


def _api(path: str, *others: str) -> tuple[str, tuple[str, ...]]:
    """The versioned path and its lasting unversioned aliases."""
    return f"/api/v1{path}", (f"/api{path}", *others)


def _post(path: str, handler: str, summary: str, answer: type[Any], body: type[Any], query: type[Any]) -> Route:
    versioned, aliases = _api(path)
    problems = ("invalid-input", "draining", "unavailable", "too-large", "unsupported-media-type", "request-timeout")
    more = ("no-credentials", "choose-account", "conflict") if handler == "start_session" else ("not-found",)
    return Route(
        "POST",
        versioned,
        Access.APP,
        handler,
        summary,
        answer,
        aliases,
        body=body,
        query=query,
        status=202,
        problems=problems + more,
    )


def _record(name: str, handler: str, summary: str, answer: type[Any]) -> Route:
    return Route(
        "GET",
        f"/api/v1/{name}",
        Access.APP,
        handler,
        summary,
        answer,
        (f"/api/{name}", f"/{name}"),
        query=schemas.RecordQuery,
        problems=("invalid-input", "no-record", "not-found", "conflict", "unavailable"),
        headers=(
            ("X-User-Id", "The app's own id of the user; with an API key, this or userKey is required."),
            ("If-None-Match", "An ETag received before; answered with 304 while the record is still that one."),
        ),
    )


def _public(path: str, handler: str, summary: str, answer: type[Any] | None, **more: Any) -> Route:
    return Route("GET", path, Access.PUBLIC, handler, summary, answer, **more)


def _ops(path: str, handler: str, summary: str, answer: type[Any], access: Access, **more: Any) -> Route:
    versioned, aliases = _api(path)
    return Route("GET", versioned, access, handler, summary, answer, aliases, **more)


ROUTES: tuple[Route, ...] = (
    _post(
        "/start-session",
        "start_session",
        "Start a user's session, or find the running one",
        schemas.StartAnswer,
        schemas.StartRequest,
        schemas.StartQuery,
    ),
    _post(
        "/start-websocket",
        "start_session",
        "As start-session; the broker may be left out",
        schemas.StartAnswer,
        schemas.StartWebsocketRequest,
        schemas.StartQuery,
    ),
    _post(
        "/stop-session",
        "stop_session",
        "Stop a user's session at a broker",
        schemas.StopAnswer,
        schemas.StopRequest,
        schemas.NoQuery,
    ),
    _post(
        "/stop-websocket",
        "stop_session",
        "As stop-session; the broker may be left out",
        schemas.StopAnswer,
        schemas.StopWebsocketRequest,
        schemas.NoQuery,
    ),
    _ops(
        "/sessions",
        "list_sessions",
        "All sessions, a page at a time",
        schemas.SessionsAnswer,
        Access.OPS,
        query=schemas.ListQuery,
        problems=("invalid-input",),
    ),
    _ops(
        f"/sessions/{_PARAMETER}",
        "user_sessions",
        "The sessions of one user",
        schemas.UserSessionsAnswer,
        Access.OPS_OR_USER,
        query=schemas.NoQuery,
        problems=("invalid-input", "not-found", "conflict"),
    ),
    _ops(
        f"/sessions/{_PARAMETER}/explain",
        "explain",
        "Why each session of a user is as it is, and what happens next",
        schemas.UserExplanationsAnswer,
        Access.OPS_OR_USER,
        query=schemas.NoQuery,
        problems=("invalid-input", "not-found", "conflict"),
    ),
    _record("account", "account", "The record of an account, with its freshness", schemas.AccountAnswer),
    _record("positions", "positions", "Positions and orders of an account", schemas.PositionsAnswer),
    _public("/health", "health", "How the bridge is doing", schemas.HealthAnswer),
    _public("/health/live", "live", "Liveness probe", schemas.ProbeAnswer, problems=("not-live",)),
    _public("/health/ready", "ready", "Readiness probe", schemas.ProbeAnswer, problems=("not-ready", "draining")),
    Route("GET", "/metrics", Access.OPS, "metrics", "Metrics for Prometheus", None, content_type=TEXT),
    _public("/openapi.json", "openapi", "This description", None),
    _public("/docs", "docs", "This description, to read", None, content_type=HTML),
)


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for route in routes:
            for path in route.paths:
                self._add(path, route)

    def _add(self, path: str, route: Route) -> None:
        methods = self._exact.setdefault(path, {})
        if methods.setdefault(route.method, route) is not route:
            raise ValueError(f"{route.method} {path} is in the table twice")
        if _PARAMETER in path:
            pattern = re.escape(path).replace(re.escape(_PARAMETER), f"(?P<key>{USER_KEY.pattern})")
            self._patterns.append((re.compile(pattern), methods))
            del self._exact[path]

    def find(self, path: str) -> tuple[Mapping[str, Route], str]:
        """The routes of a raw path by method (empty: no such path), and the user key in the path or ""."""
        if path in self._exact:
            return self._exact[path], ""
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return methods, match["key"].lower()
        return {}, ""
