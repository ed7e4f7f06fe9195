"""Series: values of the past of an instrument, combined by causal operations only.

A series is a recipe and holds no numbers: there is nothing to look into before its time. Every operation gives row i
from rows ≤ i alone, so what has not happened yet cannot be written down. The runner computes the recipes and reveals
row after row. A row without a value yet (warm-up) is nan inside; a strategy starts after all warm-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Bools, Floats
from core.errors import InvalidInput

Kernel = Callable[..., npt.NDArray[Any]]

_KEY = object()


class Indicator(Protocol):
    """An indicator of your own, fed one value per row as time goes; return nan while it has no value yet."""

    def update(self, value: float) -> float: ...


class Series:
    """One value per bar of an instrument (or per moment, when instruments are mixed). Immutable; compared by identity.

    Comparisons and `& | ~` give series of 0 and 1; a comparison with a missing value is 0, so it gives no signal.
    """

    __slots__ = ("column", "instrument_id", "kernel", "make", "parents")

    def __init__(
        self,
        key: object,
        parents: tuple[Series, ...] = (),
        kernel: Kernel | None = None,
        *,
        instrument_id: str = "",
        column: str = "",
        make: Callable[[], Indicator] | None = None,
    ) -> None:
        if key is not _KEY:  # a recipe of anybody's own could read rows ahead
            raise InvalidInput("series come from the market, indicators and operations only", field="series")
        self.parents = parents
        self.kernel = kernel
        self.instrument_id = instrument_id
        self.column = column
        self.make = make

    def __add__(self, other: Series | float) -> Series:
        return _binary(np.add, self, other)

    def __radd__(self, other: float) -> Series:
        return _binary(np.add, other, self)

    def __sub__(self, other: Series | float) -> Series:
        return _binary(np.subtract, self, other)

    def __rsub__(self, other: float) -> Series:
        return _binary(np.subtract, other, self)

    def __mul__(self, other: Series | float) -> Series:
        return _binary(np.multiply, self, other)

    def __rmul__(self, other: float) -> Series:
        return _binary(np.multiply, other, self)

    def __truediv__(self, other: Series | float) -> Series:
        return _binary(np.divide, self, other)

    def __rtruediv__(self, other: float) -> Series:
        return _binary(np.divide, other, self)

    def __neg__(self) -> Series:
        return _derived(np.negative, self)

    def __abs__(self) -> Series:
        return _derived(np.abs, self)

    def __lt__(self, other: Series | float) -> Series:
        return _binary(np.less, self, other)

    def __le__(self, other: Series | float) -> Series:
        return _binary(np.less_equal, self, other)

    def __gt__(self, other: Series | float) -> Series:
        return _binary(np.greater, self, other)

    def __ge__(self, other: Series | float) -> Series:
        return _binary(np.greater_equal, self, other)

    def __and__(self, other: Series) -> Series:
        return _derived(lambda a, b: _truth(a) & _truth(b), self, other)

    def __or__(self, other: Series) -> Series:
        return _derived(lambda a, b: _truth(a) | _truth(b), self, other)

    def __invert__(self) -> Series:
        return _derived(lambda a: ~_truth(a), self)

    def __bool__(self) -> bool:
        raise InvalidInput("a series has no truth of its own: use & | ~", field="series")

    def past(self, rows: int) -> Series:
        """The value `rows` rows ago (≥ 0). Raises InvalidInput for a negative number: that would be the future."""
        check_window(rows, "rows", least=0)
        return _derived(lambda values: _shift(values, rows), self)

    def crosses_above(self, other: Series | float) -> Series:
        """1 where this is above the other and was not one row ago, both known."""
        return _crossing(self, other, above=True)

    def crosses_below(self, other: Series | float) -> Series:
        """1 where this is below the other and was not one row ago, both known."""
        return _crossing(self, other, above=False)


def own_indicator(source: Series, make: Callable[[], Indicator]) -> Series:
    """A series from an indicator of your own: `make()` is called once per run, then fed each value as it is revealed.

    It can be watched and used as a signal, not combined further: what comes after it would have to wait for it.
    """
    if source.make is not None:
        raise InvalidInput("an indicator of your own cannot feed another series", field="series")
    return Series(_KEY, (source,), make=make)


def market_column(instrument_id: str, column: str) -> Series:
    """The series of one column of an instrument's bars (or ticks)."""
    return Series(_KEY, instrument_id=instrument_id, column=column)


def _derived(kernel: Kernel, *parents: Series) -> Series:
    """A series whose row i the kernel makes from rows ≤ i of the parents; for this package's own kernels."""
    if any(each.make is not None for each in parents):
        raise InvalidInput("an indicator of your own cannot feed another series", field="series")
    return Series(_KEY, parents, kernel)


def check_window(rows: object, field: str, *, least: int = 1) -> int:
    """The number of rows. Raises InvalidInput unless it is an int of at least `least`."""
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < least:
        raise InvalidInput(f"{field} must be a whole number of at least {least}", field=field)
    return rows


def check_number(value: object) -> None:
    """Raises InvalidInput unless it is a finite number."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise InvalidInput(f"cannot combine a series with {value!r}", field="series")


def _binary(operation: Kernel, left: Series | float, right: Series | float) -> Series:
    for each in (left, right):
        if not isinstance(each, Series):
            check_number(each)
    match left, right:
        case Series(), Series():
            return _derived(operation, left, right)
        case Series(), _:
            return _derived(lambda values: operation(values, right), left)
        case _, Series():
            return _derived(lambda values: operation(left, values), right)
        case _:
            raise InvalidInput("one side must be a series", field="series")


def _truth(values: npt.NDArray[np.generic]) -> Bools:
    return np.asarray(values == 1) if values.dtype != np.bool_ else values.astype(np.bool_)


def _shift(values: Floats, rows: int) -> Floats:
    if rows == 0:
        return values
    moved = np.full(len(values), np.nan)
    moved[rows:] = values[:-rows] if rows <= len(values) else []
    return moved


def _crossing(left: Series, right: Series | float, *, above: bool) -> Series:
    def kernel(now: Floats, against: Floats) -> Bools:
        gap = now - against if above else against - now
        return np.asarray((gap > 0) & (_shift(gap, 1) <= 0))

    if isinstance(right, Series):
        return _derived(kernel, left, right)
    return _derived(lambda values: kernel(values, np.full(len(values), float(right))), left)
