"""The general cache: what callers see, whatever the tiers do. Time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cache.general import MISSING_S, GeneralCache
from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.guarded import DEBTS_KEPT
from bridge.cache.tiers.memory import MemoryTier
from bridge.cache.tiers.tier import MAX_VALUE, Held, matcher
from core.errors import Unavailable
from tests.unit.cache.stores import LoopClock

pytestmark = pytest.mark.looptime


class FakeTier:
    """A shared tier in memory; several caches may hold the same one."""

    def __init__(self, name: str = "redis") -> None:
        self.name = name
        self.held: dict[str, tuple[bytes, float]] = {}
        self.away = self.hanging = False
        self.delay_s = self.remove_delay_s = 0.0
        self.calls: list[str] = []
        self.closed = False

    def kept(self) -> set[str]:
        return {key for key in self.held if key.isprintable()}

    async def _obey(self, call: str) -> None:
        self.calls.append(call)
        if self.hanging:
            await asyncio.Event().wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.away:
            raise StoreUnavailable(f"{self.name} is away")

    async def get(self, key: str) -> Held | None:
        await self._obey(f"get {key}")
        value, until = self.held.get(key, (b"", 0.0))
        left_s = until - asyncio.get_running_loop().time()
        return Held(value, left_s) if left_s > 0 else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._obey(f"set {key}")
        self.held[key] = (value, asyncio.get_running_loop().time() + ttl_s)

    async def remove(self, pattern: str) -> None:
        await asyncio.sleep(self.remove_delay_s)
        await self._obey(f"remove {pattern}")
        matches = matcher(pattern).fullmatch
        self.held = {key: value for key, value in self.held.items() if not matches(key)}

    async def clean(self) -> int:
        await self._obey("clean")
        return 0

    async def close(self) -> None:
        self.closed = True


def make_cache(*tiers: FakeTier, **options: Any) -> GeneralCache:
    return GeneralCache(tiers, clock=LoopClock(), rng=Random(1), **options)


@pytest.fixture
async def near() -> FakeTier:
    return FakeTier("near")


@pytest.fixture
async def far() -> FakeTier:
    return FakeTier("far")


@pytest.fixture
async def cache(near: FakeTier, far: FakeTier) -> AsyncIterator[GeneralCache]:
    """Not started: time is virtual in the test itself only."""
    made = make_cache(near, far)
    yield made
    await made.close()


class Loader:
    """Counts its calls; waits until `go` when told to."""

    def __init__(self, value: Any = "loaded") -> None:
        self.value = value
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Any:
        self.calls += 1
        await self.go.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


# ------------------------------------------------------------ values


async def test_a_value_is_found_until_its_time_is_over(cache: GeneralCache) -> None:
    await cache.set("position:EURUSD", {"units": [1, None, "x"]}, 30)
    assert await cache.get("position:EURUSD") == {"units": [1, None, "x"]}
    await asyncio.sleep(29.9)
    assert await cache.get("position:EURUSD") == {"units": [1, None, "x"]}
    await asyncio.sleep(0.2)
    assert await cache.get("position:EURUSD", "gone") == "gone"


async def test_a_value_handed_out_is_a_copy_when_it_is_changed(cache: GeneralCache) -> None:
    await cache.set("k", [1], 30)
    (await cache.get("k")).append(2)
    assert await cache.get("k") == [1]
    loader = Loader([1])
    (await cache.fetch("f", 30, loader)).append(2)
    assert await cache.fetch("f", 30, loader) == [1]


async def test_none_is_a_value_when_it_was_set(cache: GeneralCache) -> None:
    await cache.set("k", None, 30)
    assert await cache.get("k", "default") is None


@pytest.mark.parametrize("key", ["", "a*", "a?", "x" * 513, "a\0b"])
async def test_a_key_is_refused_when_it_is_impossible(cache: GeneralCache, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await cache.get(key)
    with pytest.raises(ValueError, match="key"):
        await cache.set(key, 1, 1)


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 31 * 86_400])
async def test_a_time_is_refused_when_it_is_impossible(cache: GeneralCache, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="time to live"):
        await cache.set("k", 1, ttl_s)


async def test_what_json_cannot_hold_is_refused_and_the_old_value_stays(cache: GeneralCache) -> None:
    await cache.set("k", 1, 30)
    with pytest.raises(TypeError):
        await cache.set("k", object(), 30)
    assert await cache.get("k") == 1


async def test_a_value_too_big_is_not_kept_and_the_old_one_goes(
    cache: GeneralCache, near: FakeTier, far: FakeTier
) -> None:
    await cache.set("k", "small", 30)
    await cache.set("k", "x" * MAX_VALUE, 30)
    assert await cache.get("k") is None
    assert near.kept() == far.kept() == set()
    assert await cache.fetch("f", 30, Loader("x" * MAX_VALUE)) == "x" * MAX_VALUE
    assert cache.counts()["oversize"] == 2


# ------------------------------------------------------------ tiers


async def test_a_value_comes_from_the_nearest_tier_that_has_it_and_fills_the_nearer_ones(
    near: FakeTier, far: FakeTier
) -> None:
    one, other = make_cache(near, far), make_cache(near, far)
    await one.set("k", 1, 30)
    near.held.clear()
    far.calls.clear()
    assert await other.get("k") == 1
    assert near.kept() == {"k"}
    assert far.calls == ["get k"]
    near.calls.clear()
    assert await other.get("k") == 1
    assert near.calls == []
    stats = other.stats()
    assert [(name, each.hits, each.misses) for name, each in stats.items()] == [
        ("general-l1", 1, 1),
        ("general-near", 0, 1),
        ("general-far", 1, 0),
    ]
    await one.close()
    await other.close()
    assert near.closed


async def test_the_change_of_another_process_is_seen_within_the_time_of_the_memory(near: FakeTier) -> None:
    one, other = make_cache(near), make_cache(near)
    await one.set("k", 1, 300)
    assert await other.get("k") == 1
    await one.set("k", 2, 300)
    assert await other.get("k") == 1
    await asyncio.sleep(5.01)
    assert await other.get("k") == 2
    await one.invalidate("k")
    await asyncio.sleep(5.01)
    assert await other.get("k") is None
    await one.close()
    await other.close()


async def test_a_value_kept_by_a_nearer_tier_has_no_more_time_than_it_had(near: FakeTier, far: FakeTier) -> None:
    one = make_cache(far)
    await one.set("k", 1, 30)
    await asyncio.sleep(28)
    other = make_cache(near, far)
    assert await other.get("k") == 1
    await asyncio.sleep(2.1)
    assert await other.get("k") is None
    await one.close()
    await other.close()


async def test_what_is_not_json_is_not_a_value(cache: GeneralCache, near: FakeTier) -> None:
    near.held["k"] = (b"\xff junk", 1e12)
    assert await cache.get("k") is None
    assert cache.stats()["general-near"].failures == 1


async def test_nothing_is_raised_when_every_tier_is_away(cache: GeneralCache, near: FakeTier, far: FakeTier) -> None:
    near.away = far.hanging = True
    await cache.set("k", 1, 300)
    assert await cache.get("k") == 1
    assert await cache.fetch("f", 300, Loader("f")) == "f"
    await cache.invalidate("k")
    assert await cache.get("k") is None
    await asyncio.sleep(6)
    assert await cache.get("f") is None
    assert cache.stats()["general-near"].failures > 0
    assert cache.stats()["general-far"].failures > 0


async def test_a_tier_that_failed_is_left_alone_until_it_answers_again(cache: GeneralCache, near: FakeTier) -> None:
    cache.start()
    near.hanging = True
    await cache.get("k")
    near.calls.clear()
    for number in range(100):
        await cache.get(f"k{number}")
    assert near.calls == []
    near.hanging = False
    await asyncio.sleep(5)
    await cache.get("k")
    assert "get k" in near.calls


@pytest.mark.parametrize("change", ["set", "invalidate", "pattern", "oversize"])
async def test_a_tier_that_comes_back_never_shows_what_was_changed_while_it_was_away(
    near: FakeTier, far: FakeTier, change: str
) -> None:
    cache = make_cache(near, far, memory_s=0.001)
    cache.start()
    await cache.set("k:1", "old", 3000)
    near.away = True
    if change == "set":
        await cache.set("k:1", "new", 3000)
    elif change == "oversize":
        await cache.set("k:1", "x" * MAX_VALUE, 3000)
    else:
        await cache.invalidate("k:1" if change == "invalidate" else "k:*")
    assert near.kept() == {"k:1"}
    near.away = False
    near.remove_delay_s = 0.2  # between its first answer and the removal of what is owed there is time to read
    for _ in range(40):
        assert await cache.get("k:1") == ("new" if change == "set" else None)
        await asyncio.sleep(0.05)
    await asyncio.sleep(5)
    assert cache.counts()["debts"] == 0
    assert near.kept() == ({"k:1"} if change == "set" else set())
    await cache.close()


async def test_everything_is_removed_from_a_tier_when_too_much_changed_while_it_was_away(
    cache: GeneralCache, near: FakeTier
) -> None:
    cache.start()
    keys = [f"k{number}" for number in range(DEBTS_KEPT + 10)]
    for key in keys:
        await cache.set(key, 1, 3000)
    near.away = True
    for key in keys:
        await cache.invalidate(key)
    assert cache.counts()["debts"] <= DEBTS_KEPT + 1
    near.away = False
    await asyncio.sleep(5)
    assert near.kept() == set()


async def test_a_write_that_was_given_up_leaves_no_old_value_behind(
    cache: GeneralCache, near: FakeTier, far: FakeTier
) -> None:
    cache.start()
    await cache.set("k", "old", 3000)
    near.delay_s = 0.5
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await cache.set("k", "new", 3000)
    near.delay_s = 0
    await asyncio.sleep(3)
    assert near.kept() == set()
    assert await cache.get("k") == "new"  # from the far tier
    await asyncio.sleep(6)
    assert await cache.get("k") == "new"
    await asyncio.sleep(6)
    far.calls.clear()
    assert await cache.get("k") == "new"
    assert far.calls == []  # the near tier is trusted again


# ------------------------------------------------------------ fetching


async def test_one_load_serves_everybody_who_asks_at_the_same_time(cache: GeneralCache) -> None:
    loader = Loader()
    loader.go.clear()
    asked = [asyncio.create_task(cache.fetch("k", 30, loader)) for _ in range(50)]
    await asyncio.sleep(1)
    loader.go.set()
    assert await asyncio.gather(*asked) == ["loaded"] * 50
    assert loader.calls == 1
    assert cache.counts()["shared_loads"] == 49
    assert await cache.fetch("k", 30, loader) == "loaded"
    assert loader.calls == 1


async def test_a_load_goes_on_when_whoever_asked_first_has_gone(cache: GeneralCache) -> None:
    loader = Loader()
    loader.go.clear()
    first = asyncio.create_task(cache.fetch("k", 30, loader))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(cache.fetch("k", 30, loader))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0.1)
    loader.go.set()
    assert await second == "loaded"
    assert loader.calls == 1


async def test_a_failed_load_is_raised_to_everybody_and_tried_again_next_time(cache: GeneralCache) -> None:
    loader = Loader(Unavailable("away"))
    asked = [asyncio.create_task(cache.fetch("k", 30, loader)) for _ in range(3)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in results] == [Unavailable] * 3
    assert loader.calls == 1
    loader.value = 7
    assert await cache.fetch("k", 30, loader) == 7
    assert cache.counts()["load_failures"] == 1


async def test_a_load_is_given_up_when_it_takes_too_long(cache: GeneralCache) -> None:
    loader = Loader()
    loader.go.clear()
    with pytest.raises(Unavailable, match="in time"):
        await cache.fetch("k", 30, loader)
    loader.go.set()
    assert await cache.fetch("k", 30, loader) == "loaded"


async def test_a_none_is_kept_for_a_shorter_time(cache: GeneralCache) -> None:
    loader = Loader(None)
    assert await cache.fetch("k", 300, loader) is None
    assert await cache.fetch("k", 300, loader) is None
    assert loader.calls == 1
    loader.value = 1
    await asyncio.sleep(MISSING_S + 0.1)
    assert await cache.fetch("k", 300, loader) == 1
    assert await cache.fetch("no", 300, Loader(None), missing_s=0) is None
    assert await cache.get("no", "unknown") == "unknown"


@pytest.mark.parametrize("change", ["set", "invalidate"])
async def test_what_was_loaded_is_not_kept_when_it_was_changed_meanwhile(
    cache: GeneralCache, near: FakeTier, far: FakeTier, change: str
) -> None:
    loader = Loader("old")
    loader.go.clear()
    asked = asyncio.create_task(cache.fetch("k:1", 300, loader))
    await asyncio.sleep(0.1)
    await (cache.set("k:1", "new", 300) if change == "set" else cache.invalidate("k:*"))
    after = asyncio.create_task(cache.fetch("k:1", 300, Loader("new")))
    await asyncio.sleep(0.1)
    loader.go.set()
    assert await asked == "old"
    assert await after == "new"
    for _ in range(20):
        assert await cache.get("k:1") == "new"
        await asyncio.sleep(1)


async def test_what_was_loaded_is_taken_back_when_it_was_invalidated_while_it_was_written(
    cache: GeneralCache, near: FakeTier, far: FakeTier
) -> None:
    far.delay_s = near.delay_s = 0.3
    asked = asyncio.create_task(cache.fetch("k", 300, Loader("old")))
    await asyncio.sleep(0.8)  # found nowhere after 0.6 s, loaded at once, on its way to the far tier
    far.delay_s = near.delay_s = 0
    await cache.invalidate("k")
    await asked
    await asyncio.sleep(5)
    assert near.kept() == far.kept() == set()
    assert await cache.get("k") is None


async def test_a_reader_does_not_keep_what_was_replaced_while_it_read(near: FakeTier) -> None:
    cache = make_cache(near, memory_s=60)
    await cache.set("k", "old", 300)
    await asyncio.sleep(61)
    near.delay_s = 0.3
    reading = asyncio.create_task(cache.get("k"))
    await asyncio.sleep(0.1)
    near.delay_s = 0
    await cache.set("k", "new", 300)
    await reading
    assert await cache.get("k") == "new"
    await cache.close()


async def test_two_values_of_one_key_reach_every_tier_in_the_same_order(
    cache: GeneralCache, near: FakeTier, far: FakeTier
) -> None:
    near.delay_s = 0.2
    first = asyncio.create_task(cache.set("k", 1, 300))
    await asyncio.sleep(0.1)
    near.delay_s = 0
    second = asyncio.create_task(cache.set("k", 2, 300))
    await asyncio.gather(first, second)
    assert near.held["k"][0] == far.held["k"][0] == b"2"
    assert await cache.get("k") == 2


async def test_whoever_waits_for_a_load_is_told_when_the_cache_is_closed(near: FakeTier) -> None:
    cache = make_cache(near)
    loader = Loader()
    loader.go.clear()
    asked = asyncio.create_task(cache.fetch("k", 30, loader))
    await asyncio.sleep(0.1)
    late = asyncio.create_task(cache.fetch("other", 30, loader))
    await asyncio.sleep(0)
    await cache.close()
    for each in (asked, late):
        with pytest.raises(Unavailable, match="closed"):
            await each


# ------------------------------------------------------------ patterns and bounds


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("a:*", {"a:1", "a:2", "a:[1]", "a:1%"}),
        ("a:?", {"a:1", "a:2"}),
        ("*", {"a:1", "a:2", "a:[1]", "a:1%", "b:1"}),
        ("a:[1]", {"a:[1]"}),
        ("a:1%", {"a:1%"}),
        ("*:1", {"a:1", "b:1"}),
        ("A:*", set()),
        ("a:", set()),
    ],
)
async def test_a_pattern_removes_exactly_what_it_matches(
    cache: GeneralCache, near: FakeTier, pattern: str, gone: set[str]
) -> None:
    keys = {"a:1", "a:2", "a:[1]", "a:1%", "b:1"}
    for key in keys:
        await cache.set(key, key, 30)
    await cache.invalidate(pattern)
    assert near.kept() == keys - gone
    assert {key for key in keys if await cache.get(key) is None} == gone


async def test_memory_stays_within_its_bounds_and_counts_what_it_dropped() -> None:
    cache = make_cache(entries=100, size=200_000)
    for number in range(500):
        await cache.set(f"k{number}", "x", 300)
    assert cache.counts()["entries"] == 100
    assert cache.stats()["general-l1"].evictions == 400
    assert await cache.get("k499") == "x"
    for number in range(100):
        await cache.set(f"big{number}", "x" * 20_000, 300)
    assert cache.counts()["bytes"] <= 200_000
    await cache.set("beyond", "x" * 250_000, 300)
    assert await cache.get("beyond") is None
    await cache.close()


async def test_the_least_recently_used_goes_first() -> None:
    memory = MemoryTier(entries=2, size=10_000, timer=asyncio.get_running_loop().time)
    memory.keep("a", b"1", 30)
    memory.keep("b", b"1", 30)
    assert memory.find("a")
    memory.keep("c", b"1", 30)
    assert (memory.find("a"), memory.find("b"), memory.find("c")) == (b"1", None, b"1")


@given(st.lists(st.tuples(st.sampled_from("abc*?[].%\\é\n"), st.integers()), max_size=8), st.text("abc*[].%\\é\n"))
def test_a_pattern_matches_as_a_walk_over_its_characters_would(chars: list[tuple[str, int]], text: str) -> None:
    pattern = "".join(char for char, _ in chars)

    def walk(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(walk(pattern[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and walk(pattern[1:], text[1:])

    assert bool(matcher(pattern).fullmatch(text)) == walk(pattern, text)
