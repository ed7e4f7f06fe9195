"""The whole system while its Redis is in trouble: sessions go on, and the newest records are there afterwards.

One world for all cases: real processes, Valkey behind a proxy, an independent reader of every record.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from bridge.cache.stores.redis import FENCE
from bridge.embedded.valkey import ValkeyServer
from tests.support.fault_table import fault
from tests.support.store_scene import StoreScene, run_store_case, store_scene
from tests.support.waiting import eventually
from tests.support.world import APP_KEY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
SILENT_S = 5.0  # longer than a flush may take, shorter than a record looks fresh
DEADLINE_S = 1.5  # of a chunk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreScene]:
    async with store_scene(tmp_path_factory.mktemp("cache")) as made:
        yield made


async def sessions_go_on(scene: StoreScene) -> None:
    """Health says what is wrong, everybody stays live, and what waits is one record of each session."""
    await scene.store_is("down")
    await scene.trade()
    health = await scene.health()
    assert (health["status"], health["sessions"]) == ("degraded", {"live": len(scene.users)})
    assert health["stores"]["redis"]["dirty"] <= len(scene.users)
    ready = await scene.world.api("GET", "/health/ready")
    assert ready["_status"] == 503  # the primary store does not answer


# ------------------------------------------------------------ gone


async def refused(scene: StoreScene) -> None:
    scene.line.refuse()
    scene.line.cut()
    await sessions_go_on(scene)


async def killed(scene: StoreScene) -> None:
    await asyncio.to_thread(scene.redis.kill)
    await sessions_go_on(scene)


async def flapping(scene: StoreScene) -> None:
    for _ in range(6):
        scene.line.cut()
        await scene.trade()


async def healed(scene: StoreScene) -> None:
    await scene.line.heal()
    await asyncio.to_thread(scene.redis.start)


# ------------------------------------------------------------ slow


async def silent(scene: StoreScene) -> None:
    scene.line.hold()
    await scene.trade()
    await scene.answers_at_once(seconds=SILENT_S)
    await sessions_go_on(scene)


async def paused(scene: StoreScene) -> None:
    assert scene.command("CLIENT", "PAUSE", "60000", "WRITE") == b"+OK"
    await scene.trade()
    await scene.answers_at_once(seconds=SILENT_S)
    await sessions_go_on(scene)


async def unpaused(scene: StoreScene) -> None:
    scene.command("CLIENT", "UNPAUSE")


async def slow(scene: StoreScene) -> None:
    """Within the deadline: late and true."""
    scene.line.set(latency_s=DEADLINE_S / 4)
    await scene.trade()
    await scene.answers_at_once(seconds=1.0)
    await scene.equal(within_s=8)


# ------------------------------------------------------------ another server's behaviour


async def replica(scene: StoreScene) -> None:
    """Of an empty server: as after a failover that lost everything. Connections are dialled anew."""
    before = scene.line.connections
    with ValkeyServer() as empty:
        assert scene.command("REPLICAOF", "127.0.0.1", str(empty.port)) == b"+OK"
        await scene.trade()
        await sessions_go_on(scene)
        assert scene.command("REPLICAOF", "NO", "ONE") == b"+OK"
    await scene.equal(within_s=8)
    assert scene.line.connections > before


async def promoted(scene: StoreScene) -> None:
    scene.command("REPLICAOF", "NO", "ONE")


async def emptied(scene: StoreScene) -> None:
    """Nothing changes meanwhile: it is the loss itself that must be noticed."""
    fences = {user: scene.record(user)["fence"] for user in scene.users}
    assert scene.command("FLUSHALL") == b"+OK"

    def back() -> bool:
        return all(scene.world.records())

    await eventually(back, within_s=10, every_s=0.05, what="every record again")
    assert {user: scene.record(user)["fence"] for user in scene.users} == fences
    for user in scene.users:
        assert scene.command("EXISTS", FENCE + scene.key(user)) == b":1"


async def full(scene: StoreScene) -> None:
    assert scene.command("CONFIG", "SET", "maxmemory", "1") == b"+OK"
    await scene.trade()
    await sessions_go_on(scene)


async def roomy(scene: StoreScene) -> None:
    scene.command("CONFIG", "SET", "maxmemory", "0")


async def forgetful(scene: StoreScene) -> None:
    for _ in range(5):
        assert scene.command("SCRIPT", "FLUSH") == b"+OK"
        await scene.trade()
        await scene.equal(within_s=8)
    assert await scene.metric("bridge_store_failures_total") == 0


async def deaf(scene: StoreScene) -> None:
    """What is written arrives; no answer comes back."""
    scene.line.downstream.set(swallow=True)
    await scene.trade()
    await sessions_go_on(scene)
    assert scene.line.downstream.swallowed


# ------------------------------------------------------------ odd contents


async def garbage(scene: StoreScene) -> None:
    """At a record's key and at the key of its fence, each in turn. Readers get an answer all the same."""
    key = scene.key()
    for words in (("HSET", key, "f", "1"), ("LPUSH", FENCE + key, "1"), ("SET", FENCE + key, "z" * 32)):
        assert scene.command("DEL", words[1])[:1] == b":"
        assert scene.command(*words)[:1] in (b":", b"+")
        answer = await scene.world.api("GET", "/account", key=APP_KEY, user=scene.VICTIM)
        assert answer["_status"] in (200, 404), answer
        await scene.trade()
        await scene.equal(within_s=8)


