"""From a received ProtoMessage to its answer: faults, budget, gates, handler, refusals, in that order.

Every request gets exactly one correlated answer or refusal unless a fault swallows it. Heartbeats are free, allowed
before any auth, and never answered (reference/ctrader.md §1).
"""

from __future__ import annotations

import logging

from google.protobuf.message import Message

from bridge.simulator.ctrader.connection import Connection
from bridge.simulator.ctrader.envelope import HEARTBEAT, Malformed, Outgoing, parse, unwrap
from bridge.simulator.ctrader.gates import account_gate, account_of, application_gate
from bridge.simulator.ctrader.refusals import Refused, RefusedByProxy, unsupported
from bridge.simulator.ctrader.requests import HANDLERS, HISTORICAL
from bridge.simulator.ctrader.requests.call import Call
from bridge.simulator.ctrader.services import Services
from core.errors import BridgeError
from protos.ctrader import PAYLOAD_CLASSES

log = logging.getLogger(__name__)


class Dispatcher:
    """Answers the requests of all connections."""

    def __init__(self, services: Services) -> None:
        self._services = services
        services.faults.answer_of = lambda call: HANDLERS[call_type(call)](call)

    def handle(self, connection: Connection, raw: bytes) -> None:
        """Answer one received message. Never raises for anything a client can send."""
        try:
            envelope = unwrap(raw)
        except Malformed as problem:
            self._refuse(connection, RefusedByProxy("INVALID_REQUEST", str(problem)), "", None)
            return
        if envelope.payloadType == HEARTBEAT:
            self._services.counters.heartbeats_received += 1
            self._services.faults.heartbeat(connection)
            return
        client_msg_id = envelope.clientMsgId
        try:
            self._spend(connection, envelope.payloadType)
            request = parse(envelope)
            if request is None or envelope.payloadType not in HANDLERS:
                raise unsupported(envelope.payloadType)
        except Malformed as problem:
            self._refuse(connection, Refused("INVALID_REQUEST", str(problem)), client_msg_id, None)
            return
        except Refused as refusal:
            self._refuse(connection, refusal, client_msg_id, None)
            return
        call = Call(self._services, connection, request, client_msg_id, account_of(request))
        if self._services.faults.on_requests and self._services.faults.take(call, lambda: self.answer(call)):
            return
        self.answer(call)

    def answer(self, call: Call[Message]) -> None:
        """Pass the gates and let the handler answer."""
        try:
            refusal = application_gate(call.connection.app_authorised, call.request) or account_gate(
                call.connection.authorisations, call.request
            )
            if refusal is not None:
                raise refusal
            answer = HANDLERS[call_type(call)](call)
        except Refused as refused:
            self._refuse(call.connection, refused, call.client_msg_id, call.account_id)
            return
        except BridgeError as problem:  # the engine's word for an impossible request
            invalid = Refused("INVALID_REQUEST", str(problem), account_id=call.account_id)
            self._refuse(call.connection, invalid, call.client_msg_id, call.account_id)
            return
        if answer is not None:
            call.reply(answer)

    def _spend(self, connection: Connection, payload_type: int) -> None:
        known = PAYLOAD_CLASSES.get(payload_type)
        name = "unknown" if known is None else known.__name__
        counters = self._services.counters
        counters.requests[name] += 1
        refusal = connection.budget.check(payload_type, payload_type in HISTORICAL, self._services.clock.monotonic())
        if refusal is None:
            return
        counters.budget_violations += 1
        counters.budget_violations_by_request[name] += 1
        if refusal.retry_after_s is None:
            raise Refused("REQUEST_FREQUENCY_EXCEEDED", "You have reached the rate limit of requests")
        raise Refused("BLOCKED_PAYLOAD_TYPE", "You are being rate limited", retry_after_s=refusal.retry_after_s)

    def _refuse(self, connection: Connection, refusal: Refused, client_msg_id: str, account_id: int | None) -> None:
        self._services.counters.errors[refusal.code] += 1
        connection.send(Outgoing(refusal.message(), account_id, client_msg_id))
        if refusal.close:
            connection.close(1000, refusal.code)


def call_type(call: Call[Message]) -> int:
    """Payload type of the request."""
    return Outgoing(call.request).payload_type
