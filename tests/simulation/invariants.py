"""The invariants of faults.md §3: small functions, each with its number, that take the world and say what is broken.

`at_…` are asked when something happens, `EVERY_STEP` after every step, `IN_THE_END` when all is calm and everything had
its time. 5 to 8 are about orders, which this code base does not send yet; they come with what sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.cache.record import HORIZON_AT_RISK_MS, HORIZON_EMPTY_MS, is_fresh
from bridge.cache.store import Write
from bridge.sessions.session import Session
from bridge.sessions.states import ENDED_STATES, LOGIN_STATES, TIMED_STATES, State
from bridge.telemetry.audit import Action
from tests.simulation.ledger import cut_of
from tests.simulation.logins import stops_take_hold, unserved
from tests.support.canaries import SIMULATOR

if TYPE_CHECKING:
    from bridge.sessions.desired import StoredSession
    from tests.simulation.processes import BridgeProcess
    from tests.simulation.world import World

ABOUT_ORDERS = {
    5: "at most once: orders are not sent yet",
    6: "exactly one end: orders are not sent yet",
    7: "no lost accept: orders are not accepted yet (of starts and stops it is 16)",
    8: "no aged send: orders are not sent yet",
}
SLACK_S = 0.6  # latency of a line both ways, and the skew of two wall clocks
TORN_S = {"ctrader": 2.0, "alpaca": 12.0}  # from one event of a change to the last; Alpaca's come in two places
WELL_S = 15.0
AWAKE_S = 1.0  # for a process that was frozen to find out
TASKS_AT_MOST = 40
TASKS_PER_SESSION = 8
ENTRY_KINDS = ("positions", "orders")


# ------------------------------------------------------------ at every write


def at_write(world: World, store: str, write: Write, writer: BridgeProcess | None) -> None:
    """Everything that must hold of one accepted write."""
    document = world.watcher.parsed(write.document)
    single_writer(world, store, write, writer)
    no_resurrection(world, store, write)
    isolation(world, write.key, document)
    secrets_in_records(world, write)
    horizon(world, write.key, document)
    ownership_is_audited(world, write, document, writer)
    if is_fresh(document["status"], document["staleAfter"], world.clock.now_ms()):
        freshness(world, write.key, write.fence, document)
        no_invention(world, store, write.key, document, written=True)


def single_writer(world: World, store: str, write: Write, writer: BridgeProcess | None) -> None:
    """3: `(fence, version)` grows with every accepted write, and each fence has one writer."""
    last = world.watcher.accepted.get((store, write.key), (0, 0))
    if (write.fence, write.version) <= last:
        world.report(3, f"{store} accepted {(write.fence, write.version)} of {write.key} after {last}")
    known = world.watcher.writers.get((write.key, write.fence))
    if known is not None and writer is not None and known is not writer:
        world.report(3, f"{known.name} and {writer.name} write {write.key} under {write.fence}")


def no_resurrection(world: World, store: str, write: Write) -> None:
    """4: nothing is accepted under a fence below one that was ever granted. Where a store has lost its fences and they
    are nowhere else, it is counted, not hidden."""
    granted = world.watcher.granted.get((store, write.key), 0)
    row = world.row_of(write.key)
    if store == "postgres" and row is not None and row.owner is not None:
        granted = max(granted, row.fence)
    if write.fence < granted:
        world.report(4, f"{store} accepted {write.key} under {write.fence}, and {granted} was granted")


def isolation(world: World, key: str, document: Any) -> None:
    """11: what stands under a user's key is an account of that user, and so is all that is in it."""
    user, broker = world.whose(key)
    account_id = document["accountId"]
    if document["broker"] != broker or (account_id is not None and world.owner_of(broker, account_id) != user):
        world.report(11, f"{key} of {user} holds {document['broker']} account {account_id}")


def secrets_in_records(world: World, write: Write) -> None:
    """14: no secret in a record."""
    for secret in SIMULATOR:
        if secret.encode() in write.document:
            world.report(14, f"{secret} in the record {write.key}")


