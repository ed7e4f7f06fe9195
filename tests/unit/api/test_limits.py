"""How often, how many, how slowly: rates, sockets, deadlines, drain."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from limits import RateLimitItemPerHour
from multidict import CIMultiDict

from bridge.api import connections, dispatch, limits
from bridge.api.callers import CallerResolver, network_of
from bridge.api.dispatch import Policy
from bridge.api.limits import SHARED_AGAIN_S, RateLimiter, library_url
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import ManualClock
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.fake_services import APP_KEY, BOTH_KEY, OPS_KEY, Api, FakeUsers, key_ring, running_api
from tests.support.fault_table import fault
from tests.support.raw_http import exchange, read_answer
from tests.support.waiting import eventually


async def passed(limiter: RateLimiter, count: int, name: str = "a", kind: str = "ip", rate: int = 20) -> int:
    """How many of so many requests were let through."""
    return [await limiter.allows(kind, name, rate) for _ in range(count)].count(True)


async def test_each_second_has_its_rate():
    clock = ManualClock()
    limiter = RateLimiter(clock)
    assert await passed(limiter, 25) == 20
    assert await passed(limiter, 1, "b") == 1
    clock.advance(0.99)
    assert await passed(limiter, 1) == 0
    clock.advance(0.02)
    assert await passed(limiter, 100) == 20


async def test_memory_is_bounded_when_addresses_are_made_up():
    clock = ManualClock()
    limiter = RateLimiter(clock, size=100)
    assert await passed(limiter, 100, "mine", kind="key") == 20
    for number in range(10_000):
        await limiter.allows("ip", f"2001:db8:{number:x}::/64", 20)
    assert len(limiter) <= 200
    assert await passed(limiter, 1, "mine", kind="key") == 0, "addresses must not push out keys"


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that Redis does not end, and answers that it may take its time for: the machine may be busy."""
    monkeypatch.setattr(limits, "RateLimitItemPerSecond", RateLimitItemPerHour)
    monkeypatch.setattr(limits, "SHARED_WITHIN_S", 10.0)


@pytest.mark.usefixtures("unhurried")
async def test_processes_count_together_when_they_share_a_redis(redis_url: str):
    clock = ManualClock()
    async with limiters(redis_url, clock, 2) as (one, other):
        assert await passed(one, 12) + await passed(other, 12) == 20
        assert await passed(other, 5, kind="key") == 5
        assert await passed(other, 5, "b") == 5


@pytest.mark.usefixtures("unhurried")
async def test_a_process_counts_alone_when_redis_is_away(valkey_factory: Callable[[], ValkeyServer]):
    server, clock = valkey_factory(), ManualClock()
    async with limiters(server.url, clock, 1) as (limiter,):
        assert await passed(limiter, 1, "warm") == 1
        server.kill()
        assert await passed(limiter, 25) == 20
        assert limiter.shared is False
        assert await passed(limiter, 25, "b") == 20
        server.start()
        clock.advance(SHARED_AGAIN_S + 1)
        async with limiters(server.url, clock, 1) as (other,):
            assert await passed(limiter, 15, "c") + await passed(other, 15, "c") == 20


async def test_nobody_waits_when_redis_hangs(valkey_factory: Callable[[], ValkeyServer]):
    server, clock = valkey_factory(), ManualClock()
    async with limiters(server.url, clock, 1) as (limiter,):
        assert await passed(limiter, 1, "warm") == 1
        with server.paused():
            async with asyncio.timeout(10):  # one of them may wait 50 ms, not all
                assert await passed(limiter, 500, rate=1000) == 500
        clock.advance(SHARED_AGAIN_S + 1)
        assert await passed(limiter, 1, "d") == 1
        assert limiter.shared


async def test_many_at_once_are_counted_here_when_redis_has_enough_to_do(redis_url: str):
    async with limiters(redis_url, ManualClock(), 1) as (limiter,):
        answers = await asyncio.gather(*(limiter.allows("ip", "a", 100) for _ in range(500)))
        assert answers.count(True) == 100
        assert limiter.shared


@asynccontextmanager
async def limiters(url: str, clock: ManualClock, count: int) -> AsyncIterator[list[RateLimiter]]:
    made = [RateLimiter(clock, shared=Secret(url)) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            await each.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:7000/3", "async+redis://127.0.0.1:7000/3"),
        ("redis://cache", "async+redis://cache:6379"),
        ("rediss://:pa%2Fss@[::1]/0", "async+rediss://:pa%2Fss@[::1]:6379/0"),
        ("unix:///run/redis.sock?db=1", "async+redis+unix:///run/redis.sock?db=1"),
    ],
)
def test_every_redis_address_is_understood_by_the_library(url: str, expected: str):
    assert library_url(url) == expected
    RateLimiter(ManualClock(), shared=Secret(url))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("[2001:db8:1::1]", "2001:db8:1::/64"),
        ("nonsense", "unknown"),
    ],
)
def test_addresses_of_one_caller_count_as_one(address: str, network: str):
    assert network_of(address) == network


