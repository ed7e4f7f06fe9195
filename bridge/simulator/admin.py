"""The admin server of both brokers on one port.

`GET /sim/accounts` lists every account with its broker; routes of one account go by its id (digits are cTrader's, a
UUID is Alpaca's); the rest exists per broker under `/sim/ctrader` and `/sim/alpaca`, without a prefix it is cTrader's.
"""

from __future__ import annotations

from aiohttp import web

from bridge.simulator.admin_http import MAX_BODY_BYTES, problems, send_json
from bridge.simulator.alpaca import admin as alpaca_admin
from bridge.simulator.alpaca.actions import Actions as AlpacaActions
from bridge.simulator.alpaca.refusals import ApiRefusal
from bridge.simulator.ctrader import admin as ctrader_admin
from bridge.simulator.ctrader.actions import Actions as CTraderActions
from bridge.simulator.ctrader.actions import Refusal


def make_app(ctrader: CTraderActions, alpaca: AlpacaActions) -> web.Application:
    """The application with every route of both."""
    app = web.Application(middlewares=[problems(Refusal, ApiRefusal)], client_max_size=MAX_BODY_BYTES)
    app[ctrader_admin.ACTIONS] = ctrader
    app[alpaca_admin.ACTIONS] = alpaca
    app.add_routes(
        [
            web.get("/sim/accounts", list_accounts),
            web.get("/sim/ctrader/accounts", ctrader_admin.list_accounts),
            *ctrader_admin.account_routes(),
            *alpaca_admin.account_routes(),
            *ctrader_admin.broker_routes("/sim/ctrader"),
            *alpaca_admin.broker_routes("/sim/alpaca"),
            *ctrader_admin.broker_routes("/sim"),
            *ctrader_admin.oauth_routes(),
        ]
    )
    return app


async def list_accounts(request: web.Request) -> web.Response:
    both = request.app[ctrader_admin.ACTIONS].accounts() + request.app[alpaca_admin.ACTIONS].accounts()
    return send_json({"accounts": both})
