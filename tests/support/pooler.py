"""A small transaction pooler in front of a real Postgres, as strict as those that providers put there (faults.md C12).

It speaks the wire protocol: asks clients for the password, logs in upstream with SCRAM, and lends a server connection
for one transaction at a time; the next one gets another. Refused, as poolers do: startup parameters other than
user, database, application_name and client_encoding, `options` above all. After each transaction it looks at what the
client left behind in the session (settings, prepared statements, session locks, temporary tables, LISTEN) and notes it
in `leaks`: behind a pooler the next client would find it.

With `tls` (server context) it takes TLS; with `session` it lends for the life of the client instead.
"""

import asyncio
import itertools
import os
import ssl
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit

from tests.support.postgres_wire import Gone, Server, Wire

SSL_REQUEST, CANCEL_REQUEST, GSS_REQUEST = 80877103, 80877102, 80877104
ADMITTED = {"user", "database", "application_name", "client_encoding"}
# jit: asyncpg turns it off while it looks up a type that it does not know, and puts it back, all in one transaction
LEFT_BEHIND = """
select 'setting ' || name from pg_settings where source = 'session' and name <> 'jit'
union all select 'prepared ' || name from pg_prepared_statements
union all select 'lock ' || objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
union all select 'channel ' || c from pg_listening_channels() c
union all select 'temporary ' || relname from pg_class where relnamespace = pg_my_temp_schema()
"""


class Client:
    """One client; `owed` answers (ReadyForQuery) are still to come from the server that it was lent."""

    def __init__(self, wire: Wire, key: bytes) -> None:
        self.wire = wire
        self.key = key
        self.server: Server | None = None
        self.owed = 0
        self.unsynced = False
        self.held = False  # inside a transaction


