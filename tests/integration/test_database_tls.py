"""TLS to Postgres as the address asks for it (`sslmode`), ended by a pooler as providers do."""

import datetime as dt
from pathlib import Path

import pytest

from bridge.db.database import DatabaseUnavailable
from bridge.db.errors import DatabaseRefusesUs
from bridge.db.startup import prepare_database
from bridge.runtime.clock import SystemClock
from bridge.simulator.certificates import Certificates, make_certificates
from core.errors import ConfigurationError
from tests.support.databases import opened
from tests.support.pooler import pooler


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(Path(tmp_path_factory.mktemp("tls")), dt.datetime.now(dt.UTC))


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
async def test_statements_are_answered_over_tls(database_url: str, certificates: Certificates, mode: str) -> None:
    ca = f"&sslrootcert={certificates.ca_path}" if mode.startswith("verify") else ""
    async with pooler(database_url, tls=certificates.contexts["good"]) as between:
        async with opened(between.url(f"?sslmode={mode}{ca}")) as database:
            assert await database.fetch_value("select 1") == 1
        assert between.tls_clients > 0


@pytest.mark.parametrize(
    ("kind", "mode", "reason"),
    [
        ("unknown_ca", "verify-ca", "certificate was not accepted"),
        ("expired", "verify-full", "certificate was not accepted: certificate has expired"),
        ("wrong_host", "verify-full", "certificate was not accepted: IP address mismatch"),
    ],
)
async def test_a_certificate_is_refused_in_one_clear_line(
    database_url: str, certificates: Certificates, kind: str, mode: str, reason: str
) -> None:
    async with pooler(database_url, tls=certificates.contexts[kind]) as between:
        url = between.url(f"?sslmode={mode}&sslrootcert={certificates.ca_path}")
        async with opened(url) as database:
            with pytest.raises(DatabaseRefusesUs, match=reason):
                await database.fetch_value("select 1")
            with pytest.raises(ConfigurationError, match=f"^DATABASE_URL: .*{reason}"):
                await prepare_database(database, SystemClock())


async def test_no_statement_is_sent_in_the_clear_when_tls_is_required(database_url: str) -> None:
    async with pooler(database_url) as between, opened(between.url("?sslmode=require")) as database:
        with pytest.raises(DatabaseUnavailable, match="does not speak TLS"):
            await database.fetch_value("select 1")
        assert between.lent == 0
