"""What the routes of connecting and of stored credentials do: call the service, set or clear its cookie, show a page.

Two of them are visited by people's browsers: their refusals are small pages that repeat nothing of the address, and
their answers send the browser on. Must not decide anything about a consent.
"""

from __future__ import annotations

from contextlib import suppress
from html import escape
from typing import Protocol

from bridge.api import answers
from bridge.api.callers import Caller, acting_for
from bridge.api.ports import Connecting, Services, StoredCredentials
from bridge.api.problems import Problem, problem_of
from bridge.api.routes import HTML, Call, Reply
from bridge.brokers.base import ConsentScope
from bridge.credentials.views import CoveredAccounts
from bridge.sessions.views import NoCredentials
from core.errors import BridgeError, NotFound

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>body{{font:16px system-ui;max-width:32rem;margin:15vh auto;padding:0 1rem}}</style>
<h1>{title}</h1><p>{text}</p><p>You can close this page and start again in the app.</p></html>"""


class _HasServices(Protocol):
    _services: Services


class ConnectHandlers:
    """One method per handler name of the route table; a part of `Handlers`."""

    async def start_connecting(self: _HasServices, call: Call) -> Reply:
        url = await _connecting(self._services).start(
            user_id=acting_for(call.caller, call.body.user_id, field="userId"),
            broker=call.parameters["broker"],
            return_to=call.body.return_to,
            scope=ConsentScope(call.body.scope),
            actor=_actor(call.caller),
        )
        return Reply({"url": url})

    async def begin_connecting(self: _HasServices, call: Call) -> Reply:
        """The browser gets its cookie here and not from `start`: there it would be a third party's."""
        try:
            begun = await _connecting(self._services).begin(broker=call.parameters["broker"], state=call.query.state)
        except BridgeError as error:
            return _page(problem_of(error))
        except Problem as problem:
            return _page(problem)
        cookie = _cookie(begun.cookie_name, begun.cookie, begun.cookie_path, begun.max_age_s, secure=begun.secure)
        return _onwards(begun.url, cookie)

    async def connect_callback(self: _HasServices, call: Call) -> Reply:
        try:
            returned = await _connecting(self._services).callback(
                broker=call.parameters["broker"],
                state=call.query.state,
                cookies=_cookies(call.headers.get("Cookie", "")),
                code=call.query.code,
                error=call.query.error,
            )
        except BridgeError as error:
            return _page(problem_of(error))
        except Problem as problem:
            return _page(problem)
        return _onwards(returned.url, _cookie(returned.cookie_name, "", returned.cookie_path, 0, secure=False))

    async def complete_connecting(self: _HasServices, call: Call) -> Reply:
        connected = await _connecting(self._services).complete(
            user_id=acting_for(call.caller, call.body.user_id, field="userId"),
            broker=call.parameters["broker"],
            ticket=call.body.ticket,
            actor=_actor(call.caller),
        )
        self._services.sessions.credentials_changed(connected.user_key, connected.broker)
        source = {
            "user_key": connected.user_key,
            "broker": connected.broker,
            "scope": connected.scope.value,
            **_covered(connected.covered),
        }
        return Reply(answers.render(answers.ConnectedAnswer, source))

    async def accounts(self: _HasServices, call: Call) -> Reply:
        broker = call.query.broker
        user_id = acting_for(call.caller, call.headers.get("X-User-Id"), field="X-User-Id")
        covered = await _credentials(self._services).accounts(user_id=user_id, broker=broker)
        if covered is None:
            raise NoCredentials(f"no {broker} credentials are stored for this user")
        return Reply(answers.render(answers.AccountsAnswer, {"broker": broker, **_covered(covered)}))

    async def enter_credentials(self: _HasServices, call: Call) -> Reply:
        entered = await _credentials(self._services).enter(
            user_id=acting_for(call.caller, call.body.user_id, field="userId"),
            broker=call.body.broker,
            entry=call.body.credentials,
            actor=_actor(call.caller),
        )
        self._services.sessions.credentials_changed(entered.user_key, entered.broker)
        return Reply(answers.render(answers.CredentialsAnswer, entered))

    async def remove_credentials(self: _HasServices, call: Call) -> Reply:
        """204, also when there was nothing: sessions first, so that none goes on without credentials."""
        broker = call.query.broker
        user_id = acting_for(call.caller, call.headers.get("X-User-Id"), field="X-User-Id")
        credentials = _credentials(self._services)
        with suppress(NotFound):  # none was ever started
            await self._services.sessions.stop(user_id=user_id, broker=broker, actor=_actor(call.caller))
        await credentials.remove(user_id=user_id, broker=broker, actor=_actor(call.caller))
        return Reply(b"", status=204)


def _connecting(services: Services) -> Connecting:
    if services.connecting is None:
        raise Problem(
            "connect-not-configured",
            "connecting needs PUBLIC_URL, DATABASE_URL, TOKEN_ENCRYPTION_KEYS, and OAUTH_RETURN_URLS or CORS_ORIGINS",
        )
    return services.connecting


def _credentials(services: Services) -> StoredCredentials:
    if services.credentials is None:
        raise Problem("connect-not-configured", "credentials need DATABASE_URL and TOKEN_ENCRYPTION_KEYS")
    return services.credentials


def _actor(caller: Caller) -> str:
    """Who acts, in the words of the audit log."""
    if caller.user_id is not None:
        return "user"
    return f"key:{caller.key_id}" if caller.key_id is not None else "ip"


def _covered(covered: CoveredAccounts) -> dict[str, object]:
    return {"accounts": list(covered.accounts), "as_of": covered.as_of, "fresh": covered.fresh}


def _onwards(url: str, cookie: str) -> Reply:
    """Send the browser on. 303, so that it always goes with GET."""
    return Reply(b"", status=303, content_type=HTML, headers={"Location": url, "Set-Cookie": cookie})


def _cookie(name: str, value: str, path: str, max_age_s: int, *, secure: bool) -> str:
    """For our own callback only. Lax: the broker's redirect must bring it along, nothing else needs to."""
    parts = [f"{name}={value}", f"Path={path}", f"Max-Age={max_age_s}", "HttpOnly", "SameSite=Lax"]
    return "; ".join([*parts, "Secure"] if secure else parts)


def _cookies(header: str) -> dict[str, str]:
    """The cookies of a request; of two with one name the first, which has the longer path."""
    pairs = [part.strip().partition("=") for part in header.split(";")]
    return {name: value for name, mark, value in reversed(pairs) if mark}


def _page(problem: Problem) -> Reply:
    """A refusal as a page."""
    text = _PAGE.format(
        title=escape(problem.kind.title), text=escape(f"{problem.detail[:1].upper()}{problem.detail[1:]}")
    )
    headers = {**problem.headers, "X-Problem-Type": problem.kind.type}
    return Reply(text.encode(), status=problem.kind.status, content_type=HTML, headers=headers)
