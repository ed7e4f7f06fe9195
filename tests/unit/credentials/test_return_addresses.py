"""Where a browser may be sent back to: the list by origin and path, and every trick that must not get past it."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.credentials.return_addresses import check_return, with_parameters
from core.errors import InvalidInput

ALLOWED = (
    "https://app.example.com",
    "https://other.example.com/settings",
    "https://third.example.com:8443/a/",
    "http://localhost:5173",
    "http://[::1]:5173/x",
    "http://weak.example.com",
)
PIECES = (
    *(
        [
            "https://",
            "http://",
            "//",
            "/",
            "\\",
            "@",
            ":",
            "443",
            "?",
            "#",
            ".",
            "..",
            "%2f",
            "%5c",
            "%09",
            "app.example.com",
            "evil.example",
            "other.example.com",
        ]
    ),
    *("settings", "localhost:5173", "[::1]", "x", "\t", " "),
)
HOSTS = {"app.example.com", "other.example.com", "third.example.com", "localhost", "::1"}


@pytest.mark.parametrize(
    "address",
    [
        "https://app.example.com",
        "https://app.example.com/",
        "https://APP.example.com/",
        "https://app.example.com:443/any/where",
        "https://app.example.com/a%20b/?next=/home&x=1#/route",
        "https://app.example.com/?u=https://evil.example/@x",
        "https://other.example.com/settings",
        "https://other.example.com/settings/",
        "https://other.example.com/settings/brokers",
        "https://other.example.com/settings?x=1",
        "https://third.example.com:8443/a",
        "https://third.example.com:8443/a/b",
        "http://localhost:5173/callback",
        "http://[::1]:5173/x/y",
    ],
)
def test_address_is_allowed_when_origin_and_path_are_on_the_list(address: str) -> None:
    assert check_return(address, ALLOWED) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/relative",
        "//app.example.com/",
        "app.example.com",
        "https:/app.example.com/",
        "https:app.example.com/",
        "https:///app.example.com/",
        "javascript:alert(1)//https://app.example.com",
        "data:text/html,https://app.example.com",
        "http://app.example.com/",
        "https://app.example.com:8443/",
        "https://app.example.com:0/",
        "https://app.example.com.evil.example/",
        "https://app.example.comevil.example/",
        "https://evil.example/https://app.example.com",
        "https://evil.example/?https://app.example.com",
        "https://evil.example#https://app.example.com",
        "https://app.example.com@evil.example/",
        "https://user@app.example.com/",
        "https://user:password@app.example.com/",
        "https://@app.example.com/",
        "https://app.example.com\\@evil.example/",
        "https://evil.example\\.app.example.com/",
        "https://app.example.com\\.evil.example/",
        "\\\\app.example.com",
        "https:\\\\app.example.com",
        "https://app.example.com%2eevil.example/",
        "https://app.example.com%00.evil.example/",
        "https://app.example.com./",
        "https://app.example.com:443:80/",
        "https://app.example.com:x/",
        "https://app.example.com:99999/",
        "https://[::1/",
        "https://app.example.com//evil.example",
        "https://app.example.com/x//evil.example",
        "https://app.example.com/%2f%2fevil.example",
        "https://app.example.com/%5cevil.example",
        "https://app.example.com/%252f",
        "https://app.example.com/a\nLocation: https://evil.example",
        "https://app.example.com/%0d%0aSet-Cookie:x=1",
        "https://app.example.com/a b",
        " https://app.example.com/",
        "https://app.example.com/\t",
        "https://äpp.example.com/",
        "https://app．example.com/",
        "https://app.example.com/" + "x" * 2048,
        "https://other.example.com/",
        "https://other.example.com/settingsevil",
        "https://other.example.com/Settings",
        "https://other.example.com/settings/../admin",
        "https://other.example.com/settings/%2e%2e/admin",
        "https://other.example.com/settings/./x",
        "https://other.example.com/settings/..",
        "http://weak.example.com/",
        "http://localhost:5174/",
        "http://127.0.0.1:5173/",
    ],
)
def test_address_is_refused_when_it_could_lead_elsewhere(address: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_return(address, ALLOWED)
    assert refused.value.field == "returnTo"
    assert "evil" not in str(refused.value)


@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=12,
    ).map("".join)
)
def test_whatever_is_allowed_leads_to_a_host_of_the_list(address: str) -> None:
    try:
        check_return(address, ALLOWED)
    except InvalidInput:
        return
    parts = urlsplit(address)
    assert parts.hostname in HOSTS
    assert "@" not in parts.netloc
    if parts.hostname == "other.example.com":
        assert parts.path.split("/")[1] == "settings"


def test_parameters_are_added_once_and_the_rest_stays() -> None:
    told = with_parameters(
        "https://a.example/p?x=1&connect=ok&y=&ticket=forged#/r", {"connect": "denied", "ticket": "t"}
    )
    parts = urlsplit(told)
    assert parse_qsl(parts.query, keep_blank_values=True) == [
        ("x", "1"),
        ("y", ""),
        ("connect", "denied"),
        ("ticket", "t"),
    ]
    assert (parts.path, parts.fragment) == ("/p", "/r")
