"""The REST of the simulated Alpaca (reference/alpaca.md §1.2): one module per subject behind one door."""

from __future__ import annotations

from aiohttp import web

from bridge.simulator.alpaca.rest import account, market, orders, positions, watchlists
from bridge.simulator.alpaca.rest.door import MAX_BODY_BYTES, guarded, unknown_routes

ROUTES = [*account.ROUTES, *positions.ROUTES, *orders.ROUTES, *market.ROUTES, *watchlists.ROUTES]


def make_app() -> web.Application:
    """An application that serves every route; whoever runs it says its services and its environment."""
    app = web.Application(middlewares=[unknown_routes], client_max_size=MAX_BODY_BYTES)
    app.add_routes([guarded(*route) for route in ROUTES])
    return app
