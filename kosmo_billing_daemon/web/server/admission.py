"""How many connections are held at once, and which one is closed when one more comes.

The rule it keeps: a client that only holds connections costs no other client a purchase. Clients never get
the descriptors that database, broker and BTCPay need. For one connection too many the one is closed that has
asked for nothing longest: a silent one, one with half a head, or one that a proxy keeps for later. What all
clients together have sent without an answer is bounded too: half a head may be a megabyte, and twice that
where it is kept.
"""

import asyncio
import logging
import socket
import time
from typing import Any

from aiohttp import web

from kosmo_billing_daemon.runtime import descriptors
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.health import Check

log = logging.getLogger(__name__)

MOST = 8000
"""Where descriptors are plenty memory is the bound."""

OWN = 96
"""Descriptors kept back beside the database's: 32 to BTCPay, the broker, the loop, name look-ups, spares."""

MOST_UNANSWERED = 96 << 20
"""Bytes of requests under way, of all clients together: 16 KB for each stream there may be."""

UNREAD_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is given up."""

CROWDED = 0.9  # of all there may be
CROWDED_SECONDS = 60.0  # since a connection had to be closed


class Admission:
    """Every connection there is. ``own`` descriptors are kept back for others."""

    def __init__(
        self,
        *,
        own: int = OWN,
        most: int = MOST,
        most_unanswered: int = MOST_UNANSWERED,
        unread_seconds: float = UNREAD_SECONDS,
    ) -> None:
        self.displaced = 0
        self._own = own
        self._most = most
        self._most_unanswered = most_unanswered
        self._unread = round(unread_seconds * 1000)
        self._held: dict[web.RequestHandler, asyncio.Transport] = {}
        self._idle: dict[web.RequestHandler, None] = {}  # in the order in which they came to rest
        self._unanswered: dict[web.RequestHandler, int] = {}  # bytes
        self._unanswered_in_all = 0
        self._displaced_at = float("-inf")
        self._throttle = LogThrottle()

    @property
    def held(self) -> int:
        """How many connections there are."""
        return len(self._held)

    @property
    def most(self) -> int:
        """How many there may be: at least half of what the process may open, however little that is."""
        allowed = descriptors.limit()
        return min(self._most, max(allowed - self._own, allowed // 2))

    def health(self) -> Check:
        """Say whether it is so full that some had to go, and in the log when it is no more."""
        had_to_go = time.monotonic() - self._displaced_at < CROWDED_SECONDS
        is_crowded = had_to_go and self.held > self.most * CROWDED
        if not is_crowded and self._throttle.forget("crowded"):
            log.info("there is room for connections again: %d of %d are held", self.held, self.most)
        told = f"{self.held} of {self.most}"
        return Check(not is_crowded, f"{told}; idle ones are closed for new ones" if is_crowded else told)

    def metrics(self) -> dict[str, float]:
        return {"http_connections": self.held, "http_displaced_total": self.displaced}

    def made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in."""
        self._held[handler] = transport
        self._idle[handler] = None
        if len(self._held) > self.most:
            self._displace(next(iter(self._idle)))  # the newest one, if all others wait for answers
            if self._throttle.allows("crowded"):
                log.warning(
                    "%d connections are held: for each more, the longest idle one is closed", self.most
                )
        listened = transport.get_extra_info("socket")
        if listened is not None and listened.family in (socket.AF_INET, socket.AF_INET6):
            listened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unread)

    def asks(self, handler: web.RequestHandler) -> None:
        """Protect a connection from being displaced while it waits for an answer."""
        self._idle.pop(handler, None)

    def answered(self, handler: web.RequestHandler) -> None:
        self._unanswered_in_all -= self._unanswered.pop(handler, 0)
        if handler in self._held:
            self._idle[handler] = None

    def received(self, handler: web.RequestHandler, size: int) -> None:
        """Count what a client sends; when it is too much in all, the connection with most of it is closed."""
        if handler not in self._held:  # it had to go a moment ago
            return
        self._unanswered[handler] = self._unanswered.get(handler, 0) + size
        self._unanswered_in_all += size
        if self._unanswered_in_all > self._most_unanswered:
            self._displace(max(self._unanswered, key=self._unanswered.__getitem__))
            if self._throttle.allows("unanswered"):
                log.warning(
                    "requests under way have more than %d bytes: the largest is cut off",
                    self._most_unanswered,
                )

    def lost(self, handler: web.RequestHandler) -> None:
        self._held.pop(handler, None)
        self._idle.pop(handler, None)
        self._unanswered_in_all -= self._unanswered.pop(handler, 0)

    def _displace(self, handler: web.RequestHandler) -> None:
        transport = self._held[handler]
        self.lost(handler)
        transport.abort()  # not close(), which would wait for what a slow reader does not take
        self.displaced += 1
        self._displaced_at = time.monotonic()


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


class _AdmittedHandler(web.RequestHandler):
    __slots__ = ("_admission",)

    def __init__(self, server: "_Server", admission: Admission, **options: Any) -> None:
        super().__init__(server, **options)
        self._admission = admission

    def data_received(self, data: bytes) -> None:
        self._admission.received(self, len(data))
        super().data_received(data)


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

    def __call__(self) -> web.RequestHandler:
        return _AdmittedHandler(self, self._admission, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._admission.made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._admission.lost(handler)
