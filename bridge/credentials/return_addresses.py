"""Where a browser may be sent back to: exact origin and beginning of the path, from the operator's list. Pure.

Addresses come from callers and become redirects, so whatever browsers and servers could read differently is refused
rather than interpreted: backslashes, user names, empty and dotted segments, encoded slashes and dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from core.errors import InvalidInput

LONGEST = 2048  # characters
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # visible ASCII without " < > \ ^ ` { | }
_HOST = re.compile(r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TRICKS = re.compile(r"%(?:2e|2f|5c|25|[01][0-9a-f]|7f)", re.IGNORECASE)
_PORTS = {"https": 443, "http": 80}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_return(address: str, allowed: Iterable[str]) -> str:
    """The address, when the list allows it. Raises InvalidInput for `returnTo` otherwise."""
    parts = _split(address)
    if not any(_within(parts, urlsplit(each)) for each in allowed):
        raise _refused("is not among the addresses that this bridge may send a browser to")
    return address


def with_parameters(address: str, parameters: Mapping[str, str]) -> str:
    """The address with these parameters in its query, in place of any of the same name."""
    parts = urlsplit(address)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in parameters]
    return urlunsplit(parts._replace(query=urlencode([*kept, *parameters.items()])))


def _split(address: str) -> SplitResult:
    if len(address) > LONGEST or not _PLAIN.fullmatch(address):
        raise _refused("must be an address in plain ASCII of 2048 characters at most")
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise _refused("is not an address") from None
    if parts.scheme not in _PORTS or not address.lower().startswith(f"{parts.scheme}://"):
        raise _refused("must begin with https://")
    if not _HOST.fullmatch(parts.netloc):
        raise _refused("must name a plain host, without a user name")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise _refused("must begin with https:// (http:// for loopback only)")
    segments = parts.path.split("/")[1:]
    if _TRICKS.search(parts.path) or "" in segments[:-1] or {".", ".."} & set(segments):
        raise _refused("has a path that may be read in several ways")
    return parts


def _within(parts: SplitResult, allowed: SplitResult) -> bool:
    """Whether an address has the origin of an allowed one, and its path begins with the same segments."""
    if _origin(parts) != _origin(allowed):
        return False
    path = allowed.path.rstrip("/")
    return parts.path == path or parts.path.startswith(f"{path}/") or not path


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port


def _refused(rule: str) -> InvalidInput:
    return InvalidInput(f"returnTo {rule}", field="returnTo")
