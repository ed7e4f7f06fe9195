"""What callers hand in, made into float arrays, or refused whole with the field, the row and the rule.

Must not price anything. Invariant: an array that leaves this module holds finite numbers within its rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.ArrayLike  # a number or an array of numbers
LARGEST_EXPONENT = 700.0  # exp of more is no float; of less, nothing


class OptionKind(StrEnum):
    CALL = "call"
    PUT = "put"


Kinds: TypeAlias = OptionKind | str | npt.ArrayLike

_SIGNS = {"call": 1.0, "put": -1.0}


def signs(kind: Kinds) -> Floats:
    """+1 for each call and −1 for each put, from "call" and "put" or from those signs themselves."""
    if isinstance(kind, str):
        return np.asarray(_SIGNS[kind] if kind in _SIGNS else _refuse_kind(kind, ()))
    given = np.asarray(kind)
    if given.dtype.kind in "US":
        given = given.astype(np.str_)
        found = np.where(given == "call", 1.0, np.where(given == "put", -1.0, np.nan))
    elif given.dtype.kind == "O":
        found = np.array([_SIGNS.get(str(one), np.nan) for one in given.ravel()]).reshape(given.shape)
    else:
        found = numbers("kind", kind)
    wrong = np.abs(found) != 1.0  # nan among them
    if wrong.any():
        row = tuple(int(part) for part in np.argwhere(wrong)[0])
        _refuse_kind(given[row], row)
    return found


def numbers(field: str, given: Numbers) -> Floats:
    """A float array of what was given; InvalidInput where that is no number or not finite."""
    return _checked(field, given, "must be a finite number", np.isfinite)


def positive(field: str, given: Numbers) -> Floats:
    return _checked(field, given, "must be finite and above 0", lambda array: (array > 0.0) & (array < np.inf))


def not_negative(field: str, given: Numbers) -> Floats:
    return _checked(field, given, "must be finite and not below 0", lambda array: (array >= 0.0) & (array < np.inf))


def check_exponent(field: str, exponent: Floats) -> Floats:
    """`exponent` as it is, or InvalidInput where its exponential would leave the range of a float."""
    wrong = np.abs(exponent) > LARGEST_EXPONENT
    if wrong.any():
        refuse(field, exponent, wrong, f"times years must lie within ±{LARGEST_EXPONENT:.0f}")
    return exponent


def common_shape(**given: Floats) -> tuple[int, ...]:
    """The shape that all broadcast to; InvalidInput names the first field that does not fit those before it."""
    shape: tuple[int, ...] = ()
    for field, array in given.items():
        try:
            shape = np.broadcast_shapes(shape, array.shape)
        except ValueError as error:
            message = (
                f"{field} has the shape {array.shape}, which does not broadcast with {shape} of the fields before it"
            )
            raise InvalidInput(message, field=field) from error
    return shape


def refuse(field: str, array: Floats, wrong: Bools, rule: str) -> None:
    """Raise InvalidInput for the first row that is wrong."""
    row = tuple(int(part) for part in np.argwhere(wrong)[0])
    raise InvalidInput(f"{field}{_at(row)} {rule}, not {float(array[row])}", field=field)


def _refuse_kind(given: object, row: tuple[int, ...]) -> float:
    raise InvalidInput(f"kind{_at(row)} must be 'call' (+1) or 'put' (-1), not {str(given)[:40]!r}", field="kind")


def _at(row: tuple[int, ...]) -> str:
    """How a message names a row: nothing for a single number."""
    return f" in row {row[0] if len(row) == 1 else row}" if row else ""


def _checked(field: str, given: Numbers, rule: str, holds: Callable[[Floats], Bools]) -> Floats:
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{field} must be a number or an array of numbers", field=field) from error
    if array.ndim == 0:
        number = float(array)
        right = bool(holds(array)) if math.isfinite(number) else False
        if not right:
            refuse(field, array, np.asarray(True), rule)
        return array
    right_rows = holds(array)
    if not right_rows.all():
        refuse(field, array, ~right_rows, rule)
    return array
