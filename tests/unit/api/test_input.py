"""Bad input gets a clear problem document, nothing is changed, and nothing is ever a 5xx (faults.md §2.4)."""

import asyncio
import json
import traceback
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.api.bodies import LARGEST_BODY, loads
from bridge.api.problems import Problem
from bridge.api.requests import StartRequest, parse
from tests.support.fake_services import BOTH_KEY, Api, running_api
from tests.support.fault_table import fault
from tests.support.raw_http import RawAnswer, exchange, read_answer

START = "/api/v1/start-session"
HEAD = f"POST {START} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BOTH_KEY}\r\n"


async def post(api: Api, body: bytes, content_type: str = "application/json", path: str = START) -> RawAnswer:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BOTH_KEY}\r\n"
    head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return await exchange(api.port, head.encode() + body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b"{}", "broker"),
        (b'{"userId": "u", "broker": "sim", "extra": 1}', "extra"),
        (b'{"user_id": "u", "broker": "sim"}', "user_id"),
        (b'{"userId": 1, "broker": "sim"}', "userId"),
        (b'{"userId": ["u"], "broker": "sim"}', "userId"),
        (b'{"userId": "", "broker": "sim"}', "userId"),
        (b'{"userId": "   ", "broker": "sim"}', "userId"),
        (b'{"userId": "a\\u0000b", "broker": "sim"}', "userId"),
        (b'{"userId": "\\ud800", "broker": "sim"}', "userId"),
        (b'{"userId": "u", "broker": "SIM"}', "broker"),
        (b'{"userId": "u", "broker": "other"}', "broker"),
        (b'{"userId": "u", "broker": null}', "broker"),
        (b'{"userId": "u", "broker": "sim", "accountId": 12345}', "accountId"),
        (b'{"userId": "u", "broker": "sim", "accountId": "../x"}', "accountId"),
        (b'{"userId": "u", "broker": "sim", "environment": "prod"}', "environment"),
        (b'{"userId": "u", "broker": "sim", "broker": "sim"}', "body"),
        (b'{"userId": "u", "broker": NaN}', "body"),
        (b'{"userId": "u", "broker": Infinity}', "body"),
        (b'{"userId": "\xff\xfe", "broker": "sim"}', "body"),
        (b'\xef\xbb\xbf{"userId": "u", "broker": "sim"}', "body"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "body"),
        (b"[" * 30_000, "body"),
        (b'{"userId": ' + b"9" * 5000 + b', "broker": "sim"}', "body"),
        (b'{"userId": "' + b"x" * 3000 + b'", "broker": "sim"}', "userId"),
    ],
)
@fault("I01", "a table of wrong bodies", "422 with the path of the field")
async def test_a_body_is_refused_with_the_field(api: Api, body: bytes, field: str):
    answer = await post(api, body)
    assert answer.status == 422
    assert answer.problem.endswith(":invalid-input")
    assert json.loads(answer.body)["errors"][0]["field"] == field
    assert b"StartRequest" not in answer.body, "our own names mean nothing to a caller"
    assert not api.sessions.table


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=utf-16"]
)
@fault("I06", "other content types", "415")
async def test_a_body_is_refused_when_it_is_not_called_json(api: Api, content_type: str):
    assert (await post(api, b'{"userId": "u", "broker": "sim"}', content_type)).status == 415


async def test_a_body_is_refused_when_it_is_compressed(api: Api):
    async with api.request("POST", START, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}) as answer:
        assert answer.status == 415


@fault("I02", "a large Content-Length", "413 before the body is sent")
async def test_a_large_body_is_refused_before_it_is_sent(api: Api):
    head = f"{HEAD}Content-Type: application/json\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n"
    answer = await exchange(api.port, head.encode())
    assert (answer.status, answer.headers["connection"]) == (413, "close")


