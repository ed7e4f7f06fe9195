"""Random search: independent draws from a space.

Candidate `i` depends on the seed and `i` alone, so asking for more candidates later extends the same list, and a
resumed search meets the candidates it met before.
"""

from __future__ import annotations

import numpy as np

from core.optimizer.errors import integer
from core.optimizer.space import Params, Space


def random_candidates(space: Space, count: int, seed: int) -> tuple[Params, ...]:
    """`count` candidates, each parameter drawn evenly over its axis (log parameters evenly in the logarithm).

    Repeats can happen in small spaces. Raises BadInput for count < 1 or seed < 0.
    """
    integer("count", count, 1)
    integer("seed", seed, 0)
    width = len(space)
    # one stream, filled row by row: the first rows are the same whatever `count` is
    units = np.random.Generator(np.random.PCG64(seed)).random((count, width))
    return tuple(space.at(row) for row in units.tolist())
