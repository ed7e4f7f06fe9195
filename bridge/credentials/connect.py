"""Connecting a broker by the user's consent (DESIGN §11): start, begin, callback, complete.

    app      POST start            the user's wish; answers an address on our own origin
    browser  GET  begin            gets a cookie that only our callback receives, and goes to the broker
    broker   GET  callback         the code is parked, sealed; the browser goes back to the app with a ticket
    app      POST complete         the same user brings the ticket: code exchanged, tokens sealed

The cookie is set by a page of ours that the browser itself visits, because a cookie on the answer to an app's `fetch`
from another site is a third-party cookie, which browsers drop; so no route needs credentials in CORS either.

Who may take part in whose consent: the cookie ties the browser that comes back to the one that went away, and the
ticket, known to that browser only, ties it to the user who completes. Somebody else's address to begin with leads
their victim's browser to a ticket that only the victim's app sees, and the victim is not the user who started. A code
of somebody else needs a state and a cookie that they cannot put into a victim's browser. Invariants: a code is tried
once, by one process; state, cookie and ticket are kept as hashes; nothing is stored unless the broker issued tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol
from urllib.parse import urlencode, urlsplit

from bridge.brokers.base import Broker, BrokerAccount, BrokerFault, ConsentScope, Credential, FaultKind, IssuedTokens
from bridge.credentials.consents import FLOW_S, Consent, ConsentTable
from bridge.credentials.return_addresses import check_return, with_parameters
from bridge.credentials.views import Begun, ConnectCode, Connected, ConnectRefused, CoveredAccounts, Returned
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from bridge.telemetry.redaction import REDACTOR
from core.errors import BridgeError, NotFound, Unavailable
from core.secret import Secret, is_token
from core.user_key import UserKeyScheme

log = logging.getLogger(__name__)

LONGEST_CODE = 2048  # characters
LISTING_S = 5.0
STORING_S, STORE_AGAIN_S = 30.0, 0.5  # issued tokens are not given up because the database is away for a moment
CLOSE_WAIT_S = 2.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # of our own making: 256 bits
_MESSAGES = {
    ConnectCode.UNKNOWN: "This sign-in is not known here.",
    ConnectCode.EXPIRED: "This sign-in took too long.",
    ConnectCode.USED: "This sign-in has been used already.",
    ConnectCode.OTHER_BROWSER: "This sign-in was begun in another browser, or this one keeps no cookies.",
    ConnectCode.OTHER_USER: "This sign-in was started by another user.",
    ConnectCode.REFUSED: "The broker did not accept the sign-in.",
    ConnectCode.FAILED: "The broker could not be asked.",
    ConnectCode.NOT_CONFIGURED: "Connecting is not configured here.",
}


class Sealer(Protocol):
    """What seals a code while it is parked."""

    def seal(self, plain: bytes, *, about: str) -> bytes:
        """Sealed bytes that open with the same `about` only."""

    def open(self, sealed: bytes, *, about: str) -> bytes:
        """What was sealed. Raises BridgeError when it does not open."""


class GrantStore(Protocol):
    """Where issued tokens are kept. Raises Unavailable."""

    async def put_issued(
        self, user_id: str, broker: str, issued: IssuedTokens, accounts: Sequence[BrokerAccount], scope: ConsentScope
    ) -> Credential:
        """Seal what the broker issued in place of the user's earlier grant there. Committed when it returns."""

    async def put_accounts(self, user_id: str, broker: str, accounts: Sequence[BrokerAccount]) -> None:
        """Keep what the grant covers, as said by the broker now."""


