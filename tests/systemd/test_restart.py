"""A restart with the socket in systemd's hands drops no request."""

import asyncio
import json
import signal
from collections import Counter
from uuid import uuid4

import aiohttp
import pytest

from tests.systemd.served import Manager

CLIENTS = 4
BETWEEN = 40  # answers between two restarts


@pytest.mark.timeout(150)
@pytest.mark.parametrize("restarts", [1, pytest.param(20, marks=pytest.mark.soak)])
async def test_no_request_is_dropped_by_restarts_under_load(manager: Manager, restarts: int) -> None:
    answered: Counter[str] = Counter()
    failed: list[str] = []
    enough = asyncio.Event()

    async def client(kind: str, *, keeps: bool) -> None:
        connector = aiohttp.TCPConnector(force_close=not keeps)
        limit = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(manager.url, connector=connector, timeout=limit) as session:
            while not enough.is_set():
                try:
                    status = await (_hint(session) if kind == "hint" else _question(session))
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    failed.append(f"{kind} keeps={keeps}: {error!r}")
                else:
                    answered[kind] += status == 200
                    failed.extend([f"{kind}: {status}"] * (status != 200))

    async def answers(more: int) -> None:
        goal = answered.total() + more
        await manager.until(lambda: answered.total() >= goal or bool(failed), f"{more} more answers")

    await manager.start()
    async with asyncio.TaskGroup() as group:
        for keeps in (False, True):
            for kind in ("hint", "question"):
                for _ in range(CLIENTS // 2):
                    group.create_task(client(kind, keeps=keeps))
        for _ in range(restarts):
            await answers(BETWEEN)
            manager.send(signal.SIGTERM)
            assert await manager.ended() == 0
            await manager.start()
        await answers(BETWEEN)
        enough.set()
    assert failed == []
    assert min(answered["hint"], answered["question"]) > 0
    assert manager.notes.count("READY=1") == 1 + restarts
    assert "Traceback" not in manager.log, manager.log


async def _question(session: aiohttp.ClientSession) -> int:
    async with session.get("/api/v1/billing/subscription", headers={"X-User-ID": str(uuid4())}) as response:
        await response.read()
        return response.status


async def _hint(session: aiohttp.ClientSession) -> int:
    """A POST: no client repeats it by itself when its connection goes."""
    body = {
        "deliveryId": uuid4().hex,
        "originalDeliveryId": uuid4().hex,
        "webhookId": "w",
        "isRedelivery": False,
        "type": "InvoiceSettled",
        "timestamp": 1_700_000_000,
        "storeId": "StoreOne",
        "invoiceId": uuid4().hex[:22],
    }
    async with session.post("/api/v1/billing/webhooks/btcpay", data=json.dumps(body)) as response:
        await response.read()
        return response.status


async def test_what_is_half_sent_is_still_answered_and_what_comes_then_by_the_next_process(
    manager: Manager,
) -> None:
    await manager.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", manager.listening.getsockname()[1])
    writer.write(b"GET /api/v1/billing/plans HTTP/1.1\r\nHost: here\r\n")
    await writer.drain()
    manager.send(signal.SIGTERM)
    await manager.until(lambda: "STOPPING=1" in manager.notes, "stopping")
    writer.write(b"\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert await manager.ended() == 0
    async with aiohttp.ClientSession(manager.url) as session, asyncio.TaskGroup() as group:
        waiting = group.create_task(_question(session))
        await manager.start()
        assert await waiting == 200
