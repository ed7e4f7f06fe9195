"""`python -m tests.negative_controls.seeds COUNT INVARIANT`: seeds of the simulation, until one breaks that invariant.

Exit code 1 when one did, as from tests that fail; 0 when none did.
"""

import sys

from tests.negative_controls.applying import apply_breakage

if __name__ == "__main__":
    apply_breakage()
    from tests.simulation.run import simulate

    count, invariant = map(int, sys.argv[1:])
    for seed in range(count):
        broken = simulate(seed).broken
        if broken is not None and f"invariant {invariant}:" in broken:
            print(f"seed {seed}: {broken.splitlines()[0]}")
            sys.exit(1)
        if broken is not None:
            print(f"seed {seed} broke something else: {broken.splitlines()[0]}")
