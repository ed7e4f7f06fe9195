"""What every store promises (bridge/cache/store.py), run over each implementation with a real server behind it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bridge.cache.store import CHUNK, MAX_FENCE, Refusal, Store, Stored, Write
from bridge.cache.stores.memory import MemoryStore
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.cache.stores.supabase import SupabaseStore
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock
from core.secret import Secret
from tests.support.databases import make_database
from tests.support.pooler import pooler_thread
from tests.support.postgrest import SECRET_KEY, PostgrestServer

NOW_MS = 1_732_341_700_000
PATIENCE_S = 10.0  # with a server that has little of a busy machine
MakeStore = Callable[[], Store]
WITHOUT_FUNCTIONS = """
do $$
declare
  name text;
begin
  for name in select oid::regprocedure from pg_proc where proname ~ '^bridge_(cache|kv)_' loop
    execute 'drop function ' || name;
  end loop;
end
$$
"""


def memory_factory(_: pytest.FixtureRequest) -> MakeStore:
    """Every call hands out the same store: a second owner meets the records of the first."""
    store = MemoryStore(ManualClock(NOW_MS))
    return lambda: store


def redis_factory(request: pytest.FixtureRequest) -> MakeStore:
    """Every call is another client of one empty server."""
    url = request.getfixturevalue("redis_url")
    return lambda: RedisStore(Secret(url), timeout_s=PATIENCE_S)


async def sql(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def records_url(postgres: PostgresServer, _migrated: str) -> str:
    """One migrated database for all of these tests; `emptied` makes it as new."""
    return asyncio.run(make_database(postgres, template=_migrated))


@pytest.fixture(scope="module")
def project(records_url: str) -> Iterator[PostgrestServer]:
    with PostgrestServer(records_url) as server:
        yield server


@pytest.fixture(scope="module")
def plain_url(postgres: PostgresServer, _migrated: str) -> str:
    """A database in which only the table is there."""
    url = asyncio.run(make_database(postgres, template=_migrated))
    asyncio.run(sql(url, WITHOUT_FUNCTIONS))
    return url


@pytest.fixture(scope="module")
def plain_project(plain_url: str) -> Iterator[PostgrestServer]:
    with PostgrestServer(plain_url) as server:
        yield server


def emptied(url: str) -> str:
    asyncio.run(sql(url, "truncate public.account_cache, public.bridge_cache_fences, public.kv_store_bridge"))
    return url


@pytest.fixture(scope="module")
def pooled_url(records_url: str) -> Iterator[str]:
    """The same database behind a transaction pooler, where every transaction gets another session."""
    with pooler_thread(records_url, size=3) as between:
        yield between.url()
        assert between.leaks == []


def postgres_factory_of(*, pooled: bool = False, **options: Any) -> Callable[[pytest.FixtureRequest], MakeStore]:
    """Every call is another pool on one empty database."""

    def factory(request: pytest.FixtureRequest) -> MakeStore:
        url = emptied(request.getfixturevalue("records_url"))
        if pooled:
            url = request.getfixturevalue("pooled_url")
        return lambda: PostgresStore(Database(Secret(url), size=2), **options)

    return factory


def supabase_factory(request: pytest.FixtureRequest) -> MakeStore:
    """Every call is another client of one empty project."""
    emptied(request.getfixturevalue("records_url"))
    return clients_of(request.getfixturevalue("project"))


def plain_supabase_factory(request: pytest.FixtureRequest) -> MakeStore:
    """The same where the functions were never installed."""
    emptied(request.getfixturevalue("plain_url"))
    return clients_of(request.getfixturevalue("plain_project"))


def clients_of(project: PostgrestServer) -> MakeStore:
    return lambda: SupabaseStore(project.url, Secret(SECRET_KEY), clock=ManualClock(NOW_MS), timeout_s=PATIENCE_S)


@pytest.fixture(
    params=[
        pytest.param(memory_factory, id="memory"),
        pytest.param(redis_factory, id="redis"),
        pytest.param(postgres_factory_of(), id="postgres"),
        pytest.param(postgres_factory_of(unlogged=True), id="postgres-unlogged"),
        pytest.param(postgres_factory_of(kv_table="kv_store_bridge"), id="postgres-kv"),
        pytest.param(postgres_factory_of(pooled=True), id="postgres-pooler"),
        pytest.param(supabase_factory, id="supabase"),
        pytest.param(plain_supabase_factory, id="supabase-plain"),
    ]
)
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    factory: MakeStore = request.param(request)
    return factory


@asynccontextmanager
async def opened(make_store: MakeStore) -> AsyncIterator[Store]:
    store = make_store()
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    async with opened(make_store) as store:
        yield store


Told = tuple[str, int, int, str | None]


def write(key: str, fence: int, version: int, text: str = "") -> Write:
    """A write of a document that says `text`."""
    document = {"fence": fence, "version": version, "text": text}
    return Write(key, fence, version, json.dumps(document, ensure_ascii=False).encode())


def told(stored: Stored | None) -> Told | None:
    """What is stored, with the text of its document; None in its place: no record."""
    if stored is None:
        return None
    text = json.loads(stored.document)["text"] if stored.document else None
    return stored.key, stored.fence, stored.version, text


async def held(store: Store, *keys: str) -> list[Told | None]:
    return [told(stored) for stored in await store.read(keys)]


@pytest.fixture
def fenced(store: Store) -> Store:
    """For tests of the compare: skipped where the store says that it has none."""
    if not store.capabilities.fenced:
        pytest.skip("the store says that it does not compare")
    return store


# ---------------------------------------------------------------- reading


async def test_read_answers_none_when_nothing_was_ever_written(store: Store) -> None:
    assert await store.read(["a", "b"]) == [None, None]
    assert await store.read([]) == []


async def test_read_answers_in_order_when_some_keys_are_missing(store: Store) -> None:
    await store.write([write("b", 5, 1, "B"), write("a", 6, 2, "A")])
    assert await held(store, "a", "x", "b") == [("a", 6, 2, "A"), None, ("b", 5, 1, "B")]


async def test_a_claimed_key_has_an_empty_document_and_version_zero_when_nothing_was_written(store: Store) -> None:
    [fence] = await store.claim(["a"])
    assert await store.read(["a"]) == [Stored("a", fence, 0, b"")]


async def test_documents_come_back_whole_when_they_hold_any_unicode(store: Store) -> None:
    """Byte for byte, or as equal JSON where the store says so."""
    zero = "\\u0000" if store.capabilities.exact else ""
    document = f'{{"version": 1,  "brokerTitle": "Ж漢字 \U0001f600 {zero} ˇ", "n": 1.50, "fence": 1}}'.encode()
    key = "ключ_漢_\U0001f600"
    await store.write([Write(key, 1, 1, document)])
    [stored] = await store.read([key])
    assert stored is not None
    assert json.loads(stored.document) == json.loads(document)
    if store.capabilities.exact:
        assert stored == Stored(key, 1, 1, document)
    assert await store.keys("ключ") == [key]


# ---------------------------------------------------------------- the compare


@pytest.mark.parametrize(("fence", "version"), [(10, 5), (10, 4), (9, 99), (1, 1), (0, MAX_FENCE)])
async def test_a_write_is_refused_with_what_is_held_when_it_is_not_newer(
    fenced: Store, fence: int, version: int
) -> None:
    assert await fenced.write([write("a", 10, 5, "held")]) == []
    assert await fenced.write([write("a", fence, version, "late")]) == [Refusal("a", 10, 5)]
    assert await held(fenced, "a") == [("a", 10, 5, "held")]


@pytest.mark.parametrize(("fence", "version"), [(10, 6), (11, 0), (11, 1), (MAX_FENCE, MAX_FENCE)])
async def test_a_write_is_accepted_when_it_is_newer(store: Store, fence: int, version: int) -> None:
    await store.write([write("a", 10, 5, "held")])
    assert await store.write([write("a", fence, version, "new")]) == []
    assert await held(store, "a") == [("a", fence, version, "new")]


async def test_neighbouring_fences_are_told_apart_when_they_are_as_large_as_json_allows(fenced: Store) -> None:
    await fenced.write([write("a", MAX_FENCE - 1, MAX_FENCE, "held")])
    assert await fenced.write([write("a", MAX_FENCE - 2, MAX_FENCE, "late")]) != []
    assert await fenced.write([write("a", MAX_FENCE, 1, "new")]) == []


async def test_a_replay_is_refused_with_an_equal_pair_when_nothing_is_newer(fenced: Store) -> None:
    await fenced.write([write("a", 10, 5)])
    assert await fenced.write([write("a", 10, 5)]) == [Refusal("a", 10, 5)]


async def test_only_the_older_ones_are_refused_when_a_batch_is_mixed(fenced: Store) -> None:
    await fenced.write([write(f"k{n}", 10, 5, "held") for n in range(6)])
    batch = [write(f"k{n}", 10, 4 + n % 3, "new") for n in range(6)] + [write("fresh", 1, 1, "new")]
    refusals = await fenced.write(batch)
    assert {refusal.key for refusal in refusals} == {"k0", "k1", "k3", "k4"}
    assert {(refusal.fence, refusal.version) for refusal in refusals} == {(10, 5)}
    texts = [each[3] for each in await held(fenced, *(f"k{n}" for n in range(6)), "fresh") if each]
    assert texts == ["held", "held", "new", "held", "held", "new", "new"]


async def test_a_full_chunk_is_written_in_one_step_and_a_larger_one_is_a_mistake(store: Store) -> None:
    keys = [f"ctrader_account_{n:064x}" for n in range(CHUNK)]
    assert await store.write([write(key, 7, 1, key) for key in keys]) == []
    assert [each[3] for each in await held(store, *keys) if each] == keys
    if store.capabilities.fenced:
        assert len(await store.write([write(key, 7, 1) for key in keys])) == CHUNK
    with pytest.raises(ValueError, match="more than 500"):
        await store.write([write(f"k{n}", 1, 1) for n in range(CHUNK + 1)])
    assert await store.write([]) == []


# ---------------------------------------------------------------- claims


async def test_a_claim_is_at_least_the_clock_and_grows_every_time(store: Store) -> None:
    fences = [(await store.claim(["a"]))[0] for _ in range(5)]
    assert fences[0] >= NOW_MS
    assert all(later > earlier for earlier, later in pairwise(fences))


async def test_a_claim_exceeds_what_is_held_when_the_clock_is_behind_it(store: Store) -> None:
    """The clock stepped back, or another store's clock was ahead: nobody is locked out and nothing is reused."""
    ahead = 4_000_000_000_000
    await store.write([write("a", ahead, 3)])
    assert await store.claim(["a", "b"]) == [ahead + 1, (await store.read(["b"]))[0].fence]  # type: ignore[union-attr]
    assert await store.claim(["a"]) == [ahead + 2]
    assert (await store.claim(["b"]))[0] < ahead


