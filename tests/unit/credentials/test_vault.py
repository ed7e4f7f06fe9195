"""The vault by its properties: whatever is changed, moved or used as something else does not open."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config_values import TokenKey
from bridge.credentials.vault import SealBroken, UnknownKey, Vault, key_of, new_key_entry
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.vaults import sealing_key, vault_of

PLAIN = st.binary(max_size=300)
ABOUT = st.text(max_size=60)
VAULT = vault_of("k1", "k2")


@given(PLAIN, ABOUT)
def test_what_was_sealed_opens_when_nothing_was_changed(plain: bytes, about: str) -> None:
    sealed = VAULT.seal(plain, about=about)
    assert VAULT.open(sealed, about=about) == plain
    assert len(plain) < 4 or plain not in sealed


@given(PLAIN, ABOUT, st.data())
def test_nothing_opens_when_any_bit_is_flipped(plain: bytes, about: str, data: st.DataObject) -> None:
    sealed = bytearray(VAULT.seal(plain, about=about))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((SealBroken, UnknownKey)):
        VAULT.open(bytes(sealed), about=about)


def test_nothing_opens_when_each_single_bit_in_turn_is_flipped() -> None:
    sealed = VAULT.seal(b"token", about="tokens:broker:ann")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((SealBroken, UnknownKey)):
            VAULT.open(bytes(changed), about="tokens:broker:ann")


@given(PLAIN, ABOUT, st.data())
def test_nothing_opens_when_it_is_cut_or_extended(plain: bytes, about: str, data: st.DataObject) -> None:
    sealed = VAULT.seal(plain, about=about)
    length = data.draw(st.integers(0, len(sealed) - 1))
    for wrong in (sealed[:length], sealed[length + 1 :], sealed + b"\0"):
        with pytest.raises((SealBroken, UnknownKey)):
            VAULT.open(wrong, about=about)


@given(PLAIN, ABOUT, ABOUT)
def test_nothing_opens_when_it_is_used_as_something_else(plain: bytes, about: str, other: str) -> None:
    sealed = VAULT.seal(plain, about=about)
    if about == other:
        assert VAULT.open(sealed, about=other) == plain
        return
    with pytest.raises(SealBroken):
        VAULT.open(sealed, about=other)


@given(st.binary(max_size=200))
def test_nothing_opens_when_it_was_never_sealed(junk: bytes) -> None:
    with pytest.raises((SealBroken, UnknownKey)):
        VAULT.open(junk, about="x")


def test_blobs_differ_when_the_same_thing_is_sealed_again() -> None:
    assert len({VAULT.seal(b"same", about="x") for _ in range(1000)}) == 1000


def test_the_first_key_seals_and_all_open_when_there_are_several() -> None:
    old = vault_of("old").seal(b"token", about="x")
    both = vault_of("new", "old")
    assert both.open(old, about="x") == b"token"
    assert key_of(both.seal(b"token", about="x")) == "new"
    with pytest.raises(UnknownKey, match="'old'") as refused:
        vault_of("new").open(old, about="x")
    assert refused.value.key_id == "old"


def test_nothing_opens_when_the_key_of_that_id_is_another_one() -> None:
    sealed = vault_of("k1").seal(b"token", about="x")
    impostor = TokenKey("k1", sealing_key("k2").key)
    with pytest.raises(SealBroken):
        Vault([impostor]).open(sealed, about="x")


def test_a_vault_is_refused_when_it_has_no_key() -> None:
    with pytest.raises(ConfigurationError, match="TOKEN_ENCRYPTION_KEYS"):
        Vault([])


def test_errors_say_nothing_of_keys_or_contents() -> None:
    sealed = bytearray(VAULT.seal(b"canary-token", about="x"))
    sealed[-1] ^= 1
    with pytest.raises(SealBroken) as refused:
        VAULT.open(bytes(sealed), about="x")
    assert "canary" not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_new_entry_is_32_random_bytes() -> None:
    key_id, _, key = new_key_entry("k7").partition(":")
    assert key_id == "k7"
    assert len(base64.b64decode(key, validate=True)) == 32
    assert new_key_entry("k7") != new_key_entry("k7")
    assert Vault([TokenKey(key_id, Secret(key))]).sealing_key_id == "k7"
