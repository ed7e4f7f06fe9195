"""Grid search: every combination of evenly spread values.

The candidates are a lazy sequence: a grid of millions costs no memory. Order: the last parameter turns fastest, as in
nested loops and `itertools.product`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from core.optimizer.errors import BadInput
from core.optimizer.space import Params, Space, Value

MAX_CANDIDATES = 2**40  # far above what can be tried; below what `len` can count


class Grid(Sequence[Params]):
    """All combinations of `axes`, by parameter name."""

    def __init__(self, axes: Mapping[str, Sequence[Value]]) -> None:
        self.axes = {name: tuple(values) for name, values in axes.items()}
        self._size = math.prod(len(values) for values in self.axes.values())
        if self._size > MAX_CANDIDATES:
            raise BadInput("points", f"make {self._size} combinations, more than {MAX_CANDIDATES}")

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Params: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Params]: ...
    def __getitem__(self, index: int | slice) -> Params | Sequence[Params]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(self._size)))
        rest = range(self._size)[index]
        picked: list[tuple[str, Value]] = []
        for name, values in reversed(self.axes.items()):
            rest, at = divmod(rest, len(values))
            picked.append((name, values[at]))
        return dict(reversed(picked))

    def __iter__(self) -> Iterator[Params]:
        return (self[index] for index in range(self._size))


def grid(space: Space, points: int | Mapping[str, int] | None = None) -> Grid:
    """The grid of a space.

    `points`: how many values each axis gets at most, one number for all or by name; axes that are not named give all
    their values. Real and log axes need a number. Raises BadInput for an unknown name or a missing number.
    """
    if isinstance(points, Mapping):
        for name in points:
            if name not in space.parameters:
                raise BadInput(f"points.{name}", f"is no parameter of this space, which has {', '.join(space)}")
    axes: dict[str, tuple[Value, ...]] = {}
    for name, parameter in space.parameters.items():
        wanted = points.get(name) if isinstance(points, Mapping) else points
        try:
            axes[name] = parameter.grid(wanted)
        except BadInput as cause:
            raise BadInput(f"points.{name}", cause.rule) from cause
    return Grid(axes)
