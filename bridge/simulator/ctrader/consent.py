"""The consent page: where an application sends a user's browser, and what the browser carries back.

Decided on plain values: parameters in, a page or an address out. Source: reference/ctrader.md §2.1: `client_id`,
`redirect_uri`, `scope`, `product`; the redirect carries `code`, or `error` as OAuth 2 words a denial; `state` comes
back as it was sent. Nobody signs in here: the visitor says which user they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.simulator.consent import check_redirect, page, redirect_with
from bridge.simulator.ctrader.services import Services
from core.errors import InvalidInput

SCOPES = {"accounts": "see your accounts", "trading": "see your accounts and trade on them"}
_CARRIED = ("client_id", "redirect_uri", "scope", "state", "product")


def consent_page(services: Services, parameters: Mapping[str, str]) -> str:
    """The page that asks. Raises InvalidInput for a request that no decision could answer."""
    _check(services, parameters)
    return page(
        "cTrader",
        SCOPES[parameters["scope"]],
        {name: parameters[name] for name in _CARRIED if name in parameters},
        users=len(services.world.of_user),
    )


def decide(services: Services, parameters: Mapping[str, str]) -> str:
    """Where the browser goes after the decision. Raises InvalidInput."""
    _check(services, parameters)
    redirect_uri = parameters["redirect_uri"]
    if parameters.get("decision") != "approve":
        return redirect_with(redirect_uri, {"error": "access_denied"}, parameters)
    user = parameters.get("user", "")
    if not (user.isascii() and user.isdecimal() and int(user) in services.world.of_user):
        raise InvalidInput("there is no such user", field="user")
    trade = parameters["scope"] == "trading"
    code = services.tokens.mint_code(int(user), trade, services.clock.now_ms(), redirect_uri)
    return redirect_with(redirect_uri, {"code": code}, parameters)


def _check(services: Services, parameters: Mapping[str, str]) -> None:
    if parameters.get("client_id") != services.settings.client_id:
        raise InvalidInput("no such application", field="client_id")
    if parameters.get("scope") not in SCOPES:
        raise InvalidInput("scope must be accounts or trading", field="scope")
    check_redirect(parameters.get("redirect_uri", ""))