async def test_a_claim_reaches_what_is_asked_when_the_clock_is_behind_it(store: Store) -> None:
    assert await store.claim(["a", "b"], at_least=4_000_000_000_000) == [4_000_000_000_000] * 2
    assert await store.claim(["a"], at_least=4_000_000_000_000) == [4_000_000_000_001]


async def test_fences_come_in_the_order_of_the_keys_when_these_are_not_sorted(store: Store) -> None:
    await store.claim(["b"], at_least=5_000_000_000_000)
    assert await store.claim(["c", "b", "a"], at_least=4_000_000_000_000) == [
        4_000_000_000_000,
        5_000_000_000_001,
        4_000_000_000_000,
    ]


async def test_versions_begin_anew_when_a_key_is_claimed(store: Store) -> None:
    await store.write([write("a", 10, 99, "old")])
    [fence] = await store.claim(["a"])
    assert await held(store, "a") == [("a", fence, 0, "old")]
    assert await store.write([write("a", fence, 1, "new")]) == []


async def test_more_keys_than_a_chunk_can_be_claimed(store: Store) -> None:
    keys = [f"k{n}" for n in range(2 * CHUNK + 1)]
    fences = await store.claim(keys)
    assert len(fences) == len(keys)
    assert min(fences) >= NOW_MS


