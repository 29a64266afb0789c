"""Requests sent as fast as a benchmark needs them: requests put together before, read back without a parser.

An HTTP client for people costs more processor time than the daemon does, on the same two cores.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, connect
from tests.bench.fake_btcpay import STORE, btcpay_id

SECRET = "bench-secret"
PATIENCE = 60.0

T = TypeVar("T")


class Connection:
    """One HTTP/1.1 connection with keep-alive."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request and return status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        body = await self._reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
        return int(head[9:12]), body

    async def expect(self, request: bytes, *statuses: int) -> bytes:
        status, body = await self.exchange(request)
        if status not in statuses:
            raise RuntimeError(f"answered {status}: {body.decode(errors='replace')}")
        return body


def post(path: str, body: bytes, **headers: str) -> bytes:
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{named}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, **headers: str) -> bytes:
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{named}\r\n".encode()


def webhook(path: str, order_id: UUID, invoice_id: str | None = None) -> bytes:
    """The delivery BTCPay sends when an invoice settles, signed; its id is the fake's if none is given."""
    told = {
        "deliveryId": str(uuid4()),
        "webhookId": "BenchWebhook",
        "originalDeliveryId": str(uuid4()),
        "isRedelivery": False,
        "type": "InvoiceSettled",
        "timestamp": int(time.time()),
        "storeId": STORE,
        "invoiceId": invoice_id or btcpay_id(str(order_id)),
        "metadata": {"orderId": str(order_id)},
        "manuallyMarked": False,
        "overPaid": False,
    }
    body = json.dumps(told).encode()
    return post(path, body, BTCPay_Sig=sign(body, SECRET.encode()))


class Subscriber:
    """Notes when each user's first active document arrived; only those of ``users`` if given."""

    def __init__(self, topics: Topics, *, host: str, port: int, users: Sequence[UUID] | None = None) -> None:
        self.arrived: dict[UUID, float] = {}
        self._filters = [topics.entitlements_filter] if users is None else [*map(topics.entitlement, users)]
        self._broker = Broker(host=host, port=port, client_id=f"bench-{uuid4().hex}", clean=True)
        self._waiting: dict[UUID, asyncio.Future[None]] = {}
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(
                {self._task, asyncio.ensure_future(self._ready.wait())}, return_when=asyncio.FIRST_COMPLETED
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def receipt(self, user_id: UUID) -> float:
        """Wait for the user's document; returns when it came."""
        if user_id not in self.arrived:
            self._waiting[user_id] = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(PATIENCE):
                await self._waiting[user_id]
        return self.arrived[user_id]

    async def _run(self) -> None:
        async with connect(self._broker) as link:
            await link.subscribe(self._filters, qos=0)
            self._ready.set()
            while True:
                for message in await link.receive():
                    if b'"active"' not in message.payload:
                        continue
                    user_id = UUID(message.topic[-36:])
                    self.arrived.setdefault(user_id, time.perf_counter())
                    if waiting := self._waiting.pop(user_id, None):
                        waiting.set_result(None)


async def in_flight(
    url: str, number: int, jobs: Iterable[T], work: Callable[[Connection, T], Awaitable[object]]
) -> float:
    """Run `work` over all jobs, `number` at a time, each over its own connection; returns the seconds."""
    queue = iter(jobs)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(url)) for _ in range(number)]

        async def worker(connection: Connection) -> None:
            for job in queue:
                await work(connection, job)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(worker(connection))
        return time.perf_counter() - began


async def at_rate(
    url: str, per_second: float, jobs: Sequence[T], work: Callable[[Connection, T], Awaitable[object]]
) -> None:
    """Start `work` at fixed times, whatever became of the work before."""
    async with AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(Connection(url)) for _ in range(32)]

        async def one(job: T) -> None:
            connection = idle.pop() if idle else await stack.enter_async_context(Connection(url))
            await work(connection, job)
            idle.append(connection)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for place, job in enumerate(jobs):
                await asyncio.sleep(max(0.0, began + place / per_second - time.perf_counter()))
                group.create_task(one(job))
