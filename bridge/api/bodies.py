"""Reads request bodies: bounded in bytes and time, then JSON without any of its ambiguities.

orjson keeps the last of two equal keys silently, so request bodies are read with the standard decoder, which shows
every pair. Invariant: no more than LARGEST_BODY bytes plus one read buffer are ever held.
"""

from __future__ import annotations

import asyncio
import json  # noqa: TID251 (the only decoder here that shows duplicate keys)
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bridge.api.problems import Problem

LARGEST_BODY = 64 * 1024
DEEPEST = 16
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
    """Strict JSON. Raises Problem 422 for anything else: duplicate keys, NaN, deep nesting, broken UTF-8."""
    try:
        data = json.loads(body.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except _Refused as refused:
        raise _invalid(str(refused)) from None
    except UnicodeDecodeError:
        raise _invalid("the body is not UTF-8") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply") from None
    except ValueError:
        raise _invalid("the body is not JSON") from None
    if _depth(data) > DEEPEST:
        raise _invalid("the body is nested too deeply")
    return data


class _Refused(ValueError):
    """JSON that is well-formed but ambiguous."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise _Refused("a name appears twice in one object")
    return data


def _no_constant(name: str) -> NoReturn:
    raise _Refused("NaN and Infinity are not JSON")


def _depth(data: Any) -> int:
    """How deeply lists and objects are nested, without recursion."""
    depth, level = 0, [data]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _invalid(message: str) -> Problem:
    return Problem("invalid-input", message, errors=[("body", message)])
