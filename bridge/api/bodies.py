"""Reads request bodies: bounded in bytes and time, then JSON without any of its ambiguities.

Invariant: no more than LARGEST_BODY bytes plus one read buffer are ever held.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bridge.api.problems import Problem
from bridge.api.strict_json import NotStrict, strict_loads

LARGEST_BODY = 64 * 1024
_DISCARD_WITHIN_S = 0.2


async def read_json(request: BaseRequest, deadline: float) -> Any:
    """The body as data. `deadline`: loop time by which the last byte must be here. Raises Problem."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem("unsupported-media-type", "send the body as application/json, not compressed")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem("unsupported-media-type", "JSON is UTF-8")
    return loads(await _read(request, deadline))


async def _read(request: BaseRequest, deadline: float) -> bytes:
    if request.content_length is not None and request.content_length > LARGEST_BODY:
        await _refuse_large(request)
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > LARGEST_BODY:
                    await _refuse_large(request)
    except TimeoutError:
        raise Problem("request-timeout", "the body did not arrive in time", close=True) from None
    except web.RequestPayloadError:
        raise Problem("bad-request", "the body is not what its headers say", close=True) from None
    return bytes(body)


async def _refuse_large(request: BaseRequest) -> NoReturn:
    """Answer early. A little of what is on its way is read, so that the answer is not lost in a reset connection."""
    discarded = 0
    try:
        async with asyncio.timeout(_DISCARD_WITHIN_S):
            while discarded < LARGEST_BODY and (chunk := await request.content.readany()):
                discarded += len(chunk)
    except (TimeoutError, web.RequestPayloadError):
        pass  # the connection is closed anyway
    raise Problem("too-large", f"the body is larger than {LARGEST_BODY} bytes", close=True)


def loads(body: bytes) -> Any:
    """Strict JSON. Raises Problem 422 for anything else."""
    try:
        return strict_loads(body)
    except NotStrict as refused:
        message = f"the body {refused}"
        raise Problem("invalid-input", message, errors=[("body", message)]) from None
