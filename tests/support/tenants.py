"""Requests by which one user would reach another, generated from the table of routes (faults.md S08).

Whatever a request can name is sorted here: what names a user or what is theirs, and what does not. A field, header or
parameter of a new route that is not sorted is an error, so no route joins the table without joining the matrix.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pydantic.alias_generators import to_camel

from bridge.api.callers import Access
from bridge.api.routes import ROUTES, Route


@dataclass(frozen=True)
class Tenant:
    """A user and all that names them or is theirs."""

    user_id: str
    user_key: str
    account_id: str
    record_key: str
    marks: tuple[str, ...]  # texts that stand in their data and in nobody else's

    @property
    def ids(self) -> dict[str, str]:
        return {"id": self.user_id, "id with space": f" {self.user_id} "}

    @property
    def keys(self) -> dict[str, str]:
        key = self.user_key
        return {"key": key, "12 digits": key[:12], "key in capitals": key.upper(), "most of the key": key[:63]}

    @property
    def strange_keys(self) -> dict[str, str]:
        """Theirs, in places where they do not belong."""
        return {"record key": self.record_key, "account": self.account_id, "id": self.user_id}


@dataclass(frozen=True)
class Request:
    """One request; `names`: what it names that is the victim's, for the message of a failure."""

    route: Route
    method: str
    path: str
    names: str
    kind: str  # id, key, account, plain
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None

    @property
    def target(self) -> str:
        parts = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.query.items())
        return f"{self.path}?{parts}" if parts else self.path

    def __str__(self) -> str:
        return f"{self.method} {self.target} {self.headers} {json.dumps(self.body)} ({self.names})"


ID_FIELDS = {"user_id"}
KEY_FIELDS = {"user_key", "userKey"}
ACCOUNT_FIELDS = {"account_id"}
ID_HEADERS = {"X-User-Id"}
NEUTRAL: dict[str, Any] = {  # names nobody; a value that is accepted
    "environment": None,
    "wait": None,
    "status": None,
    "after": None,
    "limit": None,
    "scope": None,
    "If-None-Match": None,
    "return_to": "https://app.example.com/back",
    "owner": "f" * 12,
    "draining": None,
    "to": None,
    "ticket": "t" * 43,
    "state": "s" * 43,
    "code": "code",
    "error": None,
    "credentials": {"accessToken": "attackers-own", "refreshToken": "attackers-own", "environment": "demo"},
}
CREDENTIALS: dict[str, dict[str, str]] = {  # where a broker's are others than those above
    "alpaca": {"keyId": "attackers-own", "secretKey": "attackers-own", "environment": "paper"},
}


def requests_about(victim: Tenant, *, broker: str) -> Iterator[Request]:
    """Every route × every place where it can name somebody × everything that names the victim, and each route plain."""
    for route in ROUTES:
        for path in route.paths:
            yield from _about(route, path, victim, broker)


def _about(route: Route, path: str, victim: Tenant, broker: str) -> Iterator[Request]:
    base = _plain(route, path, victim, broker)
    in_path = {"userKey"} if "{userKey}" in path else set()
    if in_path:
        template = path.replace("{broker}", broker)
        for names, key in {**victim.keys, **victim.strange_keys}.items():
            kind = "key" if names in victim.keys else "plain"
            yield _with(base, names, kind, path=template.replace("{userKey}", quote(key, safe="")))
    else:
        yield base
    for place, fields in (("query", _fields(route.query)), ("body", _fields(route.body))):
        for name in fields:
            for names, kind, value in _values(name, victim):
                yield _with(base, f"{place} {name}: {names}", kind, **{place: {to_camel(name): value}})
    # where the route does not say that it looks
    for names, value in victim.ids.items():
        yield _with(base, f"X-User-Id: {names}", "id", headers={"X-User-Id": value})
        yield _with(base, f"undeclared: {names}", "plain", query={"userId": value})
    for names, value in victim.keys.items():
        yield _with(base, f"undeclared: {names}", "plain", query={"userkey": value})


def _plain(route: Route, path: str, victim: Tenant, broker: str) -> Request:
    path = path.replace("{broker}", broker).replace("{userKey}", victim.user_key)
    assert "{" not in path, f"say here what {path} names"
    for name, _ in route.headers:
        assert name in ID_HEADERS or name in NEUTRAL, f"say here whether the header {name} names a user"
    return Request(
        route, route.method, path, "plain", "plain", _needed(route.query, broker), {}, _needed(route.body, broker)
    )


def _needed(model: Any, broker: str) -> dict[str, Any] | None:
    """The members that a model needs, naming nobody."""
    if model is None:
        return {}
    found = {}
    for name, each in model.model_fields.items():
        if name == "broker":
            found[name] = broker
        elif name in NEUTRAL:
            if each.is_required():
                own = CREDENTIALS.get(broker) if name == "credentials" else None
                found[to_camel(name)] = own or NEUTRAL[name]
        else:
            assert name in ID_FIELDS | KEY_FIELDS | ACCOUNT_FIELDS, f"say here whether {name} names a user"
            assert not each.is_required(), f"{name} must be optional: a user need not name themself"
    return found


def _fields(model: Any) -> list[str]:
    return [] if model is None else list(model.model_fields)


def _values(name: str, victim: Tenant) -> Iterator[tuple[str, str, str]]:
    if name in ID_FIELDS:
        yield from ((names, "id", value) for names, value in victim.ids.items())
    if name in KEY_FIELDS:
        yield from ((names, "key", value) for names, value in victim.keys.items())
    if name in ACCOUNT_FIELDS:
        yield "account", "account", victim.account_id


def _with(base: Request, names: str, kind: str, **more: Any) -> Request:
    return Request(
        base.route,
        base.method,
        more.get("path", base.path),
        names,
        kind,
        {**base.query, **more.get("query", {})},
        {**base.headers, **more.get("headers", {})},
        {**base.body, **more.get("body", {})} if base.route.body is not None and base.body is not None else None,
    )


def may(scopes: set[str], route: Route) -> bool:
    """Whether API keys with these scopes are for this route."""
    needed = {Access.PUBLIC: None, Access.APP: "app", Access.OPS: "ops", Access.OPS_OR_USER: "ops"}[route.access]
    return needed is None or needed in scopes
