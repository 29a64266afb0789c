"""A relay before BTCPay that counts what is asked, and can spoil what it answers, or answer in its place."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Spoil = Callable[[str, Any], Any]


@dataclass
class Relay:
    """``asked`` holds the method and path of every request, without its query.

    ``answer`` keeps a request from BTCPay; ``instead`` lets it pass and keeps back what BTCPay answers. What
    BTCPay answers is held back while ``passes`` is not set.
    """

    target: str
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    spoil: Spoil | None = None
    refuse: Callable[[str, str], bool] | None = None
    answer: Callable[[web.Request], web.Response] | None = None
    instead: Callable[[web.Request], web.Response] | None = None
    passes: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.passes.set()

    @property
    def lists(self) -> int:
        """How many list calls were made."""
        return sum(1 for method, path in self.asked if method == "GET" and path.endswith("/invoices"))

    async def pass_on(self, session: aiohttp.ClientSession, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        if self.answer is not None:
            return self.answer(request)
        if self.refuse is not None and self.refuse(request.method, request.path):
            return web.json_response({"code": "generic-error", "message": "not today"}, status=400)
        headers = {
            name: request.headers[name]
            for name in ("Authorization", "Content-Type")
            if name in request.headers
        }
        url = self.target + request.path_qs
        async with session.request(request.method, url, headers=headers, data=await request.read()) as answer:
            body = await answer.read()
            await self.passes.wait()
            if self.instead is not None:
                return self.instead(request)
            if self.spoil is not None and answer.status == 200:
                body = json.dumps(self.spoil(request.path, json.loads(body))).encode()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type)


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[Relay]:
    """Listen on a free port and pass everything on to ``target``."""
    passing = Relay(target)
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            return await passing.pass_on(session, request)

        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            passing.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield passing
        finally:
            await runner.cleanup()


def unreadable(invoice_id: str) -> Spoil:
    """Give one invoice a status that the API does not promise, wherever it appears."""

    def spoil(_path: str, document: Any) -> Any:
        for entry in document if isinstance(document, list) else [document]:
            if entry.get("id") == invoice_id:
                entry["status"] = "Frozen"
        return document

    return spoil
