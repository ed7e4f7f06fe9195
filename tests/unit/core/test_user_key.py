"""User keys: what existing readers compute, keyed and dual modes, and which ids are refused."""

import hashlib
import hmac

import pytest

from core.errors import ConfigurationError, InvalidInput
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme, normalise_user_id

PEPPER = Secret("a-pepper-that-is-longer-than-32-characters")


def test_key_is_the_plain_hash_when_mode_is_sha256() -> None:
    keys = UserKeyScheme().keys("user-1")
    assert keys.all == (hashlib.sha256(b"user-1").hexdigest(),)


def test_keyed_key_is_canonical_and_plain_is_a_copy_when_dual() -> None:
    keyed = hmac.new(PEPPER.reveal().encode(), b"user-1", hashlib.sha256).hexdigest()
    assert UserKeyScheme(UserKeyMode.KEYED, PEPPER).keys("user-1").all == (keyed,)
    assert UserKeyScheme(UserKeyMode.DUAL, PEPPER).keys("user-1").all == (keyed, hashlib.sha256(b"user-1").hexdigest())


def test_start_is_refused_when_a_keyed_mode_has_no_good_secret() -> None:
    for secret in (None, Secret("short")):
        with pytest.raises(ConfigurationError):
            UserKeyScheme(UserKeyMode.KEYED, secret)


def test_one_rule_only_when_normalising() -> None:
    assert normalise_user_id("  Ame\u0301lie@Example.org ") == "Am\u00e9lie@Example.org"
    assert normalise_user_id("A@x") != normalise_user_id("a@x")


@pytest.mark.parametrize("bad", ["", "   ", "a\x00b", "a\nb", "\ud800", "x\u0378", "x" * 513])
def test_unusable_ids_are_refused_with_their_field_when_given(bad: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise_user_id(bad)
    assert caught.value.field == "userId"


def test_a_secret_shows_nothing_when_printed() -> None:
    secret = Secret("hunter2-hunter2")
    assert "hunter2" not in f"{secret!r} {secret} {secret:>20} {[secret]} {{'a': {secret!s}}}"
    assert secret == Secret("hunter2-hunter2")
    assert secret != "hunter2-hunter2"
