"""Leaving without dropping anybody: stop accepting, answer what was accepted, then close.

Connections that are not accepted yet wait in the socket of systemd for the next process. Each answer
meanwhile says ``Connection: close``, so that clients go there too. Streams watch ``DRAINING`` and end.
"""

import asyncio
from collections.abc import Sequence
from socket import socket

from aiohttp import web

DRAINING: web.AppKey[asyncio.Event] = web.AppKey("draining")

SETTLE = 0.05  # seconds for connections that were just accepted to reach their handlers
GRACE = 1.0  # seconds within which a kept connection may bring one more request


def install(app: web.Application) -> None:
    """Let responses end their connections once the end has begun."""
    app[DRAINING] = asyncio.Event()
    app.on_response_prepare.append(_part)


async def _part(request: web.Request, response: web.StreamResponse) -> None:
    if request.app[DRAINING].is_set():
        # The headers are made already (aiohttp 3.14), so both the header and the call are needed.
        response.headers["Connection"] = "close"
        response.force_close()


async def drain(runner: web.AppRunner, inherited: Sequence[socket] = ()) -> None:
    """Stop accepting, let requests in flight finish, and close everything.

    Closing asyncio's server at once would lose connections it accepted a few turns ago (CPython 3.11 to
    3.13); so its reader is removed first. uvloop has no reader there, and loses none.
    """
    loop = asyncio.get_running_loop()
    runner.app[DRAINING].set()
    for listening in inherited:
        loop.remove_reader(listening)
    await asyncio.sleep(SETTLE)
    for site in runner.sites:
        await site.stop()
    deadline = loop.time() + GRACE
    while runner.server is not None and runner.server.connections and loop.time() < deadline:  # noqa: ASYNC110  aiohttp tells nobody
        await asyncio.sleep(SETTLE)
    await runner.cleanup()