async def statuses(api: Api, count: int, key: str | None, path: str = "/health", **headers: str) -> list[int]:
    answers = []
    for _ in range(count):
        async with api.request("GET", path, key, headers=headers) as answer:
            answers.append(answer.status)
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
    return answers


async def test_callers_are_limited_each_for_themself():
    async with running_api(policy=Policy(), users=FakeUsers()) as api:
        assert (await statuses(api, 25, None)).count(429) == 5
        assert (await statuses(api, 110, APP_KEY)).count(429) == 10
        assert (await statuses(api, 5, OPS_KEY)).count(429) == 0
        assert (await statuses(api, 25, "user.ann.sig")).count(429) == 5  # one person, not an app's server
        assert (await statuses(api, 5, "user.bob.sig")).count(429) == 0
        assert (await statuses(api, 1, "app.forged")) == [429]  # a wrong key is nobody, at this address
        api.clock.advance(1)
        assert (await statuses(api, 20, None)).count(429) == 0


@fault("I16", "no trusted proxy", "forged headers do not help")
async def test_a_forged_forwarding_header_does_not_help_when_no_proxy_is_trusted():
    async with running_api(policy=Policy()) as api:
        seen = [(await statuses(api, 1, None, **{"X-Forwarded-For": f"10.0.0.{number}"}))[0] for number in range(25)]
        assert seen.count(429) == 5


@fault("I16", "one trusted proxy", "only its entry counts")
async def test_only_the_trusted_proxys_entry_counts_when_one_is_in_front():
    async with running_api(policy=Policy(), proxy_hops=1) as api:
        for number in range(25):
            forged = {"X-Forwarded-For": f"10.0.0.{number}, 203.0.113.7"}
            assert await statuses(api, 1, None, **forged) == [200 if number < 20 else 429]
        assert await statuses(api, 1, None, **{"X-Forwarded-For": "203.0.113.7, 203.0.113.8"}) == [200]


@fault("I16", "10,000 random headers behind 0, 1 and 2 proxies", "one caller, one budget")
async def test_made_up_addresses_do_not_evade_the_limit():
    rng = random.Random(7)
    for hops, stated in ((0, ""), (1, ", 203.0.113.7"), (2, ", 203.0.113.7, 10.0.0.1")):
        resolver = CallerResolver(key_ring(), proxy_hops=hops, user_keys=UserKeyScheme())
        limiter = RateLimiter(ManualClock())
        names, let_through = set(), 0
        for _ in range(10_000):
            chain = ", ".join(f"{rng.getrandbits(32):x}.example" for _ in range(rng.randint(0, 3)))
            forged = rng.choice(
                [chain, f"{rng.getrandbits(32)}", "2001:db8::" + f"{rng.getrandbits(16):x}", "\x00", ""]
            )
            headers = CIMultiDict(
                {"X-Forwarded-For": forged + stated, "X-Real-IP": forged, "Forwarded": f"for={forged}"}
            )
            caller = await resolver.resolve(headers, "192.0.2.1")
            names.add(caller.name)
            let_through += await limiter.allows("ip", caller.name, 20)
        assert (len(names), let_through) == (1, 20)


async def test_probes_are_answered_when_all_callers_share_one_address():
    async with running_api(policy=Policy()) as api:
        assert (await statuses(api, 60, None, path="/account")).count(429) == 40
        for path in ("/health/live", "/health/ready"):
            assert set(await statuses(api, 60, None, path=path)) == {200}
        assert (await statuses(api, 25, None)).count(429) == 5, "/health has a rate of its own"


@fault("I03", "heads that stop", "408")
async def test_a_slow_head_ends_in_408(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "WHOLE_REQUEST_S", 0.2)
    async with running_api() as api:
        for data in (b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\nX-"):
            answer = await exchange(api.port, data, within_s=5)
            assert answer.status == 408
            assert answer.problem.endswith(":request-timeout")


@fault("I03", "a head byte by byte", "408")
async def test_a_dripping_head_ends_in_408(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "WHOLE_REQUEST_S", 0.3)
    async with running_api() as api, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        answer = asyncio.ensure_future(read_answer(reader))
        for byte in b"GET /health HTTP/1.1\r\nX-Slow: " + b"y" * 1000:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.wait([answer], timeout=0.01)
        assert (await answer).status == 408
        writer.close()


@fault("I03", "a body that stops", "408, connection closed")
async def test_a_slow_body_ends_in_408(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "WHOLE_REQUEST_S", 0.3)
    async with running_api() as api:
        head = "POST /api/start-session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {BOTH_KEY}\r\nContent-Length: 50\r\n\r\n" + '{"userId"'
        answer = await exchange(api.port, head.encode(), within_s=5)
        assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_second_request_on_a_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "WHOLE_REQUEST_S", 0.3)
    async with running_api() as api, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        for _ in range(3):
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_answer(reader)).status == 200
            await asyncio.sleep(0.2)  # an idle connection is kept longer than one request may take
        writer.write(b"GET /hea")
        assert (await read_answer(reader)).status == 408
        writer.close()