async def expired(scene: StoreScene) -> None:
    before = scene.record()
    assert scene.command("PEXPIRE", scene.key(), "1") == b":1"
    await eventually(lambda: scene.command("EXISTS", scene.key()) == b":0", within_s=2, what="it is gone")
    await scene.trade()
    await scene.equal(within_s=8)
    after = scene.record()
    assert (after["fence"], after["version"] > before["version"]) == (before["fence"], True)
    old = f"{before['fence'] - 1:016d}{99:016d}"
    held = scene.command("GET", FENCE + scene.key())
    assert held[:1] == b"$"
    assert old < f"{after['fence']:016d}{after['version']:016d}"


Step = Callable[[StoreScene], Awaitable[None]]
LIVE = "sessions stay live, one record each waits, health says degraded, "
AFTER = "every record true within 8 s"
CASES: list[tuple[str, str, Step, Step | None, str]] = [
    ("C01", "refused and reset", refused, healed, LIVE + AFTER),
    ("C01", "killed, comes back empty", killed, healed, LIVE + AFTER),
    ("C01", "reset again and again under trading", flapping, None, AFTER),
    ("C02", "silent for 5 s", silent, healed, "callers answered within 0.1 s (median), " + LIVE + AFTER),
    ("C02", "CLIENT PAUSE WRITE for 5 s", paused, unpaused, "callers answered within 0.1 s (median), " + LIVE + AFTER),
    ("C02", "0.4 s late both ways", slow, healed, "records late and true"),
    ("C03", "REPLICAOF an empty server, then promoted", replica, promoted, LIVE + "dialled anew, " + AFTER),
    ("C04", "FLUSHALL while nothing changes", emptied, None, "every record and fence again within 10 s"),
    ("C05", "CONFIG SET maxmemory 1", full, roomy, LIVE + AFTER),
    ("C06", "SCRIPT FLUSH under trading", forgetful, None, "no failure is counted, every record true"),
    ("C08", "replies lost, writes not", deaf, healed, "nobody is fenced, versions only grow, " + AFTER),
    ("C16", "hash, list and letters at the keys of a record", garbage, None, "readers answered, overwritten"),
    ("C17", "PEXPIRE under the owner", expired, None, "written again under the same fence, a higher version"),
]


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [
        pytest.param(hurt, heal, id=f"{fault_id}-{how}", marks=fault(fault_id, f"whole system: {how}", held))
        for fault_id, how, hurt, heal, held in CASES
    ],
)
async def test_sessions_go_on_and_records_are_true_when_redis_is_in_trouble(
    scene: StoreScene, hurt: Step, heal: Step | None
) -> None:
    await run_store_case(scene, hurt, heal)
