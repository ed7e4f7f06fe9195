"""Files the simulator writes: credentials and certificates."""

import datetime as dt
from pathlib import Path

import orjson
from cryptography import x509

from bridge.simulator.certificates import BAD_KINDS, make_certificates
from bridge.simulator.credentials_file import write_credentials

NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def test_the_credentials_file_is_private_and_whole_when_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "credentials.json"
    for user in ("old", "new"):
        write_credentials(path, {user: {"ctrader": {"accessToken": "a", "environment": "demo"}}})
    assert orjson.loads(path.read_bytes()) == {
        "users": {"new": {"ctrader": {"accessToken": "a", "environment": "demo"}}}
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_leaf_names_the_loopback_and_keys_are_private_when_made(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, NOW)
    leaf = x509.load_pem_x509_certificates((tmp_path / "good.pem").read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert leaf.not_valid_after_utc > NOW
    assert set(made.contexts) == {"good", *BAD_KINDS}
    assert all((tmp_path / f"{kind}.pem").stat().st_mode & 0o777 == 0o600 for kind in made.contexts)
    assert b"PRIVATE" not in made.ca_path.read_bytes()


def test_certificates_can_be_made_again_when_the_folder_is_used_twice(tmp_path: Path) -> None:
    first = make_certificates(tmp_path, NOW).ca_path.read_bytes()
    assert make_certificates(tmp_path, NOW).ca_path.read_bytes() != first
