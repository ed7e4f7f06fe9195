"""The flusher in virtual time: who may write, in the primary and in its copies."""

import asyncio
import json
from collections.abc import Sequence

from bridge.cache.claims import claim
from bridge.cache.contact import Contact
from bridge.cache.entry import Entry
from bridge.cache.flusher import Flusher
from bridge.cache.store import CHUNK, Refusal, Write
from tests.unit.cache.builders import NOW_MS, Source, account
from tests.unit.cache.flushing import INTERVAL_S, MakeFlusher, change, least_freshness_left, register
from tests.unit.cache.stores import FakeStore, LoopClock

# ---------------------------------------------------------------- ownership


async def test_a_session_is_fenced_once_when_the_primary_holds_a_higher_fence(
    flusher: Flusher, store: FakeStore
) -> None:
    entries, sources = register(flusher, 3)
    await asyncio.sleep(1)
    [higher] = await store.claim([entries[1].keys[0]])
    await store.write([Write(entries[1].keys[0], higher, 1, b'{"owner": "new"}')])
    for entry in entries:
        change(flusher, entry, balance="4.00", urgent=True)
    await asyncio.sleep(1)
    change(flusher, entries[1], urgent=True)
    await asyncio.sleep(10)
    assert [source.fenced_by for source in sources] == [[], [higher], []]
    assert store.document(entries[1].keys[0]) == {"owner": "new"}
    assert store.stamp(entries[1].keys[0]) == (higher, 1)
    assert store.document(entries[0].keys[0])["balance"] == 4
    assert entries[1].fenced
    assert flusher.metrics()["fenced"] == 1


async def test_who_takes_a_record_over_is_shown_what_stood_there(
    make_flusher: MakeFlusher, flusher: Flusher, store: FakeStore
) -> None:
    [entry], [first] = register(flusher, 1)
    await asyncio.sleep(1)
    left = store.document(entry.keys[0])
    successor = make_flusher(store)
    await successor.start()
    _, [second, third] = register(successor, 2)
    await asyncio.sleep(1)
    assert (first.recalled, third.recalled) == ([], [])
    assert [json.loads(document) for document in second.recalled] == [left]


async def test_an_outage_gives_no_fence_back_to_an_owner_that_lost_it(flusher: Flusher, store: FakeStore) -> None:
    """A process that slept wakes with broken connections: it must not claim what somebody took over meanwhile."""
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    store.away = True
    change(flusher, entry, urgent=True)
    await asyncio.sleep(5)
    store.away = False
    [higher] = await store.claim([entry.keys[0]])
    await asyncio.sleep(3)
    assert source.fenced_by == [higher]
    assert store.stamp(entry.keys[0])[0] == higher


async def test_the_common_fence_is_claimed_in_every_store_although_time_passes(
    store: FakeStore, clock: LoopClock
) -> None:
    """Otherwise an earlier owner could still write where the claim came out lower."""
    copies = [FakeStore(clock, name) for name in ("one", "two")]
    entries = [Entry((f"k{n}",), Source()) for n in range(3)]
    for each in (store, *copies):
        each.delay_s = 0.3
    await copies[1].claim(["k1"], at_least=NOW_MS + 5000)
    await claim(entries, Contact(store, "primary"), [Contact(copy, "copy") for copy in copies], clock)
    for entry in entries:
        assert {each.stamp(entry.keys[0]) for each in (store, *copies)} == {(entry.fence, 0)}


async def test_dual_keys_hold_the_same_document_under_the_same_pair(flusher: Flusher, store: FakeStore) -> None:
    await store.claim(["plain"], at_least=NOW_MS + 50_000)
    entry = flusher.register(("keyed", "plain"), Source())
    await asyncio.sleep(1)
    assert store.stamp("keyed") == store.stamp("plain") == (entry.fence, 1)
    assert store.document("keyed") == store.document("plain")


