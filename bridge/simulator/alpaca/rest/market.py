"""What is the same for every account: the clock, the calendar, assets and option contracts."""

from __future__ import annotations

from bridge.simulator.alpaca.rest.door import Answer, Ask, Route


def clock(ask: Ask) -> Answer:
    return Answer(ask.world.clock(ask.now_ms))


def calendar(ask: Ask) -> Answer:
    return Answer(ask.world.calendar(ask.query, ask.now_ms))


def assets(ask: Ask) -> Answer:
    return Answer(ask.world.assets(ask.query))


def asset(ask: Ask) -> Answer:
    return Answer(ask.world.asset(ask.path["asset"]))


def option_contracts(ask: Ask) -> Answer:
    return Answer(ask.world.option_contracts(ask.query))


def option_contract(ask: Ask) -> Answer:
    return Answer(ask.world.option_contract(ask.path["asset"]))


def announcements(ask: Ask) -> Answer:
    """No corporate action ever happens here; the call itself is deprecated."""
    return Answer([])


ROUTES: list[Route] = [
    ("GET", "/v2/clock", clock, None),
    ("GET", "/v2/calendar", calendar, None),
    ("GET", "/v2/assets", assets, None),
    ("GET", "/v2/assets/{asset}", asset, None),
    ("GET", "/v2/options/contracts", option_contracts, None),
    ("GET", "/v2/options/contracts/{asset}", option_contract, None),
    ("GET", "/v2/corporate_actions/announcements", announcements, None),
]
