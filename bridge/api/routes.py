"""The one table of routes: path, method, who may call, what goes in, what comes out.

Authorisation, documentation and tests all walk this table; a route that is not here does not exist. Paths are matched
byte for byte, without decoding, so no spelling of a path can slip past its access rule.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.api import answers, requests
from bridge.api.callers import Access, Caller

JSON = "application/json"
HTML = "text/html"
TEXT = "text/plain; version=0.0.4"
USER_KEY = re.compile(r"[0-9A-Fa-f]{12,64}")
PARAMETERS = {  # of a path: pattern, meaning
    "userKey": (USER_KEY, "A user key, or at least 12 hex digits of it."),
    "broker": (re.compile(r"[a-z0-9_-]{1,32}"), "A broker's name."),
}
_NAMED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: what a handler works with. `deadline`: loop time by which the answer must be on its way."""

    caller: Caller
    headers: Mapping[str, str]
    query: Any
    body: Any
    parameters: Mapping[str, str]  # of the path
    deadline: float

    @property
    def user_key(self) -> str:
        return self.parameters["userKey"].lower()


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
    browser: bool = False  # a person's browser comes here: refusals are pages

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
        query=requests.RecordQuery,
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


def _wish(path: str, handler: str, summary: str, answer: type[Any], body: type[Any]) -> Route:
    """An operator's wish: stored now, carried out by the processes concerned."""
    versioned, aliases = _api(path)
    problems = (*_BODY, "not-found", "conflict", "unavailable")
    return Route(
        *("POST", versioned, Access.OPS, handler, summary, answer, aliases),
        body=body,
        query=requests.NoQuery,
        status=202,
        problems=problems,
    )


_BODY = ("invalid-input", "draining", "too-large", "unsupported-media-type", "request-timeout")
_CONNECTING = ("connect-unknown", "connect-expired", "connect-used")
_COMPLETING = ("connect-other-user", "connect-refused", "connect-failed")
_ACTS_FOR = ("X-User-Id", "The app's own id of the user; required with an API key.")


def _stored(
    method: str,
    path: str,
    handler: str,
    summary: str,
    *,
    answer: type[Any] | None,
    also: tuple[str, ...] = (),
    **more: Any,
) -> Route:
    """Credentials and connecting: a user for themself, or the app's server for a user it names."""
    versioned, aliases = _api(path, *also)
    return Route(method, versioned, Access.APP, handler, summary, answer, aliases, **more)


def _browser(step: str, handler: str, summary: str, query: type[Any]) -> Route:
    return Route(
        "GET",
        f"/oauth/{{broker}}/{step}",
        Access.PUBLIC,
        handler,
        summary,
        None,
        query=query,
        status=303,
        content_type=HTML,
        browser=True,
        problems=(
            *("invalid-input", "not-found", "unavailable", "connect-not-configured"),
            *(_CONNECTING if step == "begin" else (*_CONNECTING, "connect-other-browser")),
        ),
    )


