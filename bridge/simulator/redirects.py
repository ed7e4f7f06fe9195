"""Where a consent page sends the browser back to: checked once for both brokers, on plain values."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from core.errors import InvalidInput


def check_redirect(address: str) -> None:
    """Raises InvalidInput unless a browser can be sent there."""
    try:
        target = urlsplit(address)
        fits = target.scheme in ("http", "https") and target.hostname and not target.fragment
    except ValueError:  # an unbalanced bracket, for one
        fits = False
    if not fits:
        raise InvalidInput("redirect_uri must be an absolute address without a fragment", field="redirect_uri")


def redirect_with(address: str, more: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """An address with further parameters, and the state as it came."""
    parts = urlsplit(address)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *more.items()]
    if "state" in parameters:
        query.append(("state", parameters["state"]))
    return urlunsplit(parts._replace(query=urlencode(query)))