def horizon(world: World, key: str, document: Any) -> None:
    """1: a record never claims to be fresh for longer than its account allows."""
    as_of, stale_after = document["asOf"], document["staleAfter"]
    if as_of is None or stale_after is None:
        return
    allowed = HORIZON_AT_RISK_MS if holds_something(document) else HORIZON_EMPTY_MS
    if stale_after > as_of + allowed:
        world.report(1, f"{key} is fresh for {stale_after - as_of} ms")
    if as_of > world.clock.now_ms() + world.knobs.wall_skew_ms + 1:
        world.report(1, f"{key} is of the future: {as_of}")


def ownership_is_audited(world: World, write: Write, document: Any, writer: BridgeProcess | None) -> None:
    """20: whoever writes a live record has said before that it took the session up."""
    row = world.row_of(write.key)
    if document["status"] != "live" or writer is None or row is None:
        return
    taken = (Action.RESUME, Action.START)
    if not any(
        name == writer.name and action in taken and user_key == row.user_key
        for _, name, action, user_key, _, _ in world.audit
    ):
        world.report(20, f"{writer.name} serves {write.key} and its audit trail does not say so")


# ------------------------------------------------------------ whenever


def at_claim(world: World, row: StoredSession, before: int) -> None:
    """3: the fence of a session grows with every change of owner."""
    if row.fence <= before:
        world.report(3, f"{row.identity} has another owner under {row.fence}, after {before}")


def at_reading(world: World, process: BridgeProcess, key: str, last: tuple[int, int], stamp: tuple[int, int]) -> None:
    """19: readers never see a version go back within a fence."""
    if stamp[0] == last[0] and stamp[1] < last[1]:
        world.report(19, f"a reader at {process.name} saw {stamp} of {key} after {last}")


def at_refresh(world: World, token: str, times: int) -> None:
    """17: a refresh token is sent once, and once more at most when nobody knows what became of it."""
    if times > 2:
        world.report(17, f"a refresh token of user {token.split('-')[2]} was sent {times} times")


# ------------------------------------------------------------ after every step


def freshness(world: World, key: str, fence: int, document: Any) -> None:
    """1: what looks fresh was confirmed by the broker within its horizon."""
    writer = world.watcher.writers.get((key, fence)) or world.watcher.writer
    line = writer.lines.get(document["broker"]) if writer is not None else None
    if line is None:
        return
    allowed_s = (HORIZON_AT_RISK_MS if holds_something(document) else HORIZON_EMPTY_MS) / 1000
    age_s = world.loop.time() - line.heard_at
    if age_s > allowed_s + SLACK_S:
        world.report(1, f"{key} looks fresh and its process last heard the broker {age_s:.1f} s ago")


def no_invention(world: World, store: str, key: str, document: Any, *, written: bool) -> None:
    """2: a fresh record is one cut of the broker's ledger, and not an old one."""
    broker, account_id = document["broker"], document["accountId"]
    now = world.loop.time()
    allowed_s = (HORIZON_AT_RISK_MS if holds_something(document) else HORIZON_EMPTY_MS) / 1000
    if world.is_tainted(broker):
        world.watcher.torn_since.pop((store, key), None)
        return
    shown = world.ledgers.shown_since(broker, account_id, cut_of(document, now))
    if shown is None:
        if not written:
            return  # written in between two events; judged by what is written next
        since = world.watcher.torn_since.setdefault((store, key), now)
        world.sometimes("written between two events")
        if now - since > TORN_S[broker]:
            shown_now, truth = cut_of(document, now), cut_of(world.ledgers.truth(broker, account_id), now)
            world.report(2, f"{key} shows what the account never held: {shown_now}, not {truth}")
        return
    if written:
        world.watcher.torn_since.pop((store, key), None)
    if now - shown > allowed_s + SLACK_S:
        world.report(2, f"{key} looks fresh and is {now - shown:.1f} s behind: {_content(document)}")


def visible_records(world: World) -> None:
    """1 and 2, of everything that a reader could find now."""
    now_ms = world.clock.now_ms()
    for name, store in world.stores.items():
        for key, raw in store.documents().items():
            document = world.watcher.parsed(raw)
            if is_fresh(document["status"], document["staleAfter"], now_ms):
                freshness(world, key, document["fence"], document)
                no_invention(world, name, key, document, written=False)


