"""The OAuth token endpoint, decided on plain values: parameters in, HTTP status and JSON body out.

Source: reference/ctrader.md §2.1: GET with query parameters or form POST, camelCase JSON, errors in a 200 body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.simulator.ctrader.grants import end_sessions, exchange, renew
from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.tokens import Grant

Answer = tuple[int, dict[str, Any]]


def token_endpoint(services: Services, parameters: Mapping[str, str]) -> Answer:
    """Exchange a code or refresh a token."""
    settings = services.settings
    if (parameters.get("client_id"), parameters.get("client_secret")) != (settings.client_id, settings.client_secret):
        return _error("INVALID_CLIENT", "Invalid client credentials")
    match parameters.get("grant_type"):
        case "refresh_token":
            return _refresh(services, parameters.get("refresh_token", ""))
        case "authorization_code":
            grant = exchange(services, parameters.get("code", ""), parameters.get("redirect_uri"))
            return _error("ACCESS_DENIED", "Access denied") if grant is None else _granted(services, grant)
        case _:
            return _error("INVALID_REQUEST", "grant_type is not supported")


def _refresh(services: Services, refresh_token: str) -> Answer:
    if services.faults.refuses_refresh(refresh_token):
        return _error("ACCESS_DENIED", "Access denied")
    grant = renew(services, refresh_token)
    if grant is None:
        return _error("ACCESS_DENIED", "Access denied")
    end_sessions(services, grant.user)
    return _granted(services, grant)


def _granted(services: Services, grant: Grant) -> Answer:
    body = {
        "accessToken": grant.access_token,
        "tokenType": "bearer",
        "expiresIn": services.tokens.life_s,
        "refreshToken": grant.refresh_token,
        "errorCode": None,
        "description": None,
    }
    return 200, body


def _error(code: str, description: str) -> Answer:
    body = {
        "accessToken": None,
        "tokenType": None,
        "expiresIn": None,
        "refreshToken": None,
        "errorCode": code,
        "description": description,
    }
    return 200, body