class Pooler:
    """`size` server connections for any number of clients of one database."""

    def __init__(self, url: str, *, size: int, tls: ssl.SSLContext | None, session: bool) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.username
        assert parts.password
        self._host, self._port = parts.hostname, parts.port
        self._user, self._password, self._database = parts.username, parts.password, parts.path[1:]
        self._upstream_password = self._password
        self._size = size
        self._tls = tls
        self._session = session
        self._idle: deque[Server] = deque()
        self._count = 0
        self._freed = asyncio.Condition()
        self._clients: dict[bytes, Client] = {}
        self._keys = itertools.count(1)
        self._handlers: set[asyncio.Task[None]] = set()
        self.port = 0
        self.leaks: list[str] = []
        self.lent = 0
        self.backends: set[bytes] = set()
        self.tls_clients = 0

    def url(self, query: str = "") -> str:
        return f"postgresql://{self._user}:{self._password}@127.0.0.1:{self.port}/{self._database}{query}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        wire = Wire(reader, writer)
        try:
            await self._serve(wire)
        except (Gone, OSError, asyncio.CancelledError):
            pass  # the client's affair
        finally:
            self._handlers.discard(task)
            wire.close()

    def point_at(self, url: str) -> None:
        """Another server is behind this address from now on: everything to the old one is cut, as in a failover."""
        parts = urlsplit(url)
        assert parts.password
        self._host, self._port, self._upstream_password = parts.hostname or "", parts.port, parts.password
        self._database = parts.path[1:]
        while self._idle:
            self._forget(self._idle.popleft())
        for client in list(self._clients.values()):
            client.wire.close()

    async def close(self) -> None:
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        for server in self._idle:
            server.wire.close()

    # ------------------------------------------------------------ clients

    async def _serve(self, wire: Wire) -> None:
        code, body = await wire.startup()
        while code in (SSL_REQUEST, GSS_REQUEST):
            secure = code == SSL_REQUEST and self._tls is not None
            wire.writer.write(b"S" if secure else b"N")
            if secure:
                assert self._tls is not None
                await wire.writer.start_tls(self._tls)
                self.tls_clients += 1
            code, body = await wire.startup()
        if code == CANCEL_REQUEST:
            await self._cancel(body)
            return
        words = body.decode().rstrip("\0").split("\0")
        parameters = dict(zip(words[::2], words[1::2], strict=True))
        if unknown := set(parameters) - ADMITTED:
            wire.refuse("08P01", f"unsupported startup parameter: {sorted(unknown)[0]}")
            return
        wire.send(b"R", struct.pack("!I", 3))
        kind, said = await wire.message()
        if kind != b"p" or said.rstrip(b"\0").decode() != self._password or parameters["user"] != self._user:
            wire.refuse("28P01", f'password authentication failed for user "{parameters["user"]}"')
            return
        client = Client(wire, struct.pack("!II", next(self._keys), int.from_bytes(os.urandom(4), "big")))
        try:
            server = await self._borrow()
        except (Gone, OSError):
            wire.refuse("08006", "no server is there")
            return
        await self._give_back(server)
        wire.send(b"R", struct.pack("!I", 0))
        for each in server.parameters:
            wire.send(b"S", each)
        wire.send(b"K", client.key)
        wire.send(b"Z", b"I")
        await self._talk(client)

    async def _talk(self, client: Client) -> None:
        self._clients[client.key] = client
        back: asyncio.Task[None] | None = None
        try:
            while True:
                kind, body = await client.wire.message()
                if kind == b"X":
                    return
                if client.server is None:
                    try:
                        client.server = await self._borrow()
                    except (Gone, OSError):
                        client.wire.refuse("08006", "no server is there")
                        return
                    back = asyncio.create_task(self._answers(client, client.server))
                if kind in (b"Q", b"S", b"F"):
                    client.owed += 1
                client.unsynced = kind not in (b"Q", b"S", b"F")
                client.server.wire.send(kind, body)
        finally:
            del self._clients[client.key]
            if back is not None:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
            if client.server is not None:  # left in the middle of a transaction: nobody else may find that
                self._forget(client.server)
                async with self._freed:
                    self._freed.notify()

    async def _answers(self, client: Client, server: Server) -> None:
        try:
            while True:
                kind, body = await server.wire.message()
                idle = False
                if kind == b"Z":
                    client.owed -= 1
                    idle = body == b"I" and not client.owed and not client.unsynced and not self._session
                if idle:  # before the client knows: its next message goes to another server
                    client.server = None
                    await self._give_back(server)
                client.wire.send(kind, body)
                if idle:
                    return
        except (Gone, OSError):
            client.wire.close()  # as poolers do: the client is in the middle of something

    async def _cancel(self, key: bytes) -> None:
        client = self._clients.get(key)
        if client is None or client.server is None:
            return
        server = client.server
        async with server.cancelling:
            with suppress(OSError):
                await self._cancel_at(server)

    async def _cancel_at(self, server: Server) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(struct.pack("!II", 16, CANCEL_REQUEST) + server.key)
            await reader.read()
        finally:
            writer.close()

    # ------------------------------------------------------------ servers

    async def _borrow(self) -> Server:
        """The server that has been idle for longest, so that each transaction meets another one."""
        async with self._freed:
            while True:
                if self._count < self._size:  # all of them are made before any is lent twice
                    self._count += 1
                    break
                if self._idle:
                    server = self._idle.popleft()
                    if server.wire.reader.at_eof():
                        self._forget(server)
                        continue
                    self.lent += 1
                    return server
                await self._freed.wait()
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        except BaseException:
            self._count -= 1
            raise
        server = Server(Wire(reader, writer), self._user, self._upstream_password, self._database)
        try:
            await server.log_in()
        except BaseException:
            self._forget(server)
            raise
        self.lent += 1
        self.backends.add(server.key)
        return server

    async def _give_back(self, server: Server) -> None:
        try:
            async with server.cancelling:  # a cancel that is late may not end what the next client asks
                pass
            self.leaks += [] if self._session else await server.query(LEFT_BEHIND)
        except (Gone, OSError):
            self._forget(server)
        except asyncio.CancelledError:
            self._forget(server)
            raise
        else:
            self._idle.append(server)
        async with self._freed:
            self._freed.notify()

    def _forget(self, server: Server) -> None:
        server.wire.close()
        self._count -= 1


@asynccontextmanager
async def pooler(
    url: str, *, size: int = 3, tls: ssl.SSLContext | None = None, session: bool = False
) -> AsyncIterator[Pooler]:
    """A pooler in front of the database at `url` until the block ends."""
    made = Pooler(url, size=size, tls=tls, session=session)
    listener = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listener.close()
        await made.close()
        await listener.wait_closed()


@contextmanager
def pooler_thread(url: str, *, size: int = 3) -> Iterator[Pooler]:
    """The same for tests that are not coroutines: it runs on a loop of its own in a thread."""
    ready: Future[Pooler] = Future()
    done = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with pooler(url, size=size) as made:
            ready.set_result(made)
            await done.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work, name="pooler")
    thread.start()
    try:
        yield ready.result(10)
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