async def test_an_older_owner_is_refused_when_another_has_claimed(fenced: Store) -> None:
    [first] = await fenced.claim(["a"])
    await fenced.write([write("a", first, 1)])
    [second] = await fenced.claim(["a"])
    assert await fenced.write([write("a", first, 99, "zombie")]) == [Refusal("a", second, 0)]
    assert await fenced.write([write("a", second, 1, "owner")]) == []
    assert await fenced.write([write("a", first, 100, "zombie")]) == [Refusal("a", second, 1)]
    assert await held(fenced, "a") == [("a", second, 1, "owner")]


async def test_fence_and_version_stay_when_a_record_is_removed(store: Store) -> None:
    await store.write([write("a", 7, 4, "there")])
    await store.delete(["a", "never there"])
    await store.delete([])
    assert await store.read(["a", "never there"]) == [Stored("a", 7, 4, b""), None]
    assert await store.write([write("a", 7, 5, "back")]) == []
    assert await held(store, "a") == [("a", 7, 5, "back")]


async def test_nothing_is_left_of_a_key_that_was_forgotten(store: Store) -> None:
    await store.claim(["a", "b"], at_least=NOW_MS * 2)
    await store.write([write("a", NOW_MS * 3, 4, "there"), write("c", 7, 1, "other")])
    await store.forget(["a", "b", "never there"])
    await store.forget([])
    assert await store.read(["a", "b"]) == [None, None]
    assert await store.keys("") == ["c"]
    assert await store.write([write("a", 1, 1, "back")]) == []
    assert await held(store, "a") == [("a", 1, 1, "back")]


