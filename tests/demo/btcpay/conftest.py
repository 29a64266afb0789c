"""A simulator on a clock moved by hand, a client with its key, and a receiver of webhooks."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kosmo_billing_daemon.demo.btcpay import Simulator

STORE = "StoreOne"
KEY = "a1" * 20
SECRET = "hook secret"
DEADLINE = 5


@dataclass
class HandClock:
    """A clock that stands still until a test moves it."""

    now: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@dataclass
class Received:
    """One webhook request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def type(self) -> str:
        return str(self.body["type"])


@dataclass
class Receiver:
    """An HTTP server that keeps what it gets and answers with the queued statuses, then 200."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, request: web.Request) -> web.Response:
        received = Received(request.method, request.path, dict(request.headers), await request.read())
        async with self.arrived:
            self.requests.append(received)
            self.arrived.notify_all()
        status = self.statuses.pop(0) if self.statuses else 200
        headers = {"Location": self.location} if 300 <= status < 400 else {}
        return web.Response(status=status, headers=headers)

    async def wait_for(self, count: int) -> list[Received]:
        async with asyncio.timeout(DEADLINE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    @property
    def types(self) -> list[str]:
        return [received.type for received in self.requests]


@dataclass
class Api:
    """A client of one simulator."""

    simulator: Simulator
    session: aiohttp.ClientSession

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: list[tuple[str, str]] | None = None,
        key: str | None = KEY,
    ) -> tuple[int, Any]:
        """Return status and parsed body (None when empty)."""
        headers = {} if key is None else {"Authorization": f"token {key}"}
        url = self.simulator.url + path
        async with self.session.request(method, url, params=query, headers=headers, json=body) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    async def create(self, amount: object = "5.00", **body: Any) -> dict[str, Any]:
        status, invoice = await self.call(
            "POST", f"/api/v1/stores/{STORE}/invoices", {"amount": amount, **body}
        )
        assert status == 200, invoice
        assert isinstance(invoice, dict)
        return invoice

    async def invoice(self, invoice_id: str) -> dict[str, Any]:
        status, invoice = await self.call("GET", f"/api/v1/invoices/{invoice_id}")
        assert status == 200, invoice
        assert isinstance(invoice, dict)
        return invoice

    async def found(self, *query: tuple[str, str]) -> list[str]:
        """Return the ids the list call finds."""
        status, invoices = await self.call("GET", f"/api/v1/stores/{STORE}/invoices", query=list(query))
        assert status == 200, invoices
        return [invoice["id"] for invoice in invoices]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def simulator(clock: HandClock) -> AsyncIterator[Simulator]:
    async with Simulator(store_id=STORE, api_key=KEY, clock=clock, retry_waits=(0.01,) * 8) as running:
        yield running


@pytest.fixture
async def api(simulator: Simulator) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(simulator, session)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    server = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
def hook(simulator: Simulator, receiver: Receiver) -> str:
    """The id of a webhook that reaches the receiver."""
    return simulator.add_webhook(f"{receiver.url}/hook", SECRET)
