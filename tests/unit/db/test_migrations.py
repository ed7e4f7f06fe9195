"""Which migrations are missing, and when code and database do not belong together: decided without a database."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.db.export import export, file_name, file_text
from bridge.db.migrate import Applied, Migration, migrations, pending
from core.errors import ConfigurationError


def release(count: int, oldest: int = 1) -> list[Migration]:
    """The migrations of a release; `oldest` is what the last one says."""
    made = [Migration(number, f"m{number}", f"select {number};", 1) for number in range(1, count)]
    return [*made, Migration(count, f"m{count}", f"select {count};", oldest)] if count else []


def applied(found: list[Migration]) -> list[Applied]:
    return [Applied(each.version, each.name, each.checksum, each.oldest) for each in found]


@given(st.integers(0, 8), st.integers(0, 8))
def test_the_rest_is_missing_when_the_database_has_a_beginning(code: int, there: int) -> None:
    missing = pending(release(code), applied(release(there))) if there <= code else None
    if missing is not None:
        assert missing == release(code)[there:]


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 16))
def test_a_newer_database_is_used_exactly_when_it_still_admits_this_version(code: int, more: int, oldest: int) -> None:
    there = code + more
    oldest = min(oldest, there)
    if oldest <= code:
        assert pending(release(code), applied(release(there, oldest))) == []
    else:
        with pytest.raises(ConfigurationError, match=f"too old for this database: it has schema {there}"):
            pending(release(code), applied(release(there, oldest)))


def test_an_applied_file_is_refused_when_it_was_changed() -> None:
    there = applied(release(3))
    there[1] = Applied(2, "m2", "0" * 64, 1)
    with pytest.raises(ConfigurationError, match="0002_m2"):
        pending(release(3), there)


@given(st.sets(st.integers(1, 9)))
def test_a_gap_is_refused_wherever_it_is(versions: set[int]) -> None:
    known = release(9)
    there = applied([each for each in known if each.version in versions])
    if versions == set(range(1, len(versions) + 1)):
        assert len(pending(known, there)) == 9 - len(versions)
    else:
        with pytest.raises(ConfigurationError, match="lacks"):
            pending(known, there)


def test_the_files_have_numbers_without_gaps_and_say_what_works_with_them() -> None:
    found = migrations()
    assert [each.version for each in found] == list(range(1, len(found) + 1))
    for each in found:
        assert 1 <= each.oldest <= each.version
        assert not re.search(r"^\s*(begin|commit|rollback)\s*;", each.sql, re.IGNORECASE | re.MULTILINE), each
        assert not re.search(r"if not exists", re.sub(r"if not exists \(", "", each.sql), re.IGNORECASE), each
        assert "concurrently" not in each.sql.lower(), each


def test_exported_names_are_stable_sorted_and_what_supabase_takes() -> None:
    names = [file_name(Migration(number, "base", "", 1)) for number in (1, 2, 59, 60, 61, 3600)]
    assert names == sorted(names)
    assert names[0] == "20250101000001_pulse_bridge_base.sql"
    assert all(re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", name) for name in names)
    assert len(set(names)) == len(names)


def test_exporting_again_writes_the_same_files(tmp_path: Path) -> None:
    first = export(tmp_path / "supabase" / "migrations")
    texts = [Path(path).read_text() for path in first]
    assert export(tmp_path / "supabase" / "migrations") == first
    assert [Path(path).read_text() for path in first] == texts
    assert [Path(path).name for path in first] == [file_name(each) for each in migrations()]
    assert all(each.sql in text for each, text in zip(migrations(), texts, strict=True))


def test_a_file_that_cannot_be_quoted_or_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="0001_m"):
        file_text(Migration(1, "m", "select $pulse_bridge$x$pulse_bridge$", 1))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--export"):
        export(tmp_path / "file")