async def test_many_new_entries_are_claimed_in_batches(flusher: Flusher, store: FakeStore) -> None:
    register(flusher, 1000)
    await asyncio.sleep(1)
    assert [len(keys) for keys in store.claims] == [CHUNK, CHUNK]


async def test_entries_wait_unclaimed_while_the_primary_is_away(flusher: Flusher, store: FakeStore) -> None:
    store.away = True
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(5)
    assert entry.fence is None
    store.away = False
    await asyncio.sleep(2)
    assert store.stamp(entry.keys[0]) == (entry.fence, 1)


async def test_a_key_registered_again_goes_on_under_its_fence(flusher: Flusher, store: FakeStore) -> None:
    [old], _ = register(flusher, 1)
    await asyncio.sleep(1)
    new = flusher.register(old.keys, Source(account("8.00")))
    change(flusher, old, balance="666.00", urgent=True)
    await asyncio.sleep(1)
    assert store.document(new.keys[0])["balance"] == 8
    assert store.stamp(new.keys[0]) == (old.fence, 2)


# ---------------------------------------------------------------- copies


async def test_one_fence_is_claimed_in_all_stores_and_copies_get_what_was_accepted(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    await copy.claim(["ctrader_account_0"], at_least=NOW_MS + 3_600_000)
    entries, sources = register(pair, 3)
    await asyncio.sleep(1)
    for entry in entries:
        assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0]) == (entry.fence, 1)
        assert store.document(entry.keys[0]) == copy.document(entry.keys[0])
    [higher] = await store.claim([entries[2].keys[0]])
    change(pair, entries[2], balance="666.00", urgent=True)
    change(pair, entries[1], balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert sources[2].fenced_by == [higher]
    assert copy.document(entries[2].keys[0])["balance"] == 100, "what the primary refused never reaches a copy"
    assert copy.document(entries[1].keys[0])["balance"] == 5


async def test_a_record_that_the_primary_cannot_store_reaches_no_copy_and_fences_nobody(
    make_flusher: MakeFlusher, clock: LoopClock, copy: FakeStore
) -> None:
    class Choosy(FakeStore):
        async def write(self, writes: Sequence[Write]) -> list[Refusal]:
            bad = [write for write in writes if b'"balance":666' in write.document]
            refusals = await super().write([write for write in writes if write not in bad])
            return refusals + [Refusal(write.key, write.fence, write.version - 1) for write in bad]

    store = Choosy(clock)
    flusher = make_flusher(store, copy)
    await flusher.start()
    [poisoned, well], [source, _] = register(flusher, 2)
    await asyncio.sleep(1)
    change(flusher, poisoned, balance="666.00", urgent=True)
    change(flusher, well, balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert copy.document(poisoned.keys[0])["balance"] == 100
    assert copy.document(well.keys[0])["balance"] == 5
    assert source.fenced_by == []
    assert flusher.metrics()["unstorable"] == 1
    change(flusher, poisoned, balance="7.00", urgent=True)
    await asyncio.sleep(1)
    assert store.document(poisoned.keys[0])["balance"] == copy.document(poisoned.keys[0])["balance"] == 7


async def test_a_refusing_copy_is_counted_and_claimed_anew_and_fences_nobody(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    before = entry.fence
    assert before is not None
    [foreign] = await copy.claim(entry.keys, at_least=before + 7_200_000)
    change(pair, entry, balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert source.fenced_by == []
    assert pair.health()["copy"].refused >= 1
    assert entry.fence is not None
    assert entry.fence > foreign
    assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0])
    assert copy.document(entry.keys[0])["balance"] == 5


async def test_a_copy_refusing_after_a_takeover_lets_the_primary_decide(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    [higher] = await store.claim(entry.keys)
    await copy.claim(entry.keys, at_least=higher)
    change(pair, entry, urgent=True)
    await asyncio.sleep(1)
    assert source.fenced_by == [higher]
    assert store.stamp(entry.keys[0])[0] == higher


async def test_copies_are_written_while_the_primary_is_away(pair: Flusher, store: FakeStore, copy: FakeStore) -> None:
    [entry], _ = register(pair, 1)
    await asyncio.sleep(1)
    store.away = True
    change(pair, entry, balance="2.00", urgent=True)
    await asyncio.sleep(2)
    change(pair, entry, balance="3.00", urgent=True)
    late = pair.register(("ctrader_account_late",), Source())
    await asyncio.sleep(0.2)
    assert copy.document(entry.keys[0])["balance"] == 3
    assert late.fence is None
    assert copy.document(late.keys[0]) is None, "without the primary nothing is claimed"
    store.away = False
    await asyncio.sleep(2)
    assert store.document(entry.keys[0])["balance"] == 3
    assert store.document(late.keys[0]) == copy.document(late.keys[0])


async def test_a_live_record_is_renewed_in_the_copy_while_the_primary_is_away(
    pair: Flusher, store: FakeStore, copy: FakeStore, clock: LoopClock
) -> None:
    _, [source] = register(pair, 1)
    await asyncio.sleep(1)
    store.away = True
    change(pair, next(iter(pair._entries.values())), urgent=True)
    await asyncio.sleep(1)
    least = await least_freshness_left(pair, copy, clock, source, for_s=60, heard_every_s=5)
    assert least >= 2 * INTERVAL_S - 0.1


async def test_a_copy_that_was_away_gets_everything_on_its_return_and_holds_nobody_up(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    entries, _ = register(pair, 20)
    await asyncio.sleep(1)
    copy.hanging = True
    for n in range(50):
        change(pair, entries[n % 20], balance=f"{n}.00", urgent=True)
        await asyncio.sleep(0.1)
        assert store.document(entries[n % 20].keys[0])["balance"] == n
    assert pair.health()["copy"].state == "down"
    assert pair.health()["copy"].dirty == 20
    assert pair._copies[0].waiting == 0, "nothing is kept for a copy that is away"
    assert pair.health()["primary"].state == "up"
    copy.hanging = False
    copy.lose_everything()
    await asyncio.sleep(3)
    assert pair.health()["copy"].state == "up"
    for entry in entries:
        assert copy.document(entry.keys[0]) == store.document(entry.keys[0])


async def test_a_copy_that_was_away_at_the_claim_is_brought_level_on_its_return(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    copy.away = True
    await MemoryOf(copy).claim(["ctrader_account_0"], NOW_MS + 7_200_000)
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    assert entry.written
    copy.away = False
    await asyncio.sleep(3)
    assert source.fenced_by == []
    assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0])
    assert copy.document(entry.keys[0]) == store.document(entry.keys[0])


class MemoryOf:
    """Reaches into a store that does not answer."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store

    async def claim(self, keys: list[str], at_least: int) -> None:
        away, self.store.away = self.store.away, False
        await self.store.claim(keys, at_least=at_least)
        self.store.away = away


# ---------------------------------------------------------------- the fence of the session's owner, and its lease


async def test_a_record_is_claimed_not_below_the_fence_of_its_owner(flusher: Flusher, store: FakeStore) -> None:
    floor = NOW_MS + 5_000_000
    entry = flusher.register(("ctrader_account_0",), Source(account()), fence=floor)
    await asyncio.sleep(0.5)
    assert entry.fence == floor
    assert store.stamp(entry.keys[0]) == (floor, 1)


async def test_a_key_is_claimed_anew_when_its_session_came_back_under_a_higher_fence(
    flusher: Flusher, store: FakeStore
) -> None:
    [first], _ = register(flusher, 1)
    await asyncio.sleep(0.5)
    assert first.fence is not None
    same = flusher.register(first.keys, Source(account()), fence=first.fence)
    assert (same.fence, same.version) == (first.fence, first.version)
    higher = flusher.register(first.keys, Source(account()), fence=first.fence + 10_000)
    assert higher.fence is None
    await asyncio.sleep(0.5)
    assert higher.fence == first.fence + 10_000
    assert store.stamp(first.keys[0]) == (higher.fence, 1)


async def test_nothing_more_is_written_for_a_session_that_is_anothers(flusher: Flusher, store: FakeStore) -> None:
    entries, sources = register(flusher, 2)
    await asyncio.sleep(0.5)
    before = store.stamp(entries[0].keys[0])
    change(flusher, entries[0], urgent=True)
    flusher.forget(entries[0])
    flusher.forget(entries[0])
    change(flusher, entries[0], urgent=True)
    change(flusher, entries[1], urgent=True)
    await asyncio.sleep(10)
    assert store.stamp(entries[0].keys[0]) == before
    assert store.stamp(entries[1].keys[0]) > before
    assert sources[0].fenced_by == []
    again = flusher.register(entries[0].keys, Source(account()))
    await asyncio.sleep(0.5)
    assert again.fence is not None
    assert again.fence > before[0]


async def test_process_that_may_not_write_writes_and_claims_nothing_until_it_may(
    make_flusher: MakeFlusher, store: FakeStore, copy: FakeStore
) -> None:
    allowed = [True]
    flusher = make_flusher(store, copy, allowed=lambda: allowed[0])
    await flusher.start()
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(1)
    before = store.stamp(entry.keys[0])
    allowed[0] = False
    await asyncio.sleep(0.2)
    writes = (len(store.flushes), len(store.claims), len(copy.flushes))
    change(flusher, entry, balance="8.00", urgent=True)
    late = flusher.register(("ctrader_account_late",), Source(account()))
    await asyncio.sleep(60)
    assert (len(store.flushes), len(store.claims), len(copy.flushes)) == writes
    assert (store.stamp(entry.keys[0]), late.fence) == (before, None)
    assert flusher.alive_at > 0
    allowed[0] = True
    await asyncio.sleep(1)
    assert store.document(entry.keys[0])["balance"] == 8
    assert copy.document(entry.keys[0])["balance"] == 8
    assert late.fence is not None


async def test_permission_that_ends_during_a_claim_ends_before_the_write(
    make_flusher: MakeFlusher, store: FakeStore
) -> None:
    """As for a process that was frozen in between."""
    allowed = [True]
    flusher = make_flusher(store, allowed=lambda: allowed[0])
    await flusher.start()
    store.delay_s = 0.3
    [entry], _ = register(flusher, 1)
    while not (store.pings and store.attempts > store.pings):  # the claim is under way
        await asyncio.sleep(0.01)
    allowed[0] = False
    await asyncio.sleep(5)
    assert (len(store.claims), store.flushes) == (1, [])
    allowed[0] = True
    await asyncio.sleep(3)
    assert store.stamp(entry.keys[0])[0] == entry.fence


async def test_copy_gets_nothing_while_the_process_may_not_write(
    make_flusher: MakeFlusher, store: FakeStore, copy: FakeStore
) -> None:
    allowed = [True]
    flusher = make_flusher(store, copy, allowed=lambda: allowed[0])
    await flusher.start()
    entries, _ = register(flusher, 3)
    await asyncio.sleep(1)
    copy.delay_s = 0.5
    change(flusher, entries[0], balance="1.00", urgent=True)
    while not copy.at_once:
        await asyncio.sleep(0.01)
    change(flusher, entries[1], balance="2.00", urgent=True)  # waits for the chunk in flight at the copy
    await asyncio.sleep(0.2)
    allowed[0] = False
    await asyncio.sleep(30)
    assert copy.document(entries[1].keys[0])["balance"] != 2
    assert store.document(entries[1].keys[0])["balance"] == 2
    allowed[0] = True
    await asyncio.sleep(5)
    assert copy.document(entries[1].keys[0])["balance"] == 2
