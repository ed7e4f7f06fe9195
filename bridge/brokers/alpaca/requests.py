"""What is asked of one account over REST, request by request, each in its turn of the account's budget.

Typed helpers over `rest` and `gate`: documents as the broker sends them, read by `normalize`, or a `BrokerFault`. Only
reads are repeated, and only by whoever asks again: what changes something leaves once or ends as InDoubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca import faults, times
from bridge.brokers.alpaca.activities import Activity, read_activity
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.gate import Gate
from bridge.brokers.alpaca.reading import Executions, Reading
from bridge.brokers.alpaca.rest import Answer, RestClient
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.values import Document, document, documents, identity
from bridge.brokers.base import BrokerFault, Credential
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.telemetry.redaction import REDACTOR
from core.errors import InDoubt, ProtocolViolation

ORDERS_PAGE = 500  # the most the broker gives at once
ORDERS_PAGES = 20
ACTIVITIES_PAGE = 100

S = TypeVar("S")
T = TypeVar("T")


class Requests:
    """REST of one account with one credential; cheap to make. `heard_at`: last good answer, monotonic seconds."""

    def __init__(
        self,
        settings: AlpacaSettings,
        clock: Clock,
        stats: Stats,
        client: RestClient,
        gate: Gate,
        credential: Credential,
    ) -> None:
        REDACTOR.register(*credential.secrets.values())
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self._client = client
        self._gate = gate
        self._oauth = credentials.is_oauth(credential)
        self._headers = credentials.headers(credential)
        self._base = settings.rest_url(credential.environment)
        self.heard_at: float | None = None

    # ------------------------------------------------------------ what is read

    async def account(self, priority: Priority) -> Document:
        """GET /v2/account. Raises BrokerFault."""
        return _shaped(document, await self._get("/v2/account", priority))

    async def positions(self, priority: Priority) -> list[Document]:
        """GET /v2/positions: all of them, there are no pages. Raises BrokerFault."""
        return _shaped(documents, await self._get("/v2/positions", priority))

    async def open_orders(self, priority: Priority) -> list[Document]:
        """GET /v2/orders, all pages, newest first; legs stand inside of their orders. Raises BrokerFault.

        `until` is exclusive and orders may share a millisecond, so pages overlap by one and ids are kept once.
        """
        query = {"status": "open", "nested": "true", "direction": "desc", "limit": str(ORDERS_PAGE)}
        found: dict[str, Document] = {}
        for _ in range(ORDERS_PAGES):
            page = _shaped(documents, await self._get("/v2/orders", priority, query))
            new = {str(each.get("id")): each for each in page if str(each.get("id")) not in found}
            found |= new
            if len(page) < ORDERS_PAGE or not new:
                break
            last = _shaped(_submitted_ms, page[-1])
            if last is None:
                break
            query["until"] = times.from_ms(last + 1)
        return list(found.values())

    async def fills(self, priority: Priority, since_ms: int) -> tuple[list[Activity], bool]:
        """FILL activities back to `since_ms`, oldest first, and whether that is all of them. Raises BrokerFault."""
        query = {"direction": "desc", "page_size": str(ACTIVITIES_PAGE)}
        found: dict[str, Activity] = {}
        complete = False
        for _ in range(self._settings.activity_pages):
            page = _shaped(documents, await self._get("/v2/account/activities/FILL", priority, query))
            rows = [_shaped(read_activity, each) for each in page]
            found |= {row.execution_id: row for row in rows}
            complete = len(page) < ACTIVITIES_PAGE or rows[-1].at_ms < since_ms
            token = _shaped(_activity_id, page[-1]) if page else None
            if complete or token is None or query.get("page_token") == token:
                break
            query["page_token"] = token
        if not complete:
            self._stats.count("activities_cut_short")
        return sorted(found.values(), key=lambda row: row.at_ms), complete

    async def asset(self, id_or_symbol: str, priority: Priority) -> Document | None:
        """GET /v2/assets/{id or symbol}; None when there is no such asset. Raises BrokerFault."""
        answer = await self._ask("GET", f"/v2/assets/{quote(id_or_symbol, safe='')}", priority)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        return _shaped(document, _json(self._accepted(answer)))

    async def order(self, order_id: str, priority: Priority) -> Document | None:
        """GET /v2/orders/{id}; None when this account has no such order. Raises BrokerFault."""
        answer = await self._ask("GET", f"/v2/orders/{quote(order_id, safe='')}", priority)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        return _shaped(document, _json(self._accepted(answer)))

    async def reading(self, priority: Priority, memory: Executions) -> Reading:
        """Account, positions and open orders, then the executions that judge them; first too, when the stream told of
        some since the last reading. Raises BrokerFault."""
        before: list[Activity] = []
        if memory.waits(self._clock.monotonic()):
            before, _ = await self.fills(priority, memory.mark(self._clock.now_ms()).since_ms)
        mark = memory.mark(self._clock.now_ms())
        account = await self.account(priority)
        positions = await self.positions(priority)
        orders = await self.open_orders(priority)
        fills, complete = await self.fills(priority, mark.since_ms)
        seen = frozenset(row.execution_id for row in before)
        return Reading(account, tuple(positions), tuple(orders), tuple(fills), mark, complete, seen)

    # ------------------------------------------------------------ what changes something

    async def act(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a POST, PATCH or DELETE once; returns the document of the answer, None without one.

        Raises BrokerFault for a refusal (nothing was changed) and InDoubt when the outcome is not known.
        """
        data = None if body is None else orjson.dumps(body)
        try:
            answer = await self._ask(method, path, Priority.ORDER, body=data)
        except BrokerFault as fault:
            if fault.in_doubt:
                raise InDoubt("the request was sent and its outcome is not known") from fault
            raise
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # the outcome of a POST is unknown then (§1.6)
            raise InDoubt(f"the broker answered with HTTP status {answer.status}")
        accepted = self._accepted(answer)
        return _json(accepted) if accepted.body else None

    # ------------------------------------------------------------ one request

    async def _get(self, path: str, priority: Priority, query: Mapping[str, str] | None = None) -> Any:
        return _json(self._accepted(await self._ask("GET", path, priority, query)))

    async def _ask(
        self,
        method: str,
        path: str,
        priority: Priority,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
    ) -> Answer:
        """One request in its turn. Raises BrokerFault when no answer came; a refusal is an answer."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        turn = await self._gate.enter(priority, self._settings.queue_timeout_s)
        started = self._clock.monotonic()
        self._stats.count("requests.sent")
        try:
            answer = await self._client.send(
                method,
                f"{self._base}{path}",
                headers=headers,
                parameters=query,
                body=body,
                timeout_s=self._settings.request_timeout_s,
            )
        except BrokerFault:
            self._stats.count("requests.unanswered")
            raise
        finally:
            self._gate.leave(turn)
        self._stats.roundtrip(self._clock.monotonic() - started)
        self._gate.observe(answer.rates)
        return answer

    def _accepted(self, answer: Answer) -> Answer:
        """The answer, when it is a success. Raises BrokerFault for any other."""
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            self._stats.count("requests.ok")
            self.heard_at = self._clock.monotonic()
            return answer
        refusal = faults.read_refusal(answer.status, answer.body)
        self._stats.count("requests.refused")
        self._stats.count(f"refusals.{refusal.shown}")
        wait_s = answer.rates.retry_after_s
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            wait_s = self._gate.refused(answer.rates)
        raise faults.fault_of(refusal, oauth=self._oauth, retry_after_s=wait_s)


def _json(answer: Answer) -> Any:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise faults.unreadable() from error


def _shaped(read: Callable[[S], T], value: S) -> T:
    """What `read` makes of an answer. Raises a transient BrokerFault when it has another shape."""
    try:
        return read(value)
    except ProtocolViolation as error:
        raise faults.unreadable() from error


def _submitted_ms(order: Document) -> int | None:
    return times.to_ms(order.get("submitted_at")) or times.to_ms(order.get("created_at"))


def _activity_id(activity: Document) -> str | None:
    return identity(activity, "id")
