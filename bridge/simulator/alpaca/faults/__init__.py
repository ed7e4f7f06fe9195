"""Faults a broker can cause by itself, by their ids in the fault catalogue (reference/faults.md §2.1).

`CATALOGUE` maps each id to its class; parameters are that class's fields. The table of active faults is asked at a few
points only, and costs one truth test there while it is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.faults import answers, connections, lag, messages, updates
from bridge.simulator.alpaca.faults.base import (
    ConnectionFault,
    Fault,
    FrameFault,
    HandshakeFault,
    LoginFault,
    RestFault,
)
from bridge.simulator.alpaca.hooks import RestCall
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket
from core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from bridge.simulator.alpaca.services import Services
    from bridge.simulator.alpaca.streams.streams import Streams

CATALOGUE: dict[str, type[Fault]] = {
    "N01": connections.Reset,
    "N02": connections.CleanClose,
    "N03": connections.HalfOpen,
    "N04": connections.OneWayLoss,
    "N10": answers.HttpRefused,
    "N11": connections.SlowDrip,
    "N12": messages.Truncated,
    "N13": messages.Oversized,
    "N14": messages.Garbage,
    "N15": updates.UnknownEnum,
    "N16": messages.UnknownMessage,
    "N17": updates.AbsurdValue,
    "N18": updates.ForeignAccount,
    "N19": updates.Duplicate,
    "N20": updates.Reordered,
    "N21": updates.Lost,
    "N22": lag.LaggingRest,
    "N23": answers.BrokenSnapshot,
    "N24": answers.ShortPages,
    "N28": answers.RateLimited,
    "N29": answers.OrderRateLimited,
    "N30": connections.Revoked,
    "N36": answers.AuthLost,
    "N37": connections.SlotBusy,
    "N40": connections.CutAll,
    "N41": connections.Flapping,
    "N42": connections.SlowLogin,
    # Beyond the catalogue: the REST side of some of the above, and oddities of this broker.
    "DROP_AFTER_REQUEST": answers.DropAfterRequest,
    "ORDER_REJECTED": answers.OrderRejected,
    "SLOW_REST": answers.SlowRest,
    "BROKEN_BODY": answers.BrokenBody,
    "ODD_ANSWER": answers.OddAnswer,
    "LOGIN_REFUSED": connections.LoginRefused,
    "STREAM_ERROR": messages.StreamError,
    "NULL_DATA": messages.NullData,
    "HEARTBEAT_BYTE": messages.HeartbeatByte,
    "MUTE_DATA": connections.MuteData,
}
MOST_ACTIVE = 100

F = TypeVar("F", bound=Fault)


class FaultTable:
    """The active faults of one simulator, numbered in the order they came."""

    def __init__(self) -> None:
        self.on_frames: list[FrameFault] = []
        self._active: dict[int, tuple[str, Fault]] = {}
        self._begun = 0
        self._streams: Streams | None = None

    # ---- admin

    def begin(self, services: Services, fault_id: str, parameters: dict[str, Any]) -> int:
        """Begin a fault; returns its number. Raises NotFound for an unknown id, InvalidInput for wrong parameters."""
        kind = CATALOGUE.get(fault_id)
        if kind is None:
            raise NotFound(f"no fault {fault_id}; there are {', '.join(CATALOGUE)}")
        if self._streams is None:
            raise RuntimeError("faults need the streams, which are not attached")
        self._drop_over()
        if len(self._active) >= MOST_ACTIVE:
            raise InvalidInput(f"{MOST_ACTIVE} faults are active already", field="id")
        try:
            fault = kind.model_validate(parameters)
        except ValidationError as cause:
            first = cause.errors()[0]
            raise InvalidInput(str(first["msg"]), field=".".join(map(str, first["loc"]))) from cause
        self._begun += 1
        if not fault.instant:
            self._active[self._begun] = (fault_id, fault)
            self._file()
        fault.start(services, self._streams)
        return self._begun

    def clear(self, number: int | None = None) -> int:
        """End one fault, or all of them; returns how many. Raises NotFound for an unknown number."""
        if number is not None and number not in self._active:
            raise NotFound(f"no active fault {number}")
        ended = [number] if number is not None else list(self._active)
        for each in ended:
            _, fault = self._active.pop(each)
            fault.end()
        self._file()
        return len(ended)

    def active(self) -> list[dict[str, Any]]:
        """Faults that are still on: number, id, effects, parameters."""
        self._drop_over()
        return [
            {
                "number": number,
                "id": fault_id,
                "effects": fault.effects,
                "parameters": fault.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            }
            for number, (fault_id, fault) in self._active.items()
        ]

    def catalogue(self) -> list[dict[str, Any]]:
        """Every fault for people: id, title, parameters with meaning and default."""
        return describe()

    def tick(self) -> None:
        """Time passes: faults end, lagging REST takes its copies."""
        if self._active:
            self._drop_over()
            for fault in self._of(lag.LaggingRest):
                fault.tick()

    # ---- REST

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        """The answer of a fault that lets nothing be done."""
        for fault in self._of(RestFault):
            answer = await fault.before(call)
            if answer is not None:
                return answer
        return None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        """What goes out in place of an ordinary answer; each fault sees what the one before made of it."""
        latest: web.StreamResponse = response
        for fault in self._of(RestFault):
            if not isinstance(latest, web.Response):
                break  # it is on its way already
            latest = await fault.after(call, latest) or latest
        return None if latest is response else latest

    # ---- streams

    def attach(self, streams: Streams) -> None:
        """These are the streams whose connections faults may touch."""
        self._streams = streams

    def frames(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        """What goes out instead of `message`."""
        queue = [message]
        for fault in self.on_frames:
            queue = [changed for each in queue for changed in fault.frame(client, each)]
        return queue

    def accepted(self, client: StreamSocket) -> None:
        """A stream was opened."""
        for fault in self._of(ConnectionFault):
            fault.accepted(client)

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        """A plain HTTP answer to a handshake."""
        for fault in self._of(HandshakeFault):
            answer = fault.handshake(stream, environment, caller)
            if answer is not None:
                return answer
        return None

    def takes_login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        """True when a fault dealt with a good authentication."""
        return any(fault.login(client, caller, proceed) for fault in self._of(LoginFault))

    def is_slot_busy(self, stream: str, caller: Caller) -> bool:
        """Whether a slot is taken that looks free."""
        return any(fault.takes(stream, caller) for fault in self._of(connections.SlotBusy))

    def listening(self, client: StreamSocket) -> None:
        """A trading stream was told that it listens."""
        for fault in self._of(updates.Duplicate):
            fault.listening(client)

    def is_muted(self, client: StreamSocket) -> bool:
        """Whether market data stay away from a client."""
        return any(fault.mutes(client) for fault in self._of(connections.MuteData))

    def updated(self, account_id: str) -> None:
        """Something happened on an account."""
        for fault in self._of(lag.LaggingRest):
            fault.updated(account_id)

    def _of(self, kind: type[F]) -> list[F]:
        if not self._active:
            return []
        return [fault for _, fault in self._active.values() if isinstance(fault, kind)]

    def _drop_over(self) -> None:
        for number, (_, fault) in list(self._active.items()):
            if fault.over:
                del self._active[number]
                fault.end()
                self._file()

    def _file(self) -> None:
        self.on_frames = [fault for _, fault in self._active.values() if isinstance(fault, FrameFault)]


def describe() -> list[dict[str, Any]]:
    """The catalogue for people: id, title, parameters with meaning and default."""
    rows = []
    for fault_id, kind in CATALOGUE.items():
        parameters = {
            field.alias or name: {"meaning": field.description or "", "default": field.default}
            for name, field in kind.model_fields.items()
        }
        rows.append({"id": fault_id, "title": kind.title, "instant": kind.instant, "parameters": parameters})
    return rows
