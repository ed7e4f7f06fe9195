"""Messages as bytes: three encodings, times with nanoseconds, and rubbish refused."""

import contextlib
import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.alpaca.streams.frames import BadMessage, Encoding, Nanos, decode, encode, rfc3339

AT_NS = 1_795_245_329_123_456_789
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_a_moment_has_nine_digits_in_json() -> None:
    assert json.loads(encode([{"t": Nanos(AT_NS)}], Encoding.TEXT)) == [{"t": "2026-11-21T07:15:29.123456789Z"}]
    assert rfc3339(1_000_000_001) == "1970-01-01T00:00:01.000000001Z"


def test_a_moment_is_the_timestamp_extension_in_messagepack() -> None:
    raw = encode([{"t": Nanos(AT_NS)}], Encoding.MSGPACK)
    (message,) = msgpack.unpackb(raw)
    assert isinstance(message["t"], msgpack.Timestamp)
    assert message["t"].to_unix_nano() == AT_NS
    # Extension -1 of 8 bytes: the 64-bit form of the specification.
    assert b"\xd7\xff" in raw


def test_an_unknown_value_is_an_error_and_no_string() -> None:
    for encoding in Encoding:
        with pytest.raises(TypeError):
            encode({"a": object()}, encoding)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5), st.sampled_from(list(Encoding)))
def test_what_is_encoded_reads_back_the_same(document: dict[str, object], encoding: Encoding) -> None:
    assert decode(encode(document, encoding), encoding, is_text=encoding.is_text) == document


def test_text_is_json_when_the_connection_speaks_messagepack() -> None:
    assert decode(b'{"action":"auth"}', Encoding.MSGPACK, is_text=True) == {"action": "auth"}


@pytest.mark.parametrize("raw", [b"", b"[1]", b'"x"', b"null", b"{", b"\xff", b"nan"])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(raw, Encoding.BINARY, is_text=False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        msgpack.packb([1]),
        b"\xc1",  # never used
        b"\x81\xa1a",  # a map that ends before its value
        b"\x81\x90\x01",  # a list as a key
        b"\x81\x01\x01",  # a number as a key
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\x91" * 5_000,  # too deep
        b"\x80\x80",  # more than one
    ],
)
def test_what_is_no_messagepack_map_is_refused(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(raw, Encoding.MSGPACK, is_text=False)


@given(st.binary(max_size=200), st.sampled_from(list(Encoding)), st.booleans())
def test_random_bytes_are_an_object_or_refused(raw: bytes, encoding: Encoding, is_text: bool) -> None:
    with contextlib.suppress(BadMessage):
        assert isinstance(decode(raw, encoding, is_text=is_text), dict)
