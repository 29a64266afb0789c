"""How fast a settled invoice becomes a retained document: `python -m tests.bench.settlement`.

Prints invoices opened per second, webhooks settled per second to the subscriber's receipt with 32 in
flight, and webhook POST -> document received at 200 per second, open loop.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import aiohttp

from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, Protocol, connect
from tests.bench.rig import PREFIX, SECRET, STORE, Rig, percentiles, rig


class Subscriber:
    """Notes when each user's first active document arrived."""

    def __init__(self) -> None:
        self.arrived: dict[UUID, float] = {}
        self.waiting: dict[UUID, asyncio.Event] = {}

    async def run(self, where: Rig, ready: asyncio.Event) -> None:
        host, port = where.broker_address
        broker = Broker(
            host=host, port=port, client_id="bench", clean=True, protocol=Protocol(where.broker.protocol)
        )
        topics = Topics()
        async with connect(broker) as link:
            await link.subscribe([topics.entitlements_filter])
            ready.set()
            while True:
                for message in await link.receive():
                    user_id = topics.entitlement_user(message.topic)
                    if user_id is not None and b'"active"' in message.payload:
                        self.arrived.setdefault(user_id, time.perf_counter())
                        if event := self.waiting.pop(user_id, None):
                            event.set()
                    link.acknowledge(message)

    async def receipt(self, user_id: UUID) -> float:
        if user_id not in self.arrived:
            event = self.waiting.setdefault(user_id, asyncio.Event())
            async with asyncio.timeout(60):
                await event.wait()
        return self.arrived[user_id]


async def in_flight(number: int, jobs: Sequence[object], work) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Run `work` over all jobs, `number` at a time; returns the seconds it took."""
    queue = iter(jobs)

    async def worker() -> None:
        for job in queue:
            await work(job)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(number)))
    return time.perf_counter() - began


async def paid_invoices(
    where: Rig, http: aiohttp.ClientSession, number: int
) -> tuple[float, list[tuple[UUID, str, str]]]:
    """Open invoices for new users and let them be paid without a webhook; returns opened per second."""
    opened: list[tuple[UUID, str, str]] = []

    async def open_one(user_id: object) -> None:
        async with http.post(
            f"{where.api}{PREFIX}/invoices",
            json={"plan_type": "wanderer"},
            headers={"X-User-ID": str(user_id)},
        ) as response:
            body = await response.json()
            assert response.status == 201, body
            opened.append((UUID(str(user_id)), body["invoice_id"], body["order_id"]))

    seconds = await in_flight(16, [uuid4() for _ in range(number)], open_one)

    async def pay(job: object) -> None:
        assert isinstance(job, tuple)
        url = f"{where.btcpay}/simulate/invoices/{job[1]}"
        async with http.post(url, json={"action": "pay", "method": "BTC-LN"}) as response:
            assert response.status == 200, await response.text()

    await in_flight(16, opened, pay)
    return number / seconds, opened


async def measure(number: int) -> None:
    async with rig() as where, aiohttp.ClientSession() as http:
        subscriber, ready = Subscriber(), asyncio.Event()
        listening = asyncio.create_task(subscriber.run(where, ready))
        await ready.wait()

        async def deliver(job: tuple[UUID, str, str]) -> float:
            body = json.dumps(
                {
                    "deliveryId": str(uuid4()),
                    "type": "InvoiceSettled",
                    "storeId": STORE,
                    "invoiceId": job[1],
                    "metadata": {"orderId": job[2]},
                }
            ).encode()
            began = time.perf_counter()
            async with http.post(
                f"{where.api}{PREFIX}/webhooks/btcpay",
                data=body,
                headers={"BTCPay-Sig": sign(body, SECRET.encode())},
            ) as response:
                assert response.status == 200, await response.text()
            return await subscriber.receipt(job[0]) - began

        await deliver((await paid_invoices(where, http, 50))[1][0])  # warm
        opened_per_second, jobs = await paid_invoices(where, http, number)
        print(f"invoices opened, 16 in flight            {opened_per_second:8.0f} /s")
        latencies: list[float] = []

        async def timed(job: object) -> None:
            assert isinstance(job, tuple)
            latencies.append(await deliver(job))

        seconds = await in_flight(32, jobs, timed)
        print(
            f"webhooks settled, 32 in flight           {number / seconds:8.0f} /s   {percentiles(latencies)}"
        )
        _, jobs = await paid_invoices(where, http, number)
        latencies.clear()
        began = time.perf_counter()
        tasks = []
        for place, job in enumerate(jobs):
            await asyncio.sleep(max(0.0, began + place / 200 - time.perf_counter()))
            tasks.append(asyncio.create_task(timed(job)))
        await asyncio.gather(*tasks)
        print(f"POST -> retained document, 200/s         {'':11}   {percentiles(latencies)}")
        listening.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=2000, help="invoices per measurement")
    asyncio.run(measure(parser.parse_args().number))