async def test_an_older_owner_is_refused_when_the_record_was_removed(fenced: Store) -> None:
    [first] = await fenced.claim(["a"])
    [second] = await fenced.claim(["a"])
    await fenced.write([write("a", second, 4, "owner")])
    await fenced.delete(["a"])
    assert await fenced.write([write("a", first, 99, "zombie")]) == [Refusal("a", second, 4)]
    assert await fenced.write([write("a", second, 5, "back")]) == []


async def test_the_newest_wins_and_nothing_goes_back_when_owners_write_at_once(
    fenced: Store, make_store: MakeStore
) -> None:
    async with opened(make_store) as old, opened(make_store) as new, opened(make_store) as witness:
        keys = [f"k{n}" for n in range(20)]
        zombie_fences = await old.claim(keys)
        owner_fences = await new.claim(keys)
        refused = 0
        seen: list[list[tuple[int, int]]] = []

        async def zombie() -> None:
            nonlocal refused
            for version in range(1, 40):
                batch = [write(key, fence, version, "Z") for key, fence in zip(keys, zombie_fences, strict=True)]
                refused += len(await old.write(batch))

        async def owner() -> None:
            for version in range(1, 40):
                batch = [write(key, fence, version, "O") for key, fence in zip(keys, owner_fences, strict=True)]
                assert await new.write(batch[::-1]) == []

        async def watch() -> None:
            for _ in range(40):
                now = await witness.read(keys)
                seen.append([(stored.fence, stored.version) for stored in now if stored])

        await asyncio.gather(zombie(), owner(), watch())
        assert refused == 39 * len(keys)
        assert [each and each[3] for each in await held(witness, *keys)] == ["O"] * len(keys)
        for earlier, later in pairwise(seen):
            assert all(a <= b for a, b in zip(earlier, later, strict=True))


async def test_two_claims_at_once_give_different_fences(fenced: Store, make_store: MakeStore) -> None:
    async with opened(make_store) as one, opened(make_store) as other:
        answers = await asyncio.gather(*(store.claim(["a"]) for _ in range(20) for store in (one, other)))
        fences = [fence for [fence] in answers]
        assert len(set(fences)) == len(fences)


# ---------------------------------------------------------------- listing


async def test_keys_are_sorted_and_paged_when_there_are_more_than_the_limit(store: Store) -> None:
    names = [f"ctrader_account_{n:03d}" for n in range(25)]
    await store.write([write(name, 1, 1) for name in reversed(names)])
    await store.write([write("alpaca_account_000", 1, 1)])
    page = await store.keys("ctrader_account_", limit=10)
    assert page == names[:10]
    assert await store.keys("ctrader_account_", after=page[-1], limit=100) == names[10:]
    assert await store.keys("ctrader_account_02") == names[20:]
    assert await store.keys("nothing") == []


