"""Orders: place, look, replace, cancel."""

from __future__ import annotations

from bridge.simulator.alpaca.refusals import malformed
from bridge.simulator.alpaca.rest.door import Answer, Ask, Route
from bridge.simulator.alpaca.rest.exact import truth_value


def list_orders(ask: Ask) -> Answer:
    return Answer(ask.world.orders(ask.account, ask.query))


def place(ask: Ask) -> Answer:
    return Answer(ask.world.place(ask.account, ask.body, ask.now_ms))


def get_order(ask: Ask) -> Answer:
    nested = truth_value(ask.query, "nested")
    return Answer(ask.world.order(ask.account, ask.path["id"], nested))


def by_client_order_id(ask: Ask) -> Answer:
    client_order_id = ask.query.get("client_order_id", "")
    if not client_order_id:
        raise malformed("client_order_id is required")
    return Answer(ask.world.order_by_client_id(ask.account, client_order_id))


def replace(ask: Ask) -> Answer:
    return Answer(ask.world.replace(ask.account, ask.path["id"], ask.body, ask.now_ms))


def cancel(ask: Ask) -> Answer:
    ask.world.cancel(ask.account, ask.path["id"], ask.now_ms)
    return Answer(None, 204)


def cancel_all(ask: Ask) -> Answer:
    return Answer(ask.world.cancel_all(ask.account, ask.now_ms), 207)


ROUTES: list[Route] = [
    ("GET", "/v2/orders", list_orders, None),
    ("POST", "/v2/orders", place, "trading"),
    ("DELETE", "/v2/orders", cancel_all, "trading"),
    ("GET", "/v2/orders:by_client_order_id", by_client_order_id, None),
    ("GET", "/v2/orders/{id}", get_order, None),
    ("PATCH", "/v2/orders/{id}", replace, "trading"),
    ("DELETE", "/v2/orders/{id}", cancel, "trading"),
]
