"""The Redis store against a real Valkey that misbehaves (reference/faults.md §2.2, C01 to C07, C16, C17).

Whatever happens, the store answers rightly or says StoreUnavailable, in bounded time; never another caller's reply.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest

from bridge.cache.store import Refusal, Stored, StoreUnavailable, Write
from bridge.cache.stores.redis import FENCE, RedisStore
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import SystemClock
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.fault_table import fault
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(60)
CANCELS = 4_000
PATIENCE_S = 10.0  # never reached unless something hangs


@pytest.fixture
def server(valkey_factory: Callable[[], ValkeyServer]) -> ValkeyServer:
    """A server of the test's own, to be hurt."""
    return valkey_factory()


@pytest.fixture
async def store(server: ValkeyServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(Secret(server.url), timeout_s=0.5)
    yield store
    await store.close()


def write(key: str, fence: int, version: int, document: bytes = b"{}") -> Write:
    return Write(key, fence, version, document)


async def answers(store: RedisStore) -> bool:
    try:
        await store.ping()
    except StoreUnavailable:
        return False
    return True


@fault(
    "C01",
    "the server killed, later started empty",
    "each call says unavailable, and works again on the empty server",
)
async def test_every_call_says_unavailable_when_the_server_is_gone_and_works_when_it_is_back(
    store: RedisStore, server: ValkeyServer
) -> None:  # C01, C04
    await store.write([write("a", 5, 1)])
    life = store.generation
    await asyncio.to_thread(server.kill)
    calls = (
        lambda: store.claim(["a"]),
        lambda: store.write([write("a", 5, 2)]),
        lambda: store.read(["a"]),
        lambda: store.keys("a"),
        lambda: store.delete(["a"]),
        store.ping,
    )
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call()
    await store.open()  # an unreachable server does not stop the start
    await asyncio.to_thread(server.start)
    await eventually(lambda: answers(store), within_s=PATIENCE_S)
    assert store.generation != life, "an empty server must not pass for the one that held our records"
    assert await store.read(["a"]) == [None]
    assert await store.write([write("a", 5, 3)]) == []


@fault("C04", "FLUSHALL between two owners", "the next fence exceeds every earlier one; the old owner is refused")
async def test_a_claim_after_a_loss_exceeds_every_earlier_fence(store: RedisStore, server: ValkeyServer) -> None:  # C04
    [before] = await store.claim(["a"])
    assert server.command("FLUSHALL") == b"+OK"
    clock = SystemClock()
    await eventually(lambda: clock.now_ms() > before, within_s=PATIENCE_S)  # fences are as fine as the server's ms
    [after] = await store.claim(["a"])
    assert after > before
    await store.write([write("a", after, 1, b"owner")])
    assert await store.write([write("a", before, 99, b"zombie")]) == [Refusal("a", after, 1)]


@fault("C04", "FLUSHALL under a running server", "the next write notices the loss")
async def test_the_generation_changes_when_the_data_was_erased_under_a_running_server(
    store: RedisStore, server: ValkeyServer
) -> None:  # C04
    await store.ping()
    life = store.generation
    assert server.command("FLUSHALL") == b"+OK"
    assert await store.write([write("a", 1, 1)]) == []
    erased = store.generation
    await store.ping()
    assert erased != life
    assert store.generation == erased


@fault("C17", "the record removed, its fence not", "a zombie is refused, the owner writes again")
async def test_an_older_owner_is_refused_when_the_record_expired_or_was_deleted_by_somebody(
    store: RedisStore, server: ValkeyServer
) -> None:  # C17
    [old] = await store.claim(["a"])
    [new] = await store.claim(["a"])
    await store.write([write("a", new, 1)])
    assert server.command("DEL", "a") == b":1"
    assert await store.write([write("a", old, 99)]) == [Refusal("a", new, 1)]
    assert await store.write([write("a", new, 2, b"again")]) == []
    assert await store.read(["a"]) == [Stored("a", new, 2, b"again")]
    assert server.command("TTL", "a") == server.command("TTL", FENCE + "a") == b":-1"


@fault("C02", "the server frozen", "a call costs its deadline and no more")
async def test_a_silent_server_costs_the_deadline_and_no_more(store: RedisStore, server: ValkeyServer) -> None:  # C02
    await store.write([write("a", 5, 1)])
    loop = asyncio.get_running_loop()
    with server.paused():
        began = loop.time()
        with pytest.raises(StoreUnavailable):
            await store.write([write("a", 5, 2)])
        assert loop.time() - began < 5  # the library would retry for far longer; the margin is for a busy machine
        with pytest.raises(StoreUnavailable):
            await store.read(["a"])
    await eventually(lambda: answers(store), within_s=PATIENCE_S)
    assert await store.write([write("a", 5, 3, b"new")]) == []
    assert await store.read(["a"]) == [Stored("a", 5, 3, b"new")]


@fault("C02", "CLIENT PAUSE for writes", "a held write never wins over a newer one")
@fault("C08", "CLIENT PAUSE for writes", "a held write has at most one effect")
async def test_writes_held_up_by_the_server_are_applied_at_most_once_and_never_win_over_newer_ones(
    store: RedisStore, server: ValkeyServer
) -> None:  # C02, C08
    await store.write([write("a", 5, 1)])
    assert server.command("CLIENT", "PAUSE", "60000", "WRITE") == b"+OK"
    with pytest.raises(StoreUnavailable):
        await store.write([write("a", 5, 2, b"late")])
    assert [stored.version for stored in await store.read(["a"]) if stored] == [1]
    assert server.command("CLIENT", "UNPAUSE") == b"+OK"
    refused = await store.write([write("a", 5, 3, b"newest")])
    assert refused == []
    assert await store.read(["a"]) == [Stored("a", 5, 3, b"newest")]


@fault("C08", "every connection slammed", "one dial for one command: the library never repeats")
async def test_a_command_is_sent_once_and_never_tried_again_by_the_library() -> None:  # C08
    """A hidden retry would stretch every deadline and could apply a write after its caller gave up."""
    dialled = 0

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        writer.transport.abort()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    store = RedisStore(Secret(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"))
    for attempt in range(1, 4):
        with pytest.raises(StoreUnavailable):
            await store.write([write("a", 1, 1)])
        assert dialled == attempt
    await store.close()
    server.close()
    await server.wait_closed()


@fault("C06", "SCRIPT FLUSH before each call", "every script is loaded again unnoticed")
async def test_unknown_scripts_are_loaded_again_when_the_server_forgot_them(
    store: RedisStore, server: ValkeyServer
) -> None:  # C06
    await store.write([write("a", 5, 1)])
    for _ in range(3):
        assert server.command("SCRIPT", "FLUSH") == b"+OK"
        [fence] = await store.claim(["a"])
        assert server.command("SCRIPT", "FLUSH") == b"+OK"
        assert await store.write([write("a", fence, 1)]) == []
        assert server.command("SCRIPT", "FLUSH") == b"+OK"
        await store.ping()


@fault("C03", "REPLICAOF another server", "each call says unavailable, and works after promotion")
async def test_a_replica_is_unavailable_and_serves_again_when_promoted(
    store: RedisStore, server: ValkeyServer, valkey_factory: Callable[[], ValkeyServer]
) -> None:  # C03
    other = valkey_factory()
    await store.write([write("a", 5, 1)])
    assert server.command("REPLICAOF", "127.0.0.1", str(other.port)) == b"+OK"
    for call in (
        lambda: store.write([write("a", 5, 2)]),
        lambda: store.claim(["a"]),
        store.ping,
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(StoreUnavailable):
            await call()
    assert server.command("REPLICAOF", "NO", "ONE") == b"+OK"
    await eventually(lambda: answers(store), within_s=PATIENCE_S)
    assert await store.write([write("a", 5, 3)]) == []


@contextmanager
def memory_full(server: ValkeyServer) -> Iterator[None]:
    assert server.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    try:
        yield
    finally:
        assert server.command("CONFIG", "SET", "maxmemory", "0") == b"+OK"


@fault("C05", "CONFIG SET maxmemory 1", "each write says why, whole chunks fail, reads go on")
async def test_a_full_server_is_unavailable_whole_and_keeps_what_it_held(
    store: RedisStore, server: ValkeyServer
) -> None:  # C05
    await store.write([write("a", 5, 1, b"held")])
    with memory_full(server):
        for call in (
            lambda: store.write([write("a", 5, 2), write("b", 5, 1)]),
            lambda: store.claim(["a"]),
            store.ping,
        ):
            with pytest.raises(StoreUnavailable, match=r"OOM|OutOfMemory"):
                await call()
        assert await store.read(["a", "b"]) == [Stored("a", 5, 1, b"held"), None]
    assert await store.write([write("a", 5, 2), write("b", 5, 1)]) == []


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(("HSET", "a", "f", "1"), id="hash at the record's key"),
        pytest.param(("LPUSH", FENCE + "a", "1"), id="list at the side key"),
        pytest.param(("SET", FENCE + "a", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"), id="letters at the side key"),
        pytest.param(("SET", FENCE + "a", "99"), id="short side key"),
        pytest.param(("SET", FENCE + "a", "9" * 32), id="a fence beyond JSON at the side key"),
        pytest.param(("SET", "a", "not-json"), id="a foreign record without side key"),
    ],
)
@fault("C16", "hashes, lists, letters and foreign records at our keys", "read as nothing, overwritten, fences sane")
async def test_garbage_at_our_keys_counts_as_nothing_and_is_overwritten(
    store: RedisStore, server: ValkeyServer, seed: tuple[str, ...]
) -> None:  # C16
    assert server.command(*seed)[:1] in (b":", b"+")
    await store.read(["a"])
    assert await store.write([write("a", 5, 1, b"ours")]) == []
    assert await store.read(["a"]) == [Stored("a", 5, 1, b"ours")]
    assert server.command(*seed)[:1] in (b":", b"+", b"-")
    [fence] = await store.claim(["a"])
    assert 1_600_000_000_000 < fence < 2**53
    assert await store.write([write("a", fence, 1, b"ours again")]) == []
    assert await store.read(["a"]) == [Stored("a", fence, 1, b"ours again")]


@fault("C07", "4,000 calls cancelled at random between sending and reply", "every answer is the one to its question")
async def test_cancelled_calls_never_hand_their_reply_to_the_next_caller(server: ValkeyServer) -> None:
    store = RedisStore(Secret(server.url), timeout_s=PATIENCE_S)  # what counts is whose answer it is, not how fast
    keys = [f"k{n}" for n in range(50)]
    await store.write([write(key, 1, 1, key.encode()) for key in keys])
    rng = random.Random(11)
    cancelled = finished = 0

    async def ask(key: str, *, writes: bool) -> bool:
        """Whether the answer was the one to the question."""
        if writes:
            return await store.write([write(key, 1, 1, key.encode())]) == [Refusal(key, 1, 1)]
        return await store.read([key]) == [Stored(key, 1, 1, key.encode())]

    while cancelled < CANCELS:
        tasks = [asyncio.create_task(ask(rng.choice(keys), writes=number < 2)) for number in range(14)]
        for task in rng.sample(tasks, 11):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)  # somewhere between sending and the reply
            cancelled += task.cancel()
        for task in tasks:
            try:
                assert await task
                finished += 1
            except asyncio.CancelledError:
                continue
    assert finished > CANCELS / 10
    await store.close()


@fault("C07", "replies that come after the deadline", "every later answer is the one to its question")
async def test_the_deadline_discards_the_connection_so_that_a_late_reply_reaches_nobody(
    store: RedisStore, server: ValkeyServer
) -> None:  # C07
    await store.write([write("a", 1, 1, b"A"), write("b", 1, 1, b"B")])
    for _ in range(3):
        with server.paused():
            late = [asyncio.create_task(store.read(["a"])) for _ in range(20)]
            assert all(
                isinstance(error, StoreUnavailable) for error in await asyncio.gather(*late, return_exceptions=True)
            )
        reads = await asyncio.gather(*(store.read(["b"]) for _ in range(20)))
        assert reads == [[Stored("b", 1, 1, b"B")]] * 20


@fault("C10", "500 readers at the Redis pool", "a write overtakes them")
async def test_reads_never_keep_a_flush_waiting(server: ValkeyServer) -> None:
    """Flushing has connections of its own, however many readers queue."""
    store = RedisStore(Secret(server.url), timeout_s=PATIENCE_S)  # what counts is who is first, not how fast
    await store.write([write("a", 1, 1)])
    readers = [asyncio.create_task(store.read(["a"])) for _ in range(500)]
    await store.write([write("a", 1, 2)])
    assert not all(reader.done() for reader in readers)
    await asyncio.gather(*readers)
    await store.close()


async def test_a_refused_password_stops_the_start_and_is_never_shown(server: ValkeyServer) -> None:
    assert server.command("CONFIG", "SET", "requirepass", "right-horse") == b"+OK"
    wrong = RedisStore(Secret(f"redis://:wrong-horse@127.0.0.1:{server.port}/0"))
    with pytest.raises(ConfigurationError) as caught:
        await wrong.open()
    assert "horse" not in repr(caught.value) + repr(caught.value.__cause__)
    await wrong.close()
    right = RedisStore(Secret(f"redis://:right-horse@127.0.0.1:{server.port}/0"))
    await right.open()
    assert await right.write([write("a", 1, 1)]) == []
    await right.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "", "redis://127.0.0.1:port/0"])
def test_a_malformed_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="malformed"):
        RedisStore(Secret(url))
