"""The HTTP server as one object: built from services and choices, started, drained, closed.

Invariant: after `close` no socket of it is open and no request is in work.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping, Sequence

from aiohttp import web

from bridge.api.access_log import AccessLog
from bridge.api.callers import CallerResolver
from bridge.api.connections import MOST_PER_ADDRESS, Connections
from bridge.api.dispatch import Dispatcher, Policy
from bridge.api.docs import docs_page
from bridge.api.handlers import Handlers
from bridge.api.limits import RateLimiter
from bridge.api.openapi import openapi_document, openapi_json
from bridge.api.ports import Services
from bridge.telemetry.audit import NO_AUDIT, Audit
from core.errors import ConfigurationError
from core.secret import Secret

BACKLOG = 512
CLOSE_WITHIN_S = 0.3


class ApiServer:
    """The control API on one port of one or more addresses."""

    def __init__(
        self,
        services: Services,
        resolver: CallerResolver,
        policy: Policy,
        *,
        behind_proxy: bool = False,
        public_url: str | None = None,
        audit: Audit = NO_AUDIT,
        shared_rates: Secret | None = None,
    ) -> None:
        """`shared_rates`: URL of the Redis in which all processes count callers together."""
        document = openapi_document(services.vitals.version, public_url)
        self.handlers = Handlers(services, resolver, openapi_json(document), docs_page(document))
        self._limits = RateLimiter(services.clock, shared=shared_rates)
        access_log = AccessLog(services.clock, audit)
        self.dispatcher = Dispatcher(self.handlers, resolver, policy, self._limits, access_log)
        self._per_address = None if behind_proxy else MOST_PER_ADDRESS
        self.connections: Connections | None = None
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self, hosts: Sequence[str], port: int) -> None:
        """Bind and serve. Raises ConfigurationError when an address cannot be bound."""
        sockets = listen(hosts, port)
        self.port = sockets[0].getsockname()[1]
        self.connections = Connections(self.dispatcher.answer, most_per_address=self._per_address)
        self._runner = web.ServerRunner(self.connections, shutdown_timeout=CLOSE_WITHIN_S)
        await self._runner.setup()
        for each in sockets:
            await web.SockSite(self._runner, each, backlog=BACKLOG).start()

    def begin_drain(self) -> None:
        """From now on not ready, and nothing that writes is accepted."""
        self.handlers.draining = True

    def figures(self) -> Mapping[str, float]:
        """Gauges for telemetry; `rates_shared` only where processes are to count callers together."""
        shared = {} if self._limits.shared is None else {"rates_shared": float(self._limits.shared)}
        return {
            "connections": 0 if self.connections is None else len(self.connections),
            "in_work": self.dispatcher.in_work,
            "callers": len(self._limits),
            **shared,
        }

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._runner is not None:
            async with asyncio.timeout(4 * CLOSE_WITHIN_S):
                await self._runner.cleanup()
            self._runner = None
        await self._limits.close()


def listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Bind every host on one port (0: any free one, the same for all). A machine without IPv6 is served on IPv4."""
    sockets: list[socket.socket] = []
    for host in hosts:
        try:
            sockets.append(_bind(host, port))
        except OSError as error:
            if sockets and ":" in host and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            for each in sockets:
                each.close()
            raise ConfigurationError(f"PORT: cannot listen on {host} port {port}: {error.strerror or error}") from error
        port = sockets[0].getsockname()[1]
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound
