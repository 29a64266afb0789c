"""The live feed: what crosses the topics, as a page of the last items, and as a stream that goes on with it.

The rule it keeps: a stream lasts no longer than its session, and looking at it keeps no session alive.
"""

import asyncio
import contextlib
import json
from collections import OrderedDict
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import feed, finding
from kosmo_billing_daemon.admin.feed import TOPICS, FeedItem
from kosmo_billing_daemon.console.desk import DESK, operator_of
from kosmo_billing_daemon.console.forms import FormField
from kosmo_billing_daemon.console.rendering import fragment, render, sentence, url
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid, Refused, Unavailable
from kosmo_billing_daemon.web.server.draining import DRAINING

SHOWN: Final = 100
PAUSE: Final = 1.0  # seconds between two looks
MOST_STREAMS: Final = 16
READ_WITHIN: Final = 10.0  # seconds for a browser to take what is sent
_REMEMBERED: Final = 5_000

_STREAMS: web.AppKey[set[object]] = web.AppKey("feed_streams", set)


async def _show(request: web.Request) -> web.Response:
    given = _given(request)
    error, items = "", list[FeedItem]()
    try:
        items = await _load(request, *await _wanted(request))
    except Refused as refused:
        error = sentence(refused.message)
    query = request.rel_url.query_string
    return render(
        request,
        "feed.html",
        status=422 if error else 200,
        items=items,
        error=error,
        given=given,
        fields=_fields(),
        shown=SHOWN,
        stream="" if error else f"/feed/stream?{query}" if query else "/feed/stream",
    )


async def _stream(request: web.Request) -> web.StreamResponse:
    """Send the last items, and what comes after them, until the session or the daemon ends."""
    wanted = await _wanted(request)
    streams, operator = request.app[_STREAMS], operator_of(request)
    if len(streams) >= MOST_STREAMS:
        raise Unavailable(f"{MOST_STREAMS} live feeds are open; close one", code="overloaded")
    me = object()
    streams.add(me)
    try:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        response.content_type = "text/event-stream"
        await response.prepare(request)
        seen: OrderedDict[str, None] = OrderedDict()
        access = request.app[DESK].access
        with contextlib.suppress(ConnectionError, TimeoutError):
            while not request.app[DRAINING].is_set():
                try:
                    if not await access.lasts(operator):
                        await _write(response, "event: end\ndata: {}\n\n")
                        break
                    await _write(response, _new(await _load(request, *wanted), seen))
                except Unavailable:
                    await _write(response, "event: away\ndata: {}\n\n")
                await _pause(request)
        return response
    finally:
        streams.discard(me)


def _new(items: list[FeedItem], seen: OrderedDict[str, None]) -> str:
    """Return what was not sent before, oldest first. If that is nothing, a comment finds out who left."""
    fresh = [item for item in items if item.key not in seen]
    for item in fresh:
        seen[item.key] = None
    while len(seen) > _REMEMBERED:
        seen.popitem(last=False)
    if not fresh:
        return ":\n\n"
    told = {
        "rows": [[item.key, fragment("feed_row.html", item=item)] for item in reversed(fresh)],
    }
    return f"data: {json.dumps(told)}\n\n"


async def _pause(request: web.Request) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAUSE):
            await request.app[DRAINING].wait()


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(READ_WITHIN):
        await response.write(text.encode())


async def _load(request: web.Request, user_id: UserId | None, topic: str) -> list[FeedItem]:
    desk = request.app[DESK]
    return await feed.load(desk.pool, desk.clock, user_id, topic, SHOWN)


def _given(request: web.Request) -> dict[str, str]:
    return {name: request.query.get(name, "").strip() for name in ("user", "topic")}


async def _wanted(request: web.Request) -> tuple[UserId | None, str]:
    given = _given(request)
    if given["topic"] and given["topic"] not in dict(TOPICS):
        raise Invalid("choose a kind of the list", field="topic")
    user = given["user"]
    return (await finding.resolve(request.app[DESK].pool, user) if user else None), given["topic"]


def _fields() -> tuple[FormField, ...]:
    return (
        FormField(name="user", label="User"),
        FormField(name="topic", label="Kind", kind="select", options=[("", "Everything"), *TOPICS]),
    )


def install(app: web.Application) -> None:
    app[_STREAMS] = set()


ROUTES = (web.get(url("/feed"), _show), web.get(url("/feed/stream"), _stream))
