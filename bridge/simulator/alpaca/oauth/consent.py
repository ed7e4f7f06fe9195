"""The consent page: where an application sends a user's browser, and what the browser carries back.

Decided on plain values: parameters in, a page or an address out. Source: reference/alpaca.md §1.5: `response_type`,
`client_id`, `redirect_uri`, `scope`, `state`, optional `env`; the redirect carries `code`, or `error` as OAuth 2 words
a denial; `state` comes back as it was sent. Nobody signs in here: the visitor says which user they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge.simulator.alpaca.access import LIVE, PAPER, SCOPES
from bridge.simulator.alpaca.services import Services
from bridge.simulator.consent import check_redirect, page, redirect_with
from core.errors import InvalidInput

_WORDS = {"account:write": "change your settings and watchlists", "trading": "trade for you", "data": "see market data"}
_CARRIED = ("response_type", "client_id", "redirect_uri", "scope", "state", "env")


def consent_page(services: Services, parameters: Mapping[str, str]) -> str:
    """The page that asks. Raises InvalidInput for a request that no decision could answer."""
    scopes, environments = _check(services, parameters)
    return page(
        "Alpaca",
        ", ".join(["see your account", *(_WORDS[name] for name in SCOPES if name in scopes)]),
        {name: parameters[name] for name in _CARRIED if name in parameters},
        users=services.settings.users,
        where=f" ({' and '.join(sorted(environments, reverse=True))})",
    )


def decide(services: Services, parameters: Mapping[str, str]) -> str:
    """Where the browser goes after the decision. Raises InvalidInput."""
    scopes, environments = _check(services, parameters)
    redirect_uri = parameters["redirect_uri"]
    if parameters.get("decision") != "approve":
        return redirect_with(redirect_uri, {"error": "access_denied"}, parameters)
    user = parameters.get("user", "")
    known = user.isascii() and user.isdecimal() and len(user) < 10  # no world has more users
    held = services.access.environments_of(int(user)) if known else frozenset()
    if not held:
        raise InvalidInput("there is no such user", field="user")
    covered = held & environments
    if not covered:
        raise InvalidInput("this user has no such account", field="env")
    code = services.access.mint_code(
        int(user),
        environments=covered,
        scopes=scopes,
        now_ms=services.clock.now_ms(),
        redirect_uri=redirect_uri,
    )
    return redirect_with(redirect_uri, {"code": code}, parameters)


def _check(services: Services, parameters: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """The scopes and the environments asked for."""
    if parameters.get("response_type") != "code":
        raise InvalidInput("response_type must be code", field="response_type")
    if parameters.get("client_id") != services.settings.client_id:
        raise InvalidInput("no such application", field="client_id")
    check_redirect(parameters.get("redirect_uri", ""))
    scopes = frozenset(parameters.get("scope", "").split())
    if not scopes <= set(SCOPES):
        raise InvalidInput(f"scope is any of {', '.join(SCOPES)}", field="scope")
    wanted = parameters.get("env")
    if wanted not in (None, PAPER, LIVE):
        raise InvalidInput("env must be live or paper", field="env")
    return scopes, frozenset((PAPER, LIVE) if wanted is None else (wanted,))