class Connect:
    """One per process. `public_url`: where browsers reach this bridge; `return_urls`: where they may be sent back."""

    def __init__(
        self,
        *,
        consents: ConsentTable,
        brokers: Mapping[str, Broker],
        sealer: Sealer,
        grants: GrantStore,
        user_keys: UserKeyScheme,
        clock: Clock,
        public_url: str,
        return_urls: Sequence[str],
        audit: Audit = NO_AUDIT,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._consents = consents
        self._brokers = brokers
        self._sealer = sealer
        self._grants = grants
        self._user_keys = user_keys
        self._clock = clock
        self._public_url = public_url.rstrip("/")
        self._return_urls = tuple(return_urls)
        self._audit = audit
        self._tasks = Tasks("connect")
        self._running: set[asyncio.Task[object]] = set()
        self._new_token = new_token

    async def start(self, *, user_id: str, broker: str, return_to: str, scope: ConsentScope, actor: str) -> str:
        """The address that the user's browser must open within 10 minutes.

        Raises NotFound for a broker that cannot be connected so, InvalidInput for `returnTo`, Unavailable.
        """
        self._adapter(broker)
        return_to = check_return(return_to, self._return_urls)
        user_key = self._user_keys.keys(user_id).canonical
        state = self._new_token()
        await self._consents.start(
            state_hash=_hash(state),
            user_key=user_key,
            user_id=user_id,
            broker=broker,
            scope=scope.value,
            return_to=return_to,
        )
        self._tell(Action.CONSENT, user_key, actor, broker, "started", scope=scope.value)
        return f"{self._public_url}/oauth/{broker}/begin?{urlencode({'state': state})}"

    async def begin(self, *, broker: str, state: str) -> Begun:
        """The browser goes to the broker. May be repeated until it comes back. Raises ConnectRefused, NotFound."""
        adapter = self._adapter(broker)
        _check_token(state)
        cookie = self._new_token()
        scope = await self._consents.begin(_hash(state), broker, _hash(cookie))
        if scope is None:
            _refuse(_late(await self._consents.find(_hash(state), broker)))
        url = adapter.consent_url(state=state, redirect_uri=self._callback_url(broker), scope=ConsentScope(scope))
        return Begun(
            url=url,
            cookie_name=_cookie_name(state),
            cookie=cookie,
            cookie_path=urlsplit(self._callback_url(broker)).path,
            secure=self._public_url.startswith("https://"),
            max_age_s=FLOW_S,
        )

    async def callback(
        self, *, broker: str, state: str, cookies: Mapping[str, str], code: str | None, error: str | None
    ) -> Returned:
        """The browser is back: park the code, if it brought one, and send it on to the app with `connect=` ok, denied,
        failed or expired. Raises ConnectRefused when it is not the browser that left, or comes a second time."""
        self._adapter(broker)
        _check_token(state)
        consent = await self._consents.find(_hash(state), broker)
        cookie_hash = _hash(cookies.get(_cookie_name(state), ""))
        if consent is None:
            _refuse(ConnectCode.UNKNOWN)
        if consent.cookie_hash is None or not hmac.compare_digest(consent.cookie_hash, cookie_hash):
            self._tell(Action.CONSENT, consent.user_key, "ip", broker, "parked", "other-browser")
            _refuse(ConnectCode.OTHER_BROWSER)
        if consent.step != "begun":
            _refuse(ConnectCode.USED)
        outcome, ticket = await self._park(consent, cookie_hash, code, error)
        self._tell(Action.CONSENT, consent.user_key, "user", broker, "parked", outcome)
        told = {"connect": outcome, "broker": broker, **({"ticket": ticket} if ticket else {})}
        url = with_parameters(consent.return_to, told)
        return Returned(url, _cookie_name(state), urlsplit(self._callback_url(broker)).path)

    async def complete(self, *, user_id: str, broker: str, ticket: str, actor: str) -> Connected:
        """Exchange the parked code and seal the tokens. Goes on to its end when the caller is gone.

        Raises ConnectRefused, NotFound, Unavailable (then the ticket may still be good).
        """
        adapter = self._adapter(broker)
        _check_token(ticket)
        task = self._tasks.start(self._complete(adapter, user_id, broker, ticket, actor), name=f"complete {broker}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        outcome = await asyncio.shield(task)
        if isinstance(outcome, Connected):
            return outcome
        raise outcome

    async def close(self) -> None:
        """Give completions under way a moment to be stored, then end them."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_WAIT_S)
        await self._tasks.close()

    # ------------------------------------------------------------ steps

    async def _park(
        self, consent: Consent, cookie_hash: bytes, code: str | None, error: str | None
    ) -> tuple[str, str | None]:
        """What to tell the app, and the ticket when the code was kept."""
        if not consent.in_time:
            return "expired", None
        if not code or len(code) > LONGEST_CODE or not is_token(code):
            if not await self._consents.deny(consent, cookie_hash):
                _refuse(ConnectCode.USED)
            return "denied" if error == "access_denied" else "failed", None
        REDACTOR.register(Secret(code))  # not earlier: what the log keeps silent about, nobody in particular may choose
        ticket = self._new_token()
        sealed = self._sealer.seal(code.encode(), about=_about(consent))
        if not await self._consents.park(consent, cookie_hash, _hash(ticket), sealed):
            _refuse(ConnectCode.USED)
        return "ok", ticket

    async def _complete(
        self, adapter: Broker, user_id: str, broker: str, ticket: str, actor: str
    ) -> Connected | BridgeError:
        """One completion; returns what goes wrong, since nobody may be waiting any more."""
        user_key = self._user_keys.keys(user_id).canonical
        try:
            consent = await self._consents.claim(_hash(ticket), broker, user_key)
            if consent is None:
                _refuse(ConnectCode.UNKNOWN)
            sealed_code = _taken(consent, user_key)
            code = Secret(self._sealer.open(sealed_code, about=_about(consent)).decode())
            REDACTOR.register(code)
            issued = await self._exchange(adapter, code)
            scope = ConsentScope(consent.scope)
            credential = await self._store(user_id, broker, issued, scope)
            covered = await self._list(adapter, user_id, broker, credential)
        except ConnectRefused as refusal:
            self._tell(Action.CONNECT, user_key, actor, broker, "completed", refusal.code.value)
            return refusal
        except BridgeError as error:
            self._tell(Action.CONNECT, user_key, actor, broker, "completed", "failed")
            return error
        self._tell(Action.CONNECT, user_key, actor, broker, "completed", scope=scope.value)
        return Connected(user_key, broker, scope, covered)

    async def _exchange(self, adapter: Broker, code: Secret) -> IssuedTokens:
        try:
            return await adapter.exchange_code(code, redirect_uri=self._callback_url(adapter.name))
        except BrokerFault as fault:
            log.warning("a code could not be exchanged", extra={"broker": adapter.name, "code": fault.broker_code})
            final = fault.kind is FaultKind.FATAL_USER
            code_ = ConnectCode.REFUSED if final else ConnectCode.FAILED
            raise ConnectRefused(code_, _sentence(code_)) from fault

    async def _store(self, user_id: str, broker: str, issued: IssuedTokens, scope: ConsentScope) -> Credential:
        """Commit before anything else is done with the pair: the broker has ended the one before."""
        try:
            async with asyncio.timeout(STORING_S):
                while True:
                    try:
                        return await self._grants.put_issued(user_id, broker, issued, (), scope)
                    except Unavailable:
                        log.warning("issued tokens cannot be stored yet", extra={"broker": broker})
                        await asyncio.sleep(STORE_AGAIN_S)
        except TimeoutError as error:
            raise Unavailable("what the broker issued could not be stored; please connect again") from error

    async def _list(self, adapter: Broker, user_id: str, broker: str, credential: Credential) -> CoveredAccounts:
        """What the new grant covers; not known now when the broker or the database does not answer."""
        try:
            async with asyncio.timeout(LISTING_S):
                accounts = await adapter.accounts(credential)
                await self._grants.put_accounts(user_id, broker, accounts)
        except (BrokerFault, Unavailable, TimeoutError) as error:
            log.warning("covered accounts are not known yet", extra={"broker": broker, "error": type(error).__name__})
            return CoveredAccounts((), None, fresh=False)
        return CoveredAccounts(tuple(accounts), self._clock.now_ms(), fresh=True)

    def _adapter(self, broker: str) -> Broker:
        adapter = self._brokers.get(broker)
        if adapter is None or not adapter.capabilities.consent:
            raise NotFound("no such broker can be connected here")
        return adapter

    def _callback_url(self, broker: str) -> str:
        return f"{self._public_url}/oauth/{broker}/callback"

    def _tell(
        self, action: Action, user_key: str, actor: str, broker: str, step: str, outcome: str = "ok", **more: str
    ) -> None:
        detail = {"broker": broker, "step": step, **more}
        self._audit.record(action, user_key=user_key, actor=actor, outcome=outcome, detail=detail)


def _taken(consent: Consent, user_key: str) -> bytes:
    """The sealed code of a consent that this caller has claimed. Raises ConnectRefused for anybody else."""
    if consent.user_key != user_key:
        _refuse(ConnectCode.OTHER_USER)
    if consent.sealed_code is None:
        _refuse(ConnectCode.USED)
    if not consent.in_time:
        _refuse(ConnectCode.EXPIRED)
    return consent.sealed_code


def _late(consent: Consent | None) -> ConnectCode:
    """Why a consent cannot begin."""
    if consent is None:
        return ConnectCode.UNKNOWN
    return ConnectCode.USED if consent.step not in ("started", "begun") else ConnectCode.EXPIRED


def _check_token(text: str) -> None:
    if not _TOKEN.fullmatch(text):
        _refuse(ConnectCode.UNKNOWN)


def _refuse(code: ConnectCode) -> NoReturn:
    raise ConnectRefused(code, _sentence(code))


def _sentence(code: ConnectCode) -> str:
    return f"{_MESSAGES[code]} Please connect the broker again."


def _hash(text: str) -> bytes:
    """All that is kept of a state, cookie or ticket: each has 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _cookie_name(state: str) -> str:
    """One cookie for each consent, so that two at a time in one browser do not disturb each other."""
    return f"bridge_connect_{_hash(state).hex()[:12]}"


def _about(consent: Consent) -> str:
    """What a parked code is bound to: it does not open in another row or for another user."""
    return f"consent code:{consent.broker}:{consent.user_key}:{consent.state_hash.hex()}"
