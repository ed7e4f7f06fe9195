"""The account: its figures, its settings, its activities and its history."""

from __future__ import annotations

from bridge.simulator.alpaca.refusals import missing
from bridge.simulator.alpaca.rest.door import Answer, Ask, Route


def account(ask: Ask) -> Answer:
    return Answer(ask.world.account_document(ask.account))


def configurations(ask: Ask) -> Answer:
    return Answer(ask.world.configurations(ask.account))


def configure(ask: Ask) -> Answer:
    return Answer(ask.world.configure(ask.account, ask.body, ask.now_ms))


def activities(ask: Ask) -> Answer:
    return Answer(ask.world.activities(ask.account, ask.query, ask.path.get("type")))


def portfolio_history(ask: Ask) -> Answer:
    return Answer(ask.world.portfolio_history(ask.account, ask.query, ask.now_ms))


def activity_events(ask: Ask) -> Answer:
    """The stream of activities is not there, as on paper (reference/alpaca.md §4.2)."""
    raise missing("endpoint not found.")


ROUTES: list[Route] = [
    ("GET", "/v2/account", account, None),
    ("GET", "/v2/account/configurations", configurations, None),
    ("PATCH", "/v2/account/configurations", configure, "account:write"),
    ("GET", "/v2/account/activities", activities, None),
    ("GET", "/v2/account/activities/{type}", activities, None),
    ("GET", "/v2/account/portfolio/history", portfolio_history, None),
    ("GET", "/v2beta1/events/activities", activity_events, None),
]
