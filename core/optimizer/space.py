"""Typed parameter spaces: what may be tried.

A parameter is an integer, real, log-scaled or chosen value. Each maps the unit interval onto its values and back, so
that searches, jitter and maps treat all kinds alike. Invariant: whatever `at` and `grid` return passes `check`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from core.optimizer.errors import BadInput, integer, real

Value = bool | int | float | str
Params = Mapping[str, Value]


class Parameter(Protocol):
    """One axis of a space. `field` is the name that errors carry."""

    def check(self, field: str, value: object) -> Value:
        """The value in this axis' own type; raises BadInput when it is not one of this axis."""

    def at(self, unit: float) -> Value:
        """The value at `unit` in [0, 1); equal steps of `unit` are equally likely parts of the axis."""

    def unit(self, value: Value) -> float:
        """Where a checked value lies in [0, 1]: the middle of its part for integers and choices."""

    def grid(self, points: int | None) -> tuple[Value, ...]:
        """At most `points` different values spread evenly, ends included; None: all, for axes with countable values."""


@dataclass(frozen=True, slots=True)
class Integer:
    """low, low + step, ... up to high (high itself must be reached)."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        integer("low", self.low, -(2**53))
        integer("high", self.high, self.low, 2**53)
        integer("step", self.step, 1)
        if (self.high - self.low) % self.step:
            raise BadInput("step", f"must lead from {self.low} to {self.high} exactly, {self.step} does not")

    @property
    def count(self) -> int:
        """How many values the axis has."""
        return (self.high - self.low) // self.step + 1

    def check(self, field: str, value: object) -> int:
        number = integer(field, value, self.low, self.high)
        if (number - self.low) % self.step:
            raise BadInput(field, f"must be {self.low} plus a multiple of {self.step}, not {number}")
        return number

    def at(self, unit: float) -> int:
        return self.low + self.step * min(int(unit * self.count), self.count - 1)

    def unit(self, value: Value) -> float:
        return ((int(value) - self.low) // self.step + 0.5) / self.count

    def grid(self, points: int | None) -> tuple[int, ...]:
        steps = _spread(self.count, points)
        return tuple(self.low + self.step * index for index in steps)


@dataclass(frozen=True, slots=True)
class Real:
    """Any number in [low, high], evenly."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ends(self.low, self.high)

    def check(self, field: str, value: object) -> float:
        return _within(field, value, self.low, self.high)

    def at(self, unit: float) -> float:
        return min(max(self.low + unit * (self.high - self.low), self.low), self.high)

    def unit(self, value: Value) -> float:
        return (float(value) - self.low) / (self.high - self.low)

    def grid(self, points: int | None) -> tuple[float, ...]:
        return _even(self, points)


@dataclass(frozen=True, slots=True)
class Log:
    """Any number in [low, high], 0 < low; equal factors are equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ends(self.low, self.high)
        if self.low <= 0.0:
            raise BadInput("low", f"must be above 0 for a log scale, not {self.low}")

    def check(self, field: str, value: object) -> float:
        return _within(field, value, self.low, self.high)

    def at(self, unit: float) -> float:
        if unit >= 1.0:  # so that the end is met exactly
            return float(self.high)
        return min(max(self.low * math.exp(unit * math.log(self.high / self.low)), self.low), self.high)

    def unit(self, value: Value) -> float:
        return math.log(float(value) / self.low) / math.log(self.high / self.low)

    def grid(self, points: int | None) -> tuple[float, ...]:
        return _even(self, points)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values without an order; 1, 1.0 and True are different choices."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise BadInput("values", "must hold at least one choice")
        for row, value in enumerate(self.values):
            if not isinstance(value, bool | int | float | str):
                raise BadInput("values", f"must be bool, int, float or str, not {value!r}", row=row)
            if isinstance(value, float) and not math.isfinite(value):
                raise BadInput("values", f"must be finite, not {value}", row=row)
            if self._index(value) != row:
                raise BadInput("values", f"must differ, {value!r} stands twice", row=row)

    def _index(self, value: object) -> int | None:
        for index, mine in enumerate(self.values):
            if type(mine) is type(value) and mine == value:
                return index
        return None

    def check(self, field: str, value: object) -> Value:
        index = self._index(value)
        if index is None:
            raise BadInput(field, f"must be one of {self.values!r}, not {value!r}")
        return self.values[index]

    def at(self, unit: float) -> Value:
        return self.values[min(int(unit * len(self.values)), len(self.values) - 1)]

    def unit(self, value: Value) -> float:
        return ((self._index(value) or 0) + 0.5) / len(self.values)

    def grid(self, points: int | None) -> tuple[Value, ...]:
        return self.values  # choices have no order to spread over: always all


class Space:
    """Named parameters in a fixed order. Immutable."""

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        """Raises BadInput for no parameters, or for a name that is empty or starts with `@` (kept for windows)."""
        if not parameters:
            raise BadInput("parameters", "must hold at least one parameter")
        for name in parameters:
            if not str(name) or str(name).startswith("@"):
                raise BadInput("parameters", f"a name must be a word that does not start with @, not {name!r}")
        self.parameters: Mapping[str, Parameter] = MappingProxyType(dict(parameters))

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __repr__(self) -> str:
        return f"Space({dict(self.parameters)!r})"

    def check(self, params: Mapping[str, object]) -> dict[str, Value]:
        """The parameters in the order and the types of this space. Raises BadInput: missing, unknown, out of range."""
        for name in params:
            if name not in self.parameters:
                raise BadInput(str(name), f"is no parameter of this space, which has {', '.join(self)}")
        checked: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if name not in params:
                raise BadInput(name, "is missing")
            checked[name] = parameter.check(name, params[name])
        return checked

    def at(self, units: Sequence[float]) -> dict[str, Value]:
        """The parameters at one point of the unit cube, a coordinate per parameter in order."""
        return {name: axis.at(unit) for (name, axis), unit in zip(self.parameters.items(), units, strict=True)}


def _ends(low: float, high: float) -> None:
    real("low", low)
    if real("high", high) <= low:
        raise BadInput("high", f"must be above low, {low}, not {high}")
    if not math.isfinite(high - low):
        raise BadInput("high", "must be less than the largest float away from low")


def _within(field: str, value: object, low: float, high: float) -> float:
    number = real(field, value)
    if not low <= number <= high:
        raise BadInput(field, f"must lie within {low} and {high}, not {number}")
    return number


def _spread(count: int, points: int | None) -> tuple[int, ...]:
    """At most `points` whole numbers from 0 to count - 1, ends included, as even as whole numbers can be."""
    if points is None or points >= count:
        return tuple(range(count))
    if integer("points", points, 1) == 1:
        return ((count - 1) // 2,)
    return tuple((2 * index * (count - 1) + points - 1) // (2 * (points - 1)) for index in range(points))


def _even(axis: Real | Log, points: int | None) -> tuple[float, ...]:
    if points is None:
        raise BadInput("points", "is needed for a real or log parameter, which has no countable values")
    if integer("points", points, 1) == 1:
        return (axis.at(0.5),)
    inner = (axis.at(index / (points - 1)) for index in range(1, points - 1))
    return (float(axis.low), *inner, float(axis.high))