def one_owner(world: World) -> None:
    """3: nobody is logged in with a session that another process owns, but for one that is frozen."""
    now = world.loop.time()
    for process in world.alive:
        if process.frozen or now - process.thawed_at < AWAKE_S:
            continue
        for session in process.service._table:
            if session.state is not State.LIVE:
                continue
            row = world.stored((session.user_keys.canonical, session.broker, session.account_id or ""))
            other = None if row is None else world.process_named(row.owner)
            if other is not None and other is not process:
                world.report(3, f"{process.name} serves {session.keys[0]}, and {other.name} owns it")


def bounded(world: World) -> None:
    """12: tasks and what is kept follow the number of sessions."""
    for process in world.alive:
        sessions = len(process.service._table)
        tasks = sum(not task.done() for task in process.tasks)
        if tasks > TASKS_AT_MOST + TASKS_PER_SESSION * sessions:
            world.report(12, f"{process.name} has {tasks} tasks for {sessions} sessions")
        entries = process.flusher.metrics()["entries"]
        if entries > sessions + 4:
            world.report(12, f"{process.name} keeps {entries} records for {sessions} sessions")


def progress(world: World) -> None:
    """13: where nothing is wrong, what is live looks live, whatever is wrong elsewhere."""
    now_ms, now = world.clock.now_ms(), world.loop.time()
    primary = world.stores[world.knobs.layout.split("+")[0]].documents()
    for process in world.alive:
        for session in process.service._table:
            if session.state is not State.LIVE or session.live_since is None or not session.keys:
                continue
            if min(now - session.live_since, world.well_for_s(process, session.broker)) < WELL_S:
                continue
            document = world.watcher.parsed(primary.get(session.keys[0], b"null"))
            if document is None or not is_fresh(document["status"], document["staleAfter"], now_ms):
                world.report(13, f"{process.name} serves {session.keys[0]} and nobody can tell: {document}")


def commands_hold(world: World) -> None:
    """16: what is stored is what was accepted last."""
    for row, wanted in sorted(world.commands.wanted.items()):
        where = (row[0], row[1])
        if where in world.commands.busy or where in world.loose or len(wanted) > 1:
            continue
        stored = world.stored(row)
        if stored is not None and stored.wanted not in wanted:
            world.report(16, f"{row} is {'wanted' if stored.wanted else 'not wanted'}, against the last command")
        if stored is None and wanted == {True}:
            world.report(16, f"{row} was accepted and is not stored")


def explainable(world: World) -> None:
    """18: a session that is not live says why and since when, and something leads on from there."""
    for process in world.alive:
        if process.frozen or process.draining:
            continue
        for session in process.service._table:
            if session.state is State.LIVE or session.state in ENDED_STATES:
                continue
            if session.reason is None or session.since_ms <= 0:
                world.report(18, f"{process.name}: {session.keys} is {session.state.value} without a reason")
            elif not _leads_on(process, session):
                world.report(18, f"{process.name}: {session.keys} is {session.state.value} and waits for nothing")


def _leads_on(process: BridgeProcess, session: Session) -> bool:
    """A timer, a task, a place in a queue, or somebody who must act."""
    machine = process.service._supervisor.machine
    if session.state in (State.ACTION_REQUIRED, State.SUSPENDED):
        return True
    if session.state in LOGIN_STATES:
        return session.task is not None
    if session.state in TIMED_STATES:
        return session.next_attempt_at_ms is not None
    return machine.logins.waits(session.lane, session) or session.task is not None or session.state is State.REFRESHING


def budgets(world: World) -> None:
    """10: neither broker ever saw too many requests, nor one account logged in twice on a connection."""
    ctrader, alpaca = world.brokers.ctrader.counters, world.brokers.alpaca.counters
    if ctrader.budget_violations and not world.half_open:  # what a silent line held back arrives in a lump
        world.report(10, f"{ctrader.budget_violations} requests beyond the budget of a channel")
    if alpaca.budget_violations:
        world.report(10, f"{alpaca.budget_violations} requests beyond the budget of an account")
    # a login that failed half-way is tried again on its connection: by a fault, or since who read for it was stopped
    if ctrader.double_logins and not (world.rough or world.seen["audit: stop"]):
        world.report(10, f"{ctrader.double_logins} logins of accounts that were logged in on that connection")
    if ctrader.parallel_logins and not world.half_open:
        world.report(3, f"{ctrader.parallel_logins} accounts were logged in on two connections")


