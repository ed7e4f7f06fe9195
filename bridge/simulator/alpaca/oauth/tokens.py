"""The OAuth token endpoint, decided on plain values: form parameters in, HTTP status and JSON body out.

Source: reference/alpaca.md §1.5: a form-encoded POST; the answer holds `access_token`, `token_type` and `scope`, and
neither an expiry nor a refresh token. How failures look is not documented: they follow RFC 6749 §5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.simulator.alpaca.access import SCOPES
from bridge.simulator.alpaca.services import Services

Answer = tuple[int, dict[str, Any]]


def token_endpoint(services: Services, parameters: Mapping[str, str]) -> Answer:
    """Exchange a code for a token."""
    answer = _exchange(services, parameters)
    if answer[0] == 200:
        services.counters.grants += 1
    else:
        services.counters.grant_failures += 1
    return answer


def _exchange(services: Services, parameters: Mapping[str, str]) -> Answer:
    settings = services.settings
    if parameters.get("grant_type") != "authorization_code":
        return _error(400, "unsupported_grant_type", "grant_type must be authorization_code")
    if (parameters.get("client_id"), parameters.get("client_secret")) != (settings.client_id, settings.client_secret):
        return _error(401, "invalid_client", "client authentication failed")
    grant = services.access.exchange(
        parameters.get("code", ""), parameters.get("redirect_uri"), services.clock.now_ms()
    )
    if grant is None:
        return _error(400, "invalid_grant", "the code is unknown, spent, too old or was made for another address")
    scope = " ".join(name for name in SCOPES if name in grant.scopes)
    return 200, {"access_token": grant.token, "token_type": "bearer", "scope": scope}


def _error(status: int, error: str, description: str) -> Answer:
    return status, {"error": error, "error_description": description}