async def test_keys_lists_records_only_when_others_are_claimed_or_removed(store: Store) -> None:
    await store.claim(["claimed"])
    await store.write([write("removed", 1, 1), write("there", 1, 1)])
    await store.delete(["removed"])
    assert await store.keys("") == ["there"]


@pytest.mark.parametrize("prefix", ["a*", "a?", "a[b]", "a\\", "a^", "a-"])
async def test_a_prefix_is_taken_literally_when_it_looks_like_a_pattern(store: Store, prefix: str) -> None:
    await store.write([write(f"{prefix}x", 1, 1), write("abx", 1, 1), write("a", 1, 1)])
    assert await store.keys(prefix) == [f"{prefix}x"]


# ---------------------------------------------------------------- life


async def test_the_generation_stays_the_same_as_long_as_the_data_does(fenced: Store, make_store: MakeStore) -> None:
    async with opened(make_store) as one, opened(make_store) as other:
        await one.ping()
        first = one.generation
        await one.write([write("a", 1, 1)])
        await other.ping()
        assert first is not None
        assert one.generation == other.generation == first


# ---------------------------------------------------------------- against a model

KEYS = ["ctrader_account_a", "ctrader_account_b", "ctrader_account_a_1", "é"]
FENCES = st.one_of(st.integers(0, 6), st.integers(MAX_FENCE - 3, MAX_FENCE))
VERSIONS = st.one_of(st.integers(0, 4), st.just(MAX_FENCE))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


class AgainstModel(RuleBasedStateMachine):
    """A dict of (fence, version, text or None) is the oracle."""

    def __init__(self, make_store: MakeStore, runner: asyncio.Runner) -> None:
        super().__init__()
        self.runner = runner
        self.prefix = f"{uuid.uuid4().hex}:"
        self.store = make_store()
        self.run(self.store.open())
        self.model: dict[str, tuple[int, int, str | None]] = {}

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.store.close())

    @rule(batch=st.dictionaries(st.sampled_from(KEYS), st.tuples(FENCES, VERSIONS, TEXTS), max_size=4))
    def write(self, batch: dict[str, tuple[int, int, str]]) -> None:
        writes = []
        expected = set()
        for key, (fence, version, text) in batch.items():
            writes.append(write(self.prefix + key, fence, version, text))
            now = self.model.get(self.prefix + key)
            if self.store.capabilities.fenced and now is not None and (fence, version) <= now[:2]:
                expected.add(Refusal(self.prefix + key, now[0], now[1]))
            else:
                self.model[self.prefix + key] = (fence, version, text)
        assert set(self.run(self.store.write(writes))) == expected

    @rule(keys=st.lists(st.sampled_from(KEYS), unique=True), at_least=st.one_of(st.just(0), st.integers(0, 2**50)))
    def claim(self, keys: list[str], at_least: int) -> None:
        names = [self.prefix + key for key in keys]
        if any(self.model.get(name, (0,))[0] >= MAX_FENCE for name in names):
            return  # there is no greater fence
        for name, fence in zip(names, self.run(self.store.claim(names, at_least=at_least)), strict=True):
            now = self.model.get(name, (-1, 0, None))
            assert fence >= max(now[0] + 1, at_least, NOW_MS)
            self.model[name] = (fence, 0, now[2])

    @precondition(lambda self: self.model)
    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        name = self.prefix + key
        self.run(self.store.delete([name]))
        if name in self.model:
            self.model[name] = (*self.model[name][:2], None)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        names = [self.prefix + key for key in KEYS]
        expected = [(name, *self.model[name]) if name in self.model else None for name in names]
        assert self.run(held(self.store, *names)) == expected

    @rule()
    def lists_what_the_model_holds(self) -> None:
        records = sorted(name for name, (_, _, text) in self.model.items() if text is not None)
        assert self.run(self.store.keys(self.prefix)) == records


def test_a_store_behaves_like_its_model_over_any_sequence_of_calls(
    make_store: MakeStore, request: pytest.FixtureRequest
) -> None:
    quick = request.node.callspec.id in {"memory", "redis"}
    with asyncio.Runner() as runner:
        run_state_machine_as_test(
            lambda: AgainstModel(make_store, runner),
            settings=settings(
                max_examples=60 if quick else 15,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
