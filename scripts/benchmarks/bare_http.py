"""The comparison for `/account`: a bare aiohttp handler that answers with prepared bytes, in a process of its own."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

from scripts.benchmarks.children import commands, say


async def main(size: int) -> None:
    body = b"x" * size

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/account", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(port=runner.addresses[0][1])
    async for _ in commands():
        pass
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
