"""One origin for the page: its calls are handed on, and answers come back as they arrive.

It stands where the backend of a real front end stands: it knows who is logged in and says so with
``X-User-ID``. The rule it keeps: only chosen headers cross, in both directions.
"""

from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
from aiohttp import web
from yarl import URL

from kosmo_billing_daemon.demo.local_http import problem

_TO = ("Accept", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID")
_BACK = ("Cache-Control", "Content-Type", "ETag", "Retry-After", "X-Request-ID")
_PIECE = 65_536
_NEVER = aiohttp.ClientTimeout(total=None, sock_connect=5.0)  # a stream lasts as long as its reader


def open_session() -> aiohttp.ClientSession:
    """Open what ``forward`` needs; compressed answers pass as they are asked for: not at all."""
    return aiohttp.ClientSession(
        timeout=_NEVER,
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def forward(
    request: web.Request,
    session: aiohttp.ClientSession,
    base: str,
    *,
    segments: int,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Ask ``base`` for the rest of the path after ``segments`` of it, and stream the answer back."""
    rest = request.rel_url.raw_path.split("/", segments + 1)[-1]
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    sent = {name: request.headers[name] for name in _TO if name in request.headers} | dict(headers or {})
    body = await request.read()
    response: web.StreamResponse | None = None
    try:
        async with session.request(
            request.method,
            URL(f"{base}/{rest}{query}", encoded=True),
            data=body or None,
            headers=sent,
            allow_redirects=False,
        ) as answer:
            kept = {name: answer.headers[name] for name in _BACK if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_chunked(_PIECE):
                await response.write(piece)
    except (aiohttp.ClientError, OSError) as error:
        if response is None:
            return problem(HTTPStatus.BAD_GATEWAY, "unreachable", f"this part of the demo is away: {error}")
        request.protocol.force_close()  # what was begun cannot be finished
    return response
