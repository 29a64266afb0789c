"""How many connections are held at once, and who goes when one more comes.

The rule it keeps: who only holds connections costs nobody a purchase. The descriptors that database, broker
and BTCPay need are never given to clients; and for one connection too many the one goes that has asked
nothing for longest: silent, with half a head, or kept for later by a proxy.
"""

import asyncio
import logging
import socket
import time
from typing import Any

from aiohttp import web

from kosmo_billing_daemon import descriptors
from kosmo_billing_daemon.backoff import Quiet

log = logging.getLogger(__name__)

MOST = 8000
"""Where descriptors are plenty memory is the bound."""

OWN = 96
"""Descriptors kept back beside the database's: 32 to BTCPay, the broker, the loop, name look-ups, spares."""

UNREAD_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is given up."""

CROWDED = 0.9  # of all there may be
CROWDED_SECONDS = 60.0  # since somebody had to go


class Admission:
    """Every connection there is. ``own`` descriptors are kept back for others."""

    def __init__(self, *, own: int = OWN, most: int = MOST, unread_seconds: float = UNREAD_SECONDS) -> None:
        self.displaced = 0
        self._own = own
        self._most = most
        self._unread = round(unread_seconds * 1000)
        self._held: dict[web.RequestHandler, asyncio.Transport] = {}
        self._idle: dict[web.RequestHandler, None] = {}  # in the order in which they came to rest
        self._displaced_at = float("-inf")
        self._quiet = Quiet()

    @property
    def held(self) -> int:
        """How many connections there are."""
        return len(self._held)

    @property
    def most(self) -> int:
        """How many there may be: at least half of what the process may open, however little that is."""
        allowed = descriptors.limit()
        return min(self._most, max(allowed - self._own, allowed // 2))

    def look(self) -> bool:
        """Say whether it is so full that some had to go, and in the log when it is no more."""
        had_to_go = time.monotonic() - self._displaced_at < CROWDED_SECONDS
        is_crowded = had_to_go and self.held > self.most * CROWDED
        if not is_crowded and self._quiet.forget("crowded"):
            log.info("there is room for connections again: %d of %d are held", self.held, self.most)
        return is_crowded

    def made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in."""
        self._held[handler] = transport
        self._idle[handler] = None
        if len(self._held) > self.most:
            self._displace()
        listened = transport.get_extra_info("socket")
        if listened is not None and listened.family in (socket.AF_INET, socket.AF_INET6):
            listened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unread)

    def asks(self, handler: web.RequestHandler) -> None:
        """Let nobody take the place of who waits for an answer."""
        self._idle.pop(handler, None)

    def answered(self, handler: web.RequestHandler) -> None:
        if handler in self._held:
            self._idle[handler] = None

    def lost(self, handler: web.RequestHandler) -> None:
        self._held.pop(handler, None)
        self._idle.pop(handler, None)

    def _displace(self) -> None:
        handler = next(iter(self._idle))  # whoever came last, if all others wait for answers
        transport = self._held[handler]
        self.lost(handler)
        transport.abort()  # not close(), which would wait for what a slow reader does not take
        self.displaced += 1
        self._displaced_at = time.monotonic()
        if self._quiet.allows("crowded"):
            log.warning("%d connections are held: for each more, the longest idle one is closed", self.most)


class Runner(web.AppRunner):
    """aiohttp's, with an admission that knows every connection."""

    def __init__(self, app: web.Application, admission: Admission, **options: Any) -> None:
        super().__init__(app, **options)
        self._admission = admission

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()  # aiohttp 3 has no hook to choose its class
        return _Server(
            plain.request_handler, self._admission, request_factory=plain.request_factory, **self._kwargs
        )


class _Server(web.Server):
    def __init__(self, answer: Any, admission: Admission, **options: Any) -> None:
        async def admitted(request: web.BaseRequest) -> web.StreamResponse:
            handler = request.protocol
            admission.asks(handler)
            try:
                response: web.StreamResponse = await answer(request)
                return response
            finally:
                admission.answered(handler)

        super().__init__(admitted, **options)
        self._admission = admission

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._admission.made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._admission.lost(handler)
