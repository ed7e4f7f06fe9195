"""The comparison for implied volatility: `py_vollib_vectorized`, unmodified.

Runs under the interpreter of that package's own environment and so must not import anything of ours. Reads its inputs
from a file, writes its answers to another, says that it is ready, and then times itself for as long as it is told.
"""

import json
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")  # of numba about how the package is written

from py_vollib_vectorized.implied_volatility import vectorized_implied_volatility  # noqa: E402


def main(inputs: str, answers: str) -> None:
    given = np.load(inputs)
    names = ("price", "spot", "strike", "years", "rate", "flag", "dividend_yield")
    arguments = [np.ascontiguousarray(given[name]) for name in names]

    def call() -> np.ndarray:
        found = vectorized_implied_volatility(
            *arguments, model="black_scholes_merton", return_as="numpy", on_error="ignore"
        )
        return np.asarray(found)

    np.save(answers, call())  # compiles
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        best, end = float("inf"), time.perf_counter() + float(json.loads(line)["seconds"])
        while (began := time.perf_counter()) < end:
            call()
            best = min(best, time.perf_counter() - began)
        print(json.dumps({"perCallS": best}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
