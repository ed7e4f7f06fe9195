"""Watchlists, by id and by name (the path has a literal colon)."""

from __future__ import annotations

from bridge.simulator.alpaca.accounts.watchlists import Watchlist
from bridge.simulator.alpaca.rest.door import Answer, Ask, Route
from bridge.simulator.alpaca.stamps import MS_NS, utc_text


def list_all(ask: Ask) -> Answer:
    return Answer(ask.watchlists.documents())


def create(ask: Ask) -> Answer:
    return _shown(ask, ask.watchlists.create(ask.body, _now(ask)))


def get(ask: Ask) -> Answer:
    return _shown(ask, _found(ask))


def update(ask: Ask) -> Answer:
    return _shown(ask, ask.watchlists.update(_found(ask), ask.body, _now(ask)))


def add(ask: Ask) -> Answer:
    return _shown(ask, ask.watchlists.add(_found(ask), ask.body, _now(ask)))


def remove(ask: Ask) -> Answer:
    return _shown(ask, ask.watchlists.remove(_found(ask), ask.path["symbol"], _now(ask)))


def delete(ask: Ask) -> Answer:
    ask.watchlists.delete(_found(ask))
    return Answer(None, 204)


def _found(ask: Ask) -> Watchlist:
    if "id" in ask.path:
        return ask.watchlists.by_id(ask.path["id"])
    return ask.watchlists.by_name(ask.query.get("name"))


def _shown(ask: Ask, found: Watchlist) -> Answer:
    return Answer(ask.watchlists.document(found))


def _now(ask: Ask) -> str:
    return utc_text(ask.now_ms * MS_NS)


_WRITE = "account:write"
ROUTES: list[Route] = [
    ("GET", "/v2/watchlists", list_all, None),
    ("POST", "/v2/watchlists", create, _WRITE),
    *(
        route
        for path in ("/v2/watchlists/{id}", "/v2/watchlists:by_name")
        for route in (
            ("GET", path, get, None),
            ("PUT", path, update, _WRITE),
            ("POST", path, add, _WRITE),
            ("DELETE", path, delete, _WRITE),
        )
    ),
    ("DELETE", "/v2/watchlists/{id}/{symbol}", remove, _WRITE),
]
