"""Three hundred seeds, each to its end; the same seed twice; and the checks themselves, which must be able to fail."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bridge.cache.stores.memory import MemoryStore
from tests.simulation import invariants
from tests.simulation.rare import RARE
from tests.simulation.run import simulate

ROOT = Path(__file__).parents[2]
SEEDS = 300
PARTS = 2  # as many as workers; each must reach every rare branch by itself
TRACES = "import json, tests.simulation.run as r; print(json.dumps([r.simulate(s).trace for s in (5, 14, 28, 47)]))"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_everything_holds_and_comes_to_rest_when_anything_goes_wrong(part: int) -> None:
    seen: Counter[str] = Counter()
    failed = []
    for seed in range(part, SEEDS, PARTS):
        outcome = simulate(seed)
        seen.update(outcome.seen.keys())
        if outcome.broken is not None:
            failed.append(f"{outcome.replay}\n{outcome.broken}")
    assert not failed, "\n".join(failed)
    assert sorted(RARE - seen.keys()) == [], "rare branches that no seed has reached"


@pytest.mark.slow
def test_same_seed_gives_the_same_trace_when_the_interpreter_hashes_differently() -> None:
    def traces(hash_seed: str) -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-c", TRACES],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        found: list[str] = json.loads(ran.stdout)
        return found

    first = traces("1")
    assert len(set(first)) == len(first)
    assert traces("2") == first


def test_seed_fails_with_its_invariant_when_a_store_ignores_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    async def accept_all(self: MemoryStore, writes: list) -> list:  # type: ignore[type-arg]
        for write in writes:
            held = self._held.setdefault(write.key, type(next(iter(self._held.values())))(0, 0, b""))
            held.fence, held.version, held.document = write.fence, write.version, write.document
        return []

    monkeypatch.setattr(MemoryStore, "write", accept_all)
    broken = [outcome.broken for seed in range(40) if (outcome := simulate(seed)).broken is not None]
    assert any("invariant 4" in text or "invariant 3" in text for text in broken)


def test_every_invariant_of_the_list_is_checked_or_says_why_not() -> None:
    numbers = {int(found) for found in _numbers_said()}
    assert numbers | set(invariants.ABOUT_ORDERS) >= set(range(1, 21))


def _numbers_said() -> list[str]:
    """The numbers with which the checks' docstrings begin."""
    said: list[str] = []
    for name in dir(invariants):
        text = getattr(getattr(invariants, name), "__doc__", None) or ""
        said += [
            each for each in text.partition(":")[0].replace("and", " ").replace(",", " ").split() if each.isdigit()
        ]
    return said
