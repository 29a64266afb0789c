"""Whether it lasts: webhooks at half the most that it can: `python -m tests.bench.load --minutes 10`.

Memory must stay flat and latency without a trend: the last quarter is compared with the first, the first
tenth (caches fill) left out.
"""

import argparse
import asyncio
import statistics
import time
from uuid import UUID

from tests.bench.figures import Figure, at_most, rows, table
from tests.bench.footprint import memory
from tests.bench.invoices import paid_orders
from tests.bench.load_generator import Connection, Subscriber, at_rate, webhook
from tests.bench.rig import daemon, run, services
from tests.bench.settlement import IN_FLIGHT, Course

SAMPLE_EVERY = 1.0  # seconds between looks at the memory
PER_BATCH = 2_000  # orders prepared at once


async def measure(minutes: float) -> list[Figure]:
    seconds = minutes * 60
    latencies: list[tuple[float, float]] = []
    memories: list[tuple[float, float]] = []
    # A server that never vacuums gets slower whatever we do.
    async with services(autovacuum="on") as where, daemon(where) as ours:
        host, port = where.broker_address
        async with Subscriber(ours.topics, host=host, port=port) as told:
            course = Course(ours.api, ours.webhook_path, told)
            await course.in_flight(await paid_orders(ours.database_url, where.btcpay, 500))  # warm
            most = 1000 / await course.in_flight(await paid_orders(ours.database_url, where.btcpay, 1000))
            began = time.perf_counter()

            async def settle(connection: Connection, job: tuple[UUID, bytes]) -> None:
                sent = time.perf_counter()
                await connection.expect(job[1], 200)
                latencies.append((sent - began, await told.receipt(job[0]) - sent))

            async def watch() -> None:
                while True:
                    memories.append((time.perf_counter() - began, memory(ours.pid)))
                    await asyncio.sleep(SAMPLE_EVERY)

            watching = asyncio.create_task(watch())
            left = round(most / 2 * seconds)
            while left > 0:
                orders = await paid_orders(ours.database_url, where.btcpay, min(left, PER_BATCH))
                jobs = [(user_id, webhook(ours.webhook_path, order_id)) for order_id, user_id in orders]
                await at_rate(ours.api, most / 2, jobs, settle)
                left -= len(orders)
            watching.cancel()
    first, last = _quarters(latencies)
    lean, fat = _quarters(memories)
    name = f"{minutes:g} min at {most / 2:.0f}/s, half of what {IN_FLIGHT} in flight reach"
    return [
        Figure(
            what=f"memory at the end of {name}",
            value=fat,
            unit="MB",
            beside=lean,
            beside_what="at the beginning",
            goal=at_most(1.05, ratio=True),
        ),
        Figure(
            what="  p50 to the subscriber at the end",
            value=last * 1e3,
            unit="ms",
            beside=first * 1e3,
            beside_what="at the beginning",
            goal=at_most(1.15, ratio=True),
        ),
    ]


def _quarters(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Medians of the first and of the last quarter of the time, without the first tenth."""
    end = samples[-1][0]
    first = [value for at, value in samples if end * 0.1 <= at < end * 0.325]
    last = [value for at, value in samples if at >= end * 0.775]
    return statistics.median(first), statistics.median(last)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    print(table(rows(run(measure(parser.parse_args().minutes)))))
