"""What the faults of every simulated broker have in common: how often and how long they strike, and the table of them.

A broker's faults are subclasses of `Fault` with the hooks that it needs; its table is a subclass of `ActiveFaults` that
asks them at the broker's own points. This module knows no broker; randomness and time come from the simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from bridge.simulator.bodies import impossible
from core.errors import InvalidInput, NotFound

MOST_ACTIVE = 100


class Fault(BaseModel):
    """A validated admin request that then acts. `effects` counts what it did; counters count by class."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    title: ClassVar[str]
    # Strikes when begun and is over; anything else stays until its count, its duration or a DELETE ends it.
    instant: ClassVar[bool] = False

    count: int | None = Field(None, ge=1, description="effects after which it ends; absent: no limit")
    probability: float = Field(1.0, ge=0, le=1, description="chance of each effect")
    duration_s: float | None = Field(None, alias="durationSeconds", gt=0, description="ends after so many seconds")

    _services: Any = PrivateAttr()  # the broker's bag of parts: its subclass knows the type
    _until: float | None = PrivateAttr(None)
    _effects: int = PrivateAttr(0)

    @property
    def effects(self) -> int:
        return self._effects

    @property
    def over(self) -> bool:
        """Spent or out of time."""
        if self.count is not None and self._effects >= self.count:
            return True
        return self._until is not None and bool(self._services.clock.monotonic() >= self._until)

    def start(self, services: Any) -> None:
        """Bind to a simulator and begin."""
        self._services = services
        if self.duration_s is not None:
            self._until = services.clock.monotonic() + self.duration_s
        self.begin()

    def begin(self) -> None:
        """Act at once, if the fault does."""

    def end(self) -> None:
        """Undo what lasts, if anything."""

    def strikes(self) -> bool:
        """Draw the chance; count the effect when it happens."""
        if self.probability < 1 and self._services.random.random() >= self.probability:
            return False
        self.note()
        return True

    def note(self) -> None:
        """Count one effect."""
        self._effects += 1
        self._services.counters.faults[type(self).__name__] += 1


F = TypeVar("F", bound=Fault)
Kind = TypeVar("Kind", bound=Fault)


class ActiveFaults(Generic[F]):
    """The active faults of one simulator, numbered in the order they came. Asking an empty table costs a truth test."""

    def __init__(self, catalogue: Mapping[str, type[F]]) -> None:
        self._catalogue = catalogue
        self._active: dict[int, tuple[str, F]] = {}
        self._begun = 0

    def begin(self, services: Any, fault_id: str, parameters: dict[str, Any]) -> int:
        """Begin a fault; returns its number. Raises NotFound for an unknown id, InvalidInput for wrong parameters."""
        kind = self._catalogue.get(fault_id)
        if kind is None:
            raise NotFound(f"no fault {fault_id}; there are {', '.join(self._catalogue)}")
        self._drop_over()
        if len(self._active) >= MOST_ACTIVE:
            raise InvalidInput(f"{MOST_ACTIVE} faults are active already", field="id")
        try:
            fault = kind.model_validate(parameters)
        except ValidationError as cause:
            raise impossible(cause) from cause
        self._begun += 1
        if not fault.instant:
            self._active[self._begun] = (fault_id, fault)
            self._changed()
        fault.start(services)
        return self._begun

    def clear(self, number: int | None = None) -> int:
        """End one fault, or all of them; returns how many. Raises NotFound for an unknown number."""
        if number is not None and number not in self._active:
            raise NotFound(f"no active fault {number}")
        ended = [number] if number is not None else list(self._active)
        for each in ended:
            _, fault = self._active.pop(each)
            fault.end()
        self._changed()
        return len(ended)

    def active(self) -> list[dict[str, Any]]:
        """Faults that are still on: number, id, effects, and the parameters that are not at their defaults."""
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
        rows = []
        for fault_id, kind in self._catalogue.items():
            parameters = {
                field.alias or name: {"meaning": field.description or "", "default": field.default}
                for name, field in kind.model_fields.items()
            }
            rows.append({"id": fault_id, "title": kind.title, "instant": kind.instant, "parameters": parameters})
        return rows

    def tick(self) -> None:
        """Time passes: faults whose time is over end. Called now and then."""
        if self._active:
            self._drop_over()

    def _of(self, kind: type[Kind]) -> list[Kind]:
        if not self._active:
            return []
        return [fault for _, fault in self._active.values() if isinstance(fault, kind)]

    def _drop_over(self) -> None:
        for number, (_, fault) in list(self._active.items()):
            if fault.over:
                del self._active[number]
                fault.end()
                self._changed()

    def _changed(self) -> None:
        """Which faults are active has changed: a broker's table files those that it asks often."""