def secrets_in_logs(world: World) -> None:
    """14: no secret in a log line."""
    for line in world.take_log():
        for secret in SIMULATOR:
            if secret in line:
                world.report(14, f"{secret} in a log line")


EVERY_STEP = (
    visible_records,
    one_owner,
    bounded,
    progress,
    commands_hold,
    explainable,
    budgets,
    secrets_in_logs,
    stops_take_hold,
)


# ------------------------------------------------------------ in the end


def unsettled(world: World) -> list[tuple[int, str]]:
    """9, 15, 17: what is not yet as it must be in the end; empty when everything has come to rest."""
    found: list[tuple[int, str]] = []
    for row in world.desired.rows():
        found += _running(world, row) if row.wanted else _ended(world, row)
    found += [(15, f"{login} is logged in, and no live session serves it") for login in unserved(world)]
    for process in world.alive:
        if process.standing.lease is None or not process.standing.may_act():
            found.append((9, f"{process.name} has no lease"))
    return found


def _running(world: World, row: StoredSession) -> list[tuple[int, str]]:
    """9: a wanted session is live at its owner, and every copy of its record equals the ledger."""
    owner = world.process_named(row.owner)
    if owner is None:
        return [(9, f"{row.identity} is served by nobody")]
    session = owner.service._table.find(row.user_key, row.broker, row.account_id)
    if session is None:
        return [(9, f"{row.identity} is unknown to its owner {owner.name}")]
    if session.state is not State.LIVE:
        if session.state is State.ACTION_REQUIRED and world.consent_is_lost(row):
            world.sometimes("consent lost")
            return []
        evidence = [each.code for each in session.evidence]
        return [(9, f"{row.identity} is {session.state.value} at {owner.name}: {session.reason} {evidence}")]
    return [(9, f"{row.identity}: {text}") for text in world.record_differs(row, session.keys)]


def _ended(world: World, row: StoredSession) -> list[tuple[int, str]]:
    """15: a stopped session has no owner, no login and no live record."""
    found: list[tuple[int, str]] = []
    if row.owner is not None:
        found.append((15, f"{row.identity} is stopped and owned by {row.owner}"))
    for process in world.alive:
        session = process.service._table.find(row.user_key, row.broker, row.account_id)
        if session is not None and session.state not in ENDED_STATES:
            found.append((15, f"{row.identity} is stopped, and {session.state.value} at {process.name}"))
    for key in world.keys_of(row):
        for number, store in enumerate(world.layout_stores()):
            document = world.watcher.parsed(store.documents().get(key, b"null"))
            if document is None or document["status"] == "stopped":
                continue
            # a copy that was away while its writer ended keeps an older one: not fresh, so readers look further
            if number == 0 or is_fresh(document["status"], document["staleAfter"], world.clock.now_ms()):
                found.append((15, f"{row.identity} is stopped, and {store.name} says {document['status']}"))
    return found


def tokens(world: World) -> None:
    """17: what is stored is the newest pair, or its user is asked."""
    for row in world.desired.rows():
        if row.wanted and row.broker == "ctrader" and world.consent_is_lost(row):
            owner = world.process_named(row.owner)
            session = None if owner is None else owner.service._table.find(row.user_key, row.broker, row.account_id)
            if session is None or session.state is not State.ACTION_REQUIRED:
                state = None if session is None else session.state.value
                world.report(17, f"{row.identity}: the stored pair is not the newest, and the session is {state}")


def refreshes_are_audited(world: World) -> None:
    """20: every new pair has its line in the audit trail of whoever stored it, unless that died there and then."""
    for process, user_key, at in world.pairs:
        if process.dead:
            continue
        if not any(
            name == process.name and action is Action.REFRESH and key == user_key and when >= at
            for when, name, action, key, _, _ in world.audit
        ):
            world.report(20, f"{process.name} stored a new pair, and its audit trail does not say so")


IN_THE_END = (tokens, refreshes_are_audited)


# ------------------------------------------------------------ small things


def holds_something(document: Any) -> bool:
    return any(document[kind] for kind in ENTRY_KINDS)


def _content(document: Any) -> Any:
    return {kind: [(row["id"], row["units"]) for row in document[kind] or ()] for kind in ENTRY_KINDS}
