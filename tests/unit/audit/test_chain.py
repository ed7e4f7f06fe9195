"""The chain finds what was done to it; entries are fit for every database."""

import base64
import random
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.audit.chain import ChainBroken, ChainRow, Entry, Head, Sealer, Verifier, hash_of, link
from bridge.audit.entries import LONGEST_VALUE, make_entry
from bridge.config_values import TokenKey
from bridge.telemetry.redaction import REDACTOR, Redactor
from core.secret import Secret

KEY = TokenKey("k1", Secret(base64.b64encode(b"1" * 32).decode()))
OTHER = TokenKey("k2", Secret(base64.b64encode(b"2" * 32).decode()))
SEALER = Sealer([KEY])


def entries(count: int) -> list[Entry]:
    rng = random.Random(7)
    return [make_entry(rng, 1_732_341_600_000 + n, "start", "user", "ok", {"n": n}) for n in range(count)]


def chain(count: int = 6, sealer: Sealer = SEALER) -> list[ChainRow]:
    return link(Head(), entries(count), sealer)


def verify(
    rows: list[ChainRow], head: Head, sealer: Sealer = SEALER, start: Head | None = None, expected: Head | None = None
) -> Verifier:
    verifier = Verifier(sealer, start=start, expected=[] if expected is None else [expected])
    for row in rows:
        verifier.take(row)
    verifier.end(head)
    return verifier


def broken_at(rows: list[ChainRow], head: Head, sealer: Sealer = SEALER) -> int:
    with pytest.raises(ChainBroken) as broken:
        verify(rows, head, sealer)
    return broken.value.seq


def test_an_untouched_chain_is_whole() -> None:
    rows = chain()
    done = verify(rows, rows[-1].head)
    assert (done.rows, done.sealed, done.unsealed, done.head) == (6, 6, 0, rows[-1].head)
    assert verify([], Head()).rows == 0


