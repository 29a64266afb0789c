"""An operator's endpoint that hooks are sent to: it notes what arrives, and answers as it is told to."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web
from standardwebhooks.webhooks import Webhook

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Received:
    """One request, and when it came (monotonic)."""

    id: str
    body: bytes
    headers: dict[str, str]
    at: float


@dataclass
class Endpoint:
    """``reply`` answers each request; 200 until it is replaced."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    reply: Reply = field(default=lambda _: answer(200))

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    def verify(self, secret: str) -> None:
        """Check every signature with the library that receivers use."""
        for one in self.received:
            library = Webhook(secret)
            if one.headers["content-type"] == "application/json":
                library.verify(one.body, one.headers)
            else:  # it reads what it verifies as JSON
                at = datetime.fromtimestamp(int(one.headers["webhook-timestamp"]), UTC)
                assert one.headers["webhook-signature"] == library.sign(one.id, at, one.body.decode())

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers["webhook-id"], body, headers, time.monotonic()))
        return await self.reply(request)


async def answer(status: int, text: str = "", **headers: str) -> web.StreamResponse:
    return web.Response(status=status, text=text, headers=headers)


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits that long")


@contextlib.asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on loopback."""
    made = Endpoint()
    application = web.Application()
    application.router.add_post("/{path:.*}", made.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield made
    finally:
        await runner.cleanup()