ROUTES: tuple[Route, ...] = (
    _post(
        "/start-session",
        "start_session",
        "Start a user's session, or find the running one",
        answers.StartAnswer,
        requests.StartRequest,
        requests.StartQuery,
    ),
    _post(
        "/start-websocket",
        "start_session",
        "As start-session; the broker may be left out",
        answers.StartAnswer,
        requests.StartWebsocketRequest,
        requests.StartQuery,
    ),
    _post(
        "/stop-session",
        "stop_session",
        "Stop a user's session at a broker",
        answers.StopAnswer,
        requests.StopRequest,
        requests.NoQuery,
    ),
    _post(
        "/stop-websocket",
        "stop_session",
        "As stop-session; the broker may be left out",
        answers.StopAnswer,
        requests.StopWebsocketRequest,
        requests.NoQuery,
    ),
    _ops(
        "/sessions",
        "list_sessions",
        "All sessions, a page at a time",
        answers.SessionsAnswer,
        Access.OPS,
        query=requests.ListQuery,
        problems=("invalid-input",),
    ),
    _ops(
        "/sessions/{userKey}",
        "user_sessions",
        "The sessions of one user",
        answers.UserSessionsAnswer,
        Access.OPS_OR_USER,
        query=requests.NoQuery,
        problems=("invalid-input", "not-found", "conflict"),
    ),
    _ops(
        "/sessions/{userKey}/explain",
        "explain",
        "Why each session of a user is as it is, and what happens next",
        answers.UserExplanationsAnswer,
        Access.OPS_OR_USER,
        query=requests.NoQuery,
        problems=("invalid-input", "not-found", "conflict"),
    ),
    _ops(
        "/fleet",
        "fleet",
        "The processes that share the database: shares, leases, versions",
        answers.FleetAnswer,
        Access.OPS,
        query=requests.NoQuery,
        problems=("conflict", "unavailable"),
    ),
    _wish(
        "/fleet/drain",
        "drain_process",
        "Let a process give up its sessions",
        answers.DrainAnswer,
        requests.DrainRequest,
    ),
    _wish(
        "/sessions/{userKey}/move",
        "move_sessions",
        "Let another process serve the sessions of a user",
        answers.MovesAnswer,
        requests.MoveRequest,
    ),
    _stored(
        "GET",
        "/accounts",
        "accounts",
        "The accounts that a user's credentials cover",
        answer=answers.AccountsAnswer,
        query=requests.BrokerQuery,
        problems=("invalid-input", "no-credentials", "conflict", "unavailable"),
        headers=(_ACTS_FOR,),
    ),
    _stored(
        "PUT",
        "/credentials",
        "enter_credentials",
        "Enter a user's credentials for a broker",
        answer=answers.CredentialsAnswer,
        body=requests.CredentialsRequest,
        query=requests.NoQuery,
        problems=(*_BODY, "unavailable", "connect-not-configured"),
    ),
    _stored(
        "DELETE",
        "/credentials",
        "remove_credentials",
        "Stop a user's sessions at a broker and forget the credentials",
        answer=None,
        query=requests.BrokerQuery,
        status=204,
        problems=("invalid-input", "draining", "unavailable", "connect-not-configured"),
        headers=(_ACTS_FOR,),
    ),
    _stored(
        "POST",
        "/oauth/{broker}/start",
        "start_connecting",
        "The address at which a user's browser begins to connect a broker, within 10 minutes",
        also=("/oauth/{broker}/start",),
        answer=answers.ConnectAnswer,
        body=requests.ConnectRequest,
        query=requests.NoQuery,
        problems=(*_BODY, "not-found", "unavailable", "connect-not-configured"),
    ),
    _stored(
        "POST",
        "/oauth/{broker}/complete",
        "complete_connecting",
        "Finish connecting a broker, with the ticket that came back to the app, within 60 seconds",
        also=("/oauth/{broker}/complete",),
        answer=answers.ConnectedAnswer,
        body=requests.CompleteRequest,
        query=requests.NoQuery,
        problems=(*_BODY, "not-found", "unavailable", "connect-not-configured", *_CONNECTING, *_COMPLETING),
    ),
    _browser("begin", "begin_connecting", "Where a user's browser sets out to the broker", requests.BeginQuery),
    _browser("callback", "connect_callback", "Where the broker sends a user's browser back", requests.CallbackQuery),
    _record("account", "account", "The record of an account, with its freshness", answers.AccountAnswer),
    _record("positions", "positions", "Positions and orders of an account", answers.PositionsAnswer),
    _public("/health", "health", "How the bridge is doing", answers.HealthAnswer),
    _public("/health/live", "live", "Liveness probe", answers.ProbeAnswer, problems=("not-live",)),
    _public("/health/ready", "ready", "Readiness probe", answers.ProbeAnswer, problems=("not-ready", "draining")),
    Route("GET", "/metrics", Access.OPS, "metrics", "Metrics for Prometheus", None, content_type=TEXT),
    _public("/openapi.json", "openapi", "This description", None),
    _public("/record.schema.json", "record_schema", "The shape of a record, as JSON Schema", None),
    _public("/docs", "docs", "This description, to read", None, content_type=HTML),
)


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for route in routes:
            for path in route.paths:
                self._add(path, route)

    def _add(self, path: str, route: Route) -> None:
        methods = self._exact.setdefault(path, {})
        if methods.setdefault(route.method, route) is not route:
            raise ValueError(f"{route.method} {path} is in the table twice")
        if methods.keys() == {route.method} and _NAMED.search(path):
            self._patterns.append((_pattern(path), path))

    def find(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        """The routes of a raw path by method (empty: no such path), and the parameters in the path."""
        if "{" not in path and path in self._exact:
            return self._exact[path], {}
        for pattern, template in self._patterns:
            if match := pattern.fullmatch(path):
                return self._exact[template], match.groupdict()
        return {}, {}


def _pattern(path: str) -> re.Pattern[str]:
    """Matches the paths that a path with parameters stands for."""
    parts = _NAMED.split(path)  # text, name, text, name … text
    named = [
        f"(?P<{each}>{PARAMETERS[each][0].pattern})" if at % 2 else re.escape(each) for at, each in enumerate(parts)
    ]
    return re.compile("".join(named))
