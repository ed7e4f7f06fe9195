"""Positions: look at them and close them; options can be exercised."""

from __future__ import annotations

from bridge.simulator.alpaca.rest.door import Answer, Ask, Route
from bridge.simulator.alpaca.rest.exact import truth_value


def list_positions(ask: Ask) -> Answer:
    return Answer(ask.world.positions(ask.account))


def get_position(ask: Ask) -> Answer:
    return Answer(ask.world.position(ask.account, ask.path["asset"]))


def close(ask: Ask) -> Answer:
    return Answer(ask.world.close_position(ask.account, ask.path["asset"], ask.query, ask.now_ms))


def close_all(ask: Ask) -> Answer:
    rows = ask.world.close_all(ask.account, truth_value(ask.query, "cancel_orders"), ask.now_ms)
    return Answer(rows, 207)


def exercise(ask: Ask) -> Answer:
    return Answer(ask.world.exercise(ask.account, ask.path["asset"], ask.now_ms))


def do_not_exercise(ask: Ask) -> Answer:
    return Answer(ask.world.do_not_exercise(ask.account, ask.path["asset"], ask.now_ms))


ROUTES: list[Route] = [
    ("GET", "/v2/positions", list_positions, None),
    ("DELETE", "/v2/positions", close_all, "trading"),
    ("GET", "/v2/positions/{asset}", get_position, None),
    ("DELETE", "/v2/positions/{asset}", close, "trading"),
    ("POST", "/v2/positions/{asset}/exercise", exercise, "trading"),
    ("POST", "/v2/positions/{asset}/do-not-exercise", do_not_exercise, "trading"),
]
