"""The console's server: the page, its way to everything else, and the stream of MQTT messages.

The rule it keeps: it answers pages of its own origin alone, asked for under a name of this machine, since it
acts for any of the demo's users.
"""

import asyncio
import contextlib
from http import HTTPStatus
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.demo.console.phone import Phone
from kosmo_billing_daemon.demo.console.proxy import forward, open_session
from kosmo_billing_daemon.demo.console.tap import Tap
from kosmo_billing_daemon.demo.embedded import HOST
from kosmo_billing_daemon.demo.local_http import is_local, listen, problem
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.web.identity import HEADER
from kosmo_billing_daemon.web.problems import Handler
from kosmo_billing_daemon.web.rendering import json_response

BEAT = 15.0  # seconds between signs of life on a silent stream
MOST_BODY = 16_384  # bytes
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@record
class User:
    """Somebody the page can act for."""

    user_id: str
    name: str


USERS = (
    User("11111111-1111-1111-1111-111111111111", "Ada"),
    User("22222222-2222-4222-8222-222222222222", "Ben"),
    User("33333333-3333-4333-8333-333333333333", "Cleo"),
    User("44444444-4444-4444-8444-444444444444", "Dana"),
)


class Console:
    """The page and what it needs, up within ``async with``. ``api``, ``gateway`` and ``btcpay`` are where the
    other parts of the demo listen; no address has a slash at the end.
    """

    def __init__(self, broker: Broker, *, api: str, gateway: str, btcpay: str, phone: Phone) -> None:
        self.url = ""
        self._api, self._gateway, self._btcpay = api, gateway, btcpay
        self._phone = phone
        self._broker, self._topics = broker, Topics()
        self._known = frozenset(user.user_id for user in USERS)
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as resources:
            self._tap = Tap(self._broker, self._topics)
            tapping = asyncio.create_task(self._tap.run())
            resources.push_async_callback(_ended, tapping)
            self._session: aiohttp.ClientSession = await resources.enter_async_context(open_session())
            # A page that is closed takes its streams with it, at the daemon too, which allows only a few.
            runner = await listen(
                self._application(), HOST, 0, shutdown_timeout=0.1, handler_cancellation=True
            )
            resources.push_async_callback(runner.cleanup)
            self.url = f"http://{HOST}:{runner.addresses[0][1]}"
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_own_page_only], client_max_size=MOST_BODY)
        app.on_response_prepare.append(_dress)
        app.add_routes(
            [
                web.get("/", _page),
                web.static("/static", _STATIC),
                web.get("/setup.json", self._setup),
                web.get("/mqtt", self._mqtt, allow_head=False),
                web.route("*", "/api/{user_id}/{rest:.+}", self._to_api),
                web.route("*", "/gateway/{rest:.+}", self._to_gateway),
                *self._phone.routes(self._known),
                web.route("*", "/btcpay/simulate/{rest:.+}", self._to_simulator),
            ]
        )
        return app

    async def _setup(self, _: web.Request) -> web.Response:
        docs = f"{self._api}{API}/docs"
        return json_response(
            {"users": USERS, "prefix": self._topics.prefix, "btcpay": self._btcpay, "docs": docs}
        )

    async def _to_api(self, request: web.Request) -> web.StreamResponse:
        user_id = request.match_info["user_id"]
        if user_id not in self._known:
            return problem(HTTPStatus.NOT_FOUND, "not_found", "the demo has no such user")
        return await forward(
            request, self._session, f"{self._api}{API}", segments=2, headers={HEADER: user_id}
        )

    async def _to_gateway(self, request: web.Request) -> web.StreamResponse:
        return await forward(request, self._session, self._gateway, segments=1)

    async def _to_simulator(self, request: web.Request) -> web.StreamResponse:
        return await forward(request, self._session, self._btcpay, segments=1)

    async def _mqtt(self, request: web.Request) -> web.StreamResponse:
        """Send what is kept and is new to the reader, then everything as it passes."""
        last = request.headers.get("Last-Event-ID", "")
        number = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        told: bool | None = None
        try:
            await response.write(b"retry: 1000\n\n")
            while True:
                changed = self._tap.changed
                if told is not self._tap.connected:
                    told = self._tap.connected
                    await response.write(b"event: broker\ndata: %s\n\n" % str(told).lower().encode())
                for passed in self._tap.after(number):
                    number = passed.number
                    await response.write(f"id: {number}\ndata: {passed.encode()}\n\n".encode())
                try:
                    async with asyncio.timeout(BEAT):
                        await changed.wait()
                except TimeoutError:
                    await response.write(b":\n\n")
        except ConnectionError:
            request.protocol.force_close()  # the reader has gone
        return response


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(_STATIC / "index.html")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


@web.middleware
async def _own_page_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other origins, and names of other machines that lead here (DNS rebinding)."""
    origin = request.headers.get("Origin")
    if not is_local(f"//{request.host}") or origin not in (None, f"http://{request.host}"):
        return problem(HTTPStatus.FORBIDDEN, "foreign_origin", "only the console's own page may do that")
    return await handler(request)


async def _dress(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
