"""What the consent pages of both brokers share: the page itself, and where it sends the browser back to.

On plain values: parameters in, a page or an address out. Nobody signs in here: the visitor says which user they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from core.errors import InvalidInput

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Simulated consent</title>
<meta name="viewport" content="width=device-width">
<body style="font:16px system-ui;max-width:30rem;margin:10vh auto;padding:0 1rem">
<h1>Simulated {broker}</h1>
<p>The application <b>{client}</b> asks to <b>{what}</b>{where}.</p>
<form method="post">{hidden}
<p><label>You are user <input name="user" type="number" min="1" max="{users}" value="1"></label> (1 to {users})</p>
<p><button name="decision" value="approve">Allow access</button>
<button name="decision" value="deny">Deny</button></p>
</form></body></html>"""


def page(broker: str, what: str, carried: Mapping[str, str], *, users: int, where: str = "") -> str:
    """The page that asks. `carried`: the parameters that come back with the decision, `client_id` among them."""
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in carried.items())
    client = escape(carried["client_id"])
    return _PAGE.format(broker=broker, client=client, what=what, where=where, hidden=hidden, users=users)


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