@fault("I02", "chunks without end", "413 early, connection closed")
async def test_a_large_body_is_refused_early_when_it_comes_in_chunks(api: Api):
    head = f"{HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head.encode())
    sent, answer = 0, asyncio.ensure_future(read_answer(reader))
    while not answer.done() and sent < 40 * LARGEST_BODY:
        writer.write(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
        await asyncio.sleep(0)
        try:
            await writer.drain()
        except ConnectionError:
            break
        sent += 0x2000
    assert (await asyncio.wait_for(answer, 5)).status == 413
    writer.close()


async def test_the_largest_body_is_read_when_it_just_fits(api: Api):
    body = b'{"userId": "u", "broker": "sim"}'
    assert (await post(api, body + b" " * (LARGEST_BODY - len(body)))).status == 202
    assert (await post(api, body + b" " * (LARGEST_BODY - len(body) + 1))).status == 413


async def test_a_body_is_read_when_the_caller_expects_100_continue(api: Api):
    body = b'{"userId": "u", "broker": "sim"}'
    head = f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head.encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await read_answer(reader)).status == 202
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"POST /account HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/start-session HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/start-session HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
@fault("I06", "TLS, bad lines, CL with TE, two lengths", "400 and the connection ends")
async def test_what_is_not_http_gets_a_problem_and_the_connection_ends(api: Api, data: bytes):
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(data)
        answer = await read_answer(reader)
        assert answer.status == 400
        assert answer.problem.endswith(":bad-request")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("path", ["/health", "/account", "/nowhere"])
@fault("I06", "a request hidden in a body", "one request in, one handled")
async def test_a_body_that_nobody_reads_is_not_taken_for_a_request(api: Api, method: str, path: str):
    hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\n\r\n"
    chunked = f"{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{len(hidden):x}\r\n"
    for data in (head.encode() + hidden, chunked.encode() + hidden + b"\r\n0\r\n\r\n"):
        before = sum(api.server.dispatcher.answers.values())
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(data)
            assert (await read_answer(reader)).status in (200, 204, 401, 404, 405)
            writer.write(b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            rest = await reader.read()
            writer.close()
        assert rest.count(b"HTTP/1.1 ") <= 1
        assert b"bridge_up" not in rest
        assert sum(api.server.dispatcher.answers.values()) <= before + 2


@fault("I06", "broken chunks", "400")
async def test_a_chunked_body_is_refused_when_its_framing_breaks(api: Api):
    head = f"{HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    assert (await exchange(api.port, head.encode())).status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["userId", "broker", "accountId", "environment", "x"]) | st.text(max_size=8)
bodies = st.one_of(
    st.dictionaries(names, json_values, max_size=5).map(lambda body: json.dumps(body).encode()),
    st.fixed_dictionaries({"userId": st.text(max_size=40), "broker": st.just("sim")}).map(
        lambda b: json.dumps(b).encode()
    ),
    st.binary(max_size=200),
)
query_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@pytest.fixture(scope="module")
def served():
    """One server for all examples, on a loop of its own."""
    with asyncio.Runner() as runner:
        context = running_api()
        api = runner.run(context.__aenter__())
        yield runner, api
        runner.run(context.__aexit__(None, None, None))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=bodies, path=st.sampled_from([START, "/api/stop-session", "/api/start-websocket", "/api/stop-websocket"]))
@fault("I01", "generated bodies", "never a 500")
def test_no_body_is_ever_our_fault(served: Any, body: bytes, path: str):
    runner, api = served
    answer = runner.run(post(api, body, path=path))
    assert answer.status in (202, 404, 409, 413, 415, 422)
    assert answer.status == 202 or answer.problem


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    path=st.sampled_from(["/account", "/positions", "/api/sessions", "/health", "/metrics", "/docs"])
    | query_text.map("/".__add__),
    query=query_text,
    user=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
)
def test_no_address_or_header_is_ever_our_fault(served: Any, path: str, query: str, user: str):
    runner, api = served
    data = f"GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BOTH_KEY}\r\n"
    data += f"X-User-Id: {user}\r\nConnection: close\r\n\r\n"
    answer = runner.run(exchange(api.port, data.encode("latin-1")))
    assert answer.status < 500
    assert answer.status == 200 or answer.problem


@given(json_values)
def test_strict_json_reads_what_the_standard_reads(value: Any):
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        with pytest.raises(Problem):
            loads(f"[{json.dumps(float('nan'))}]".encode())
    else:
        assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "data",
    [{"broker": "sim", "canary-0123456789": 1}, {"broker": "sim" * 12 + "canary-0123456789"}, {"broker": ["canary-1"]}],
)
def test_what_was_refused_is_repeated_nowhere_since_it_may_be_a_secret(data: dict[str, Any]):
    with pytest.raises(Problem) as caught:
        parse(StartRequest, data, where="body")
    assert "canary" not in repr(caught.value.document())
    assert "canary" not in "".join(traceback.format_exception(caught.value))  # as a crash would print it
    assert caught.value.__context__ is None
