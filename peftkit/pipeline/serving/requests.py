"""Requests from anyone: read within limits of size and time, and parsed strictly."""

import asyncio
import json
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from peftkit.config.suggestions import listed

MAX_DIGITS = 1000  # of a number
DISCARDED = 32 * 2**20  # bytes of a body that is too large: a client that reads only after sending gets its answer


async def read_body(request: Request, limit: int, timeout: float) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: it is larger than `limit` bytes (413), or does not arrive within `timeout` seconds (408).
    """
    too_large = HTTPException(413, f"the body has more than {limit} bytes, serve.max_bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > DISCARDED:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout):
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > DISCARDED:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {timeout:g} seconds, serve.timeout") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client closed the connection") from None
    if size > limit:
        raise too_large
    return b"".join(parts)


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        HTTPException: it is anything else, or JSON that parsers read differently (400).
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is not UTF-8 at byte {error.start}") from None
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number, parse_constant=_refuse_constant)
    except RecursionError:
        raise HTTPException(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {str(error).splitlines()[0][:200]}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, 'the body is not an object; send {"examples": [{...}]}')
    if unknown := found.keys() - {"run", "examples"}:
        raise HTTPException(400, f"unknown field {listed(sorted(unknown))}; the fields are run and examples")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"an object has {listed([counts.most_common(1)[0][0]])} twice")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")