@pytest.mark.parametrize(
    "change",
    [
        {"id": "0" * 8 + "-0000-4000-8000-" + "0" * 12},
        {"at_us": 1},
        {"actor": "bridge"},
        {"action": "stop"},
        {"subject": "x"},
        {"outcome": "no"},
        {"detail": '{"n": 3}'},
        {"request_id": "r"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edit_of_any_column_is_found_at_its_row(change: dict[str, object]) -> None:
    rows = chain()
    rows[3] = replace(rows[3], entry=replace(rows[3].entry, **change))
    assert broken_at(rows, rows[-1].head) == 4


def test_a_removed_added_swapped_or_cut_row_is_found() -> None:
    rows = chain()
    head = rows[-1].head
    assert broken_at(rows[:2] + rows[3:], head) == 3
    assert broken_at(rows[1:], head) == 1
    assert broken_at(rows[:-1], head) == 6
    assert broken_at([], head) == 1
    swapped = [*rows[:2], replace(rows[3], seq=3), replace(rows[2], seq=4), *rows[4:]]
    assert broken_at(swapped, head) == 3
    assert broken_at([*rows[:3], rows[2], *rows[3:]], head) == 4
    assert broken_at(rows, rows[4].head) == 6, "a row behind the head"


def test_a_chain_that_was_computed_anew_is_found_by_its_seals_only_with_the_key() -> None:
    rows = chain()
    forged = [*rows[:2], *link(rows[1].head, [replace(row.entry, outcome="ok!") for row in rows[2:]], Sealer())]
    assert broken_at(forged, forged[-1].head) == 3  # no seals
    theirs = [*rows[:2], *link(rows[1].head, [row.entry for row in rows[2:]], Sealer([replace(OTHER, id="k1")]))]
    assert broken_at(theirs, theirs[-1].head) == 3
    resealed = [replace(row, seal=row.hash) for row in rows]
    assert broken_at(resealed, rows[-1].head) == 1
    assert verify(forged[:2], forged[1].head).rows == 2
    all_new = link(Head(), [replace(row.entry, outcome="ok!") for row in rows], Sealer())
    assert verify(all_new, all_new[-1].head, Sealer()).unsealed == 6, "nothing to tell it by"
    with pytest.raises(ChainBroken, match="another hash"):
        verify(all_new, all_new[-1].head, Sealer(), expected=rows[3].head)


def test_a_cut_end_whose_head_was_cut_too_is_found_by_a_head_kept_elsewhere() -> None:
    rows = chain()
    verify(rows[:4], rows[3].head)
    with pytest.raises(ChainBroken) as broken:
        verify(rows[:4], rows[3].head, expected=rows[5].head)
    assert broken.value.seq == 5


def test_old_rows_may_be_gone_when_their_last_is_known() -> None:
    rows = chain()
    assert verify(rows[3:], rows[-1].head, start=rows[2].head).rows == 3
    with pytest.raises(ChainBroken):
        verify(rows[3:], rows[-1].head, start=Head(3, bytes(32)))


def test_rows_of_a_key_that_was_retired_are_counted() -> None:
    rows = chain()
    done = verify(rows, rows[-1].head, Sealer([OTHER]))
    assert (done.sealed, done.unknown_key) == (0, 6)
    rotated = [*rows, *link(rows[-1].head, entries(2), Sealer([OTHER, KEY]))]
    assert verify(rotated, rotated[-1].head, Sealer([OTHER, KEY])).sealed == 8
    first_without = [*(plain := chain(2, Sealer())), *link(plain[-1].head, entries(2), SEALER)]
    assert verify(first_without, first_without[-1].head).unsealed == 2


def test_a_row_under_a_key_that_nobody_has_is_found_when_rows_before_it_could_be_checked() -> None:
    """Whoever may insert rows can make up a key with its id."""
    rows = chain()
    for made_up in ("zzz", "k2"):
        forged = [*rows, *link(rows[-1].head, entries(1), Sealer([replace(OTHER, id=made_up)]))]
        assert broken_at(forged, forged[-1].head) == 7
        followed = [*forged, *link(forged[-1].head, entries(1), SEALER)]
        assert broken_at(followed, followed[-1].head) == 7


def test_a_retired_key_may_seal_while_it_is_rotated_out_and_not_later() -> None:
    """Processes of before and after seal side by side during a deploy; later the old key is taken away."""
    day_us = 24 * 3600 * 1_000_000
    rows, made = chain(), entries(4)
    keys = [OTHER, KEY, OTHER, OTHER]
    for entry, key in zip(made, keys, strict=True):
        rows += link(rows[-1].head, [entry], Sealer([key]))
    done = verify(rows, rows[-1].head, Sealer([OTHER]))
    assert (done.sealed, done.unknown_key) == (3, 7)
    rows += link(rows[-1].head, [replace(made[0], at_us=made[0].at_us + day_us + 1)], Sealer([OTHER]))
    verify(rows, rows[-1].head, Sealer([OTHER]))
    rows += link(rows[-1].head, [made[1]], Sealer([replace(OTHER, id="k1")]))  # of a time long ago, it says
    assert broken_at(rows, rows[-1].head, Sealer([OTHER])) == len(rows)


columns = st.tuples(st.integers(1, 10), st.binary(min_size=32, max_size=32)).flatmap(
    lambda place: st.builds(
        lambda *rest: (*place, Entry(*rest)),
        st.uuids().map(str),
        st.integers(0, 2**50),
        *[st.text(max_size=6).filter(lambda text: text.isprintable())] * 2,
        st.none() | st.uuids().map(str),
        st.text(max_size=6).filter(lambda text: text.isprintable()),
        st.just("{}"),
        st.none() | st.text("ab", max_size=3),
    )
)


@given(columns, columns)
def test_different_rows_have_different_hashes(one: tuple[int, bytes, Entry], other: tuple[int, bytes, Entry]) -> None:
    assert (hash_of(*one) == hash_of(*other)) is (one == other)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()))
def test_an_entry_comes_out_whatever_is_handed_in(actor: str, outcome: str, detail: dict[str, object]) -> None:
    entry = make_entry(random.Random(1), 5, "start", actor, outcome, detail)  # type: ignore[arg-type]
    assert isinstance(orjson.loads(entry.detail), dict)
    for text in (entry.actor, entry.outcome, entry.detail):
        assert "\0" not in text
        text.encode()
    hash_of(1, bytes(32), entry)


def test_an_entry_holds_no_secret_and_no_long_text() -> None:
    REDACTOR.register(Secret("canary-in-the-audit"))
    strange: dict[str, object] = {"a": "x canary-in-the-audit y", "b": "z" * 5000, "c": [1], "d": 2**80, "e": 1.5}
    entry = make_entry(random.Random(1), 5, "start", "user", "a\nb\x1b[0m", strange)  # type: ignore[arg-type]
    detail = orjson.loads(entry.detail)
    assert "canary" not in entry.detail
    assert len(detail["b"]) == LONGEST_VALUE
    assert (detail["c"], detail["d"], detail["e"]) == ("list", "a large number", "float")
    assert entry.outcome == "a?b?[0m"


def test_what_was_done_is_told_although_a_caller_presented_that_word_as_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redactor = Redactor()
    redactor.register_lasting(Secret("disconnect"), Secret("action_required"), Secret("key:frontend"))
    monkeypatch.setattr("bridge.audit.entries.REDACTOR", redactor)
    entry = make_entry(random.Random(1), 5, "disconnect", "key:frontend", "action_required", {})
    assert (entry.action, entry.actor, entry.outcome) == ("disconnect", "key:frontend", "action_required")


def test_a_request_id_has_a_column_of_its_own_and_lost_entries_are_told() -> None:
    entry = make_entry(random.Random(1), 5, "start", "user", "ok", {"request_id": "r-1", "broker": "b"}, dropped=3)
    assert (entry.request_id, entry.detail) == ("r-1", '{"broker":"b","dropped_before":3}')