async def test_a_slow_service_ends_in_503(monkeypatch: pytest.MonkeyPatch, api: Api):
    monkeypatch.setattr(connections, "WHOLE_REQUEST_S", 0.2)

    async def never(**more: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(api.sessions, "start", never)
    async with api.request("POST", "/api/start-session", json={"userId": "u", "broker": "sim"}) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"]


@fault("I03", "200 drippers over a cap of 50", "they push out one another; callers are answered")
async def test_drippers_push_out_one_another_and_not_a_caller(monkeypatch: pytest.MonkeyPatch):
    async with running_api() as api:
        monkeypatch.setattr(api.server.connections, "_most_per_address", 50)
        drippers = []
        for _ in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(b"GET /he")
            drippers.append(writer)
        await eventually(lambda: api.server.connections.evicted >= 150, within_s=5)
        assert len(api.server.connections) <= 50
        async with api.request("GET", "/health") as answer:
            assert answer.status == 200
        for writer in drippers:
            writer.close()


@fault("I18", "sockets beyond the cap, all at work", "refused and counted")
async def test_a_socket_is_refused_when_all_others_are_at_work(monkeypatch: pytest.MonkeyPatch):
    async with running_api() as api, asyncio.timeout(10):
        gate, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(**more: object) -> None:
            begun.release()
            await gate.wait()
            raise RuntimeError("ends")

        monkeypatch.setattr(api.sessions, "start", slow)
        monkeypatch.setattr(api.server.connections, "_most_per_address", 2)
        calls = [
            asyncio.ensure_future(api.request("POST", "/api/start-session", json={"userId": "u", "broker": "sim"}))
            for _ in range(2)
        ]
        for _ in calls:
            await begun.acquire()
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        assert await reader.read() == b""
        writer.close()
        assert api.server.connections.refused == 1
        gate.set()
        for call in calls:
            assert (await call).status == 500


@fault("I18", "requests beyond the cap", "503 with Retry-After; probes answer")
async def test_too_many_requests_at_once_get_503_but_probes_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatch, "AT_ONCE", 1)
    async with running_api() as api, asyncio.timeout(10):
        gate, begun = asyncio.Event(), asyncio.Event()

        async def slow(**more: object) -> None:
            begun.set()
            await gate.wait()
            raise RuntimeError("ends")

        monkeypatch.setattr(api.sessions, "start", slow)
        body = {"userId": "u", "broker": "sim"}
        call = asyncio.ensure_future(api.request("POST", "/api/start-session", json=body))
        await begun.wait()
        async with api.request("GET", "/api/sessions") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
        async with api.request("GET", "/health/live") as answer:
            assert answer.status == 200
        gate.set()
        assert (await call).status == 500


@fault("I18", "5,000 pipelined requests", "answered one by one")
async def test_many_pipelined_requests_are_answered_one_by_one(api: Api):
    count = 5000
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * count)
        for _ in range(count):
            assert (await read_answer(reader)).status == 200
        writer.close()


async def deaf_caller(api: Api, requests: int) -> socket.socket:
    """A connection that sends requests and never reads an answer."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", api.port))
    with contextlib.suppress(TimeoutError, OSError):  # nobody takes requests from it any more
        async with asyncio.timeout(1):
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(deaf, request * requests)
    return deaf


async def test_a_caller_that_never_reads_its_answers_loses_its_socket(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "ANSWER_TAKEN_S", 0.2)
    async with running_api() as api:
        deaf = await deaf_caller(api, 2000)
        await eventually(lambda: api.server.dispatcher.answers.get(200), within_s=5)
        await eventually(lambda: len(api.server.connections) == 0, within_s=10)
        assert api.server.dispatcher.answers[200] < 2000
        deaf.close()


async def test_room_is_made_at_once_when_the_oldest_socket_has_answers_to_take(monkeypatch: pytest.MonkeyPatch):
    async with running_api() as api:
        monkeypatch.setattr(api.server.connections, "_most_per_address", 1)
        deaf = await deaf_caller(api, 1)
        await eventually(lambda: api.server.dispatcher.answers.get(200), within_s=5)
        (held,) = api.server.connections._open
        await eventually(lambda: not held.busy, within_s=5)
        transport = held.transport
        socket_of_ours = transport.get_extra_info("socket")
        transport.set_write_buffer_limits(2**30)
        transport.write(b"x" * 2**26)  # more than any socket buffer takes
        assert transport.get_write_buffer_size() > 0
        async with api.request("GET", "/health/live") as answer:
            assert answer.status == 200
        await eventually(lambda: socket_of_ours.fileno() == -1, within_s=5)
        deaf.close()


async def test_a_draining_bridge_reads_but_takes_nothing_new(api: Api):
    api.server.begin_drain()
    for path in ("/api/start-session", "/api/stop-session"):
        async with api.request("POST", path, json={"userId": "u", "broker": "sim"}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            assert (await answer.json())["type"].endswith(":draining")
    for path, status in (("/health/ready", 503), ("/health/live", 200), ("/health", 200), ("/api/sessions", 200)):
        async with api.request("GET", path) as answer:
            assert answer.status == status, path
