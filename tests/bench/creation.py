"""How fast an invoice is opened, BTCPay answering at once: `python -m tests.bench.creation`.

16 requests in flight, beside a plain handler that calls the same BTCPay with httpx's default transport and
keeps a row; and beside the least that keeps one before it asks, so that nothing paid is ever unknown.
"""

import time
from uuid import uuid4

from kosmo_billing_daemon.contract.paths import API
from tests.bench.figures import Figure, at_least, at_most, percentile
from tests.bench.load_generator import Connection, in_flight, post
from tests.bench.rig import alone, daemon, services
from tests.bench.settlement import TURNS, other

IN_FLIGHT = 16


async def create(url: str, path: str, number: int, took: list[float]) -> float:
    """Open an invoice for each of so many new users; returns the seconds until all are open."""

    async def one(connection: Connection, request: bytes) -> None:
        began = time.perf_counter()
        await connection.expect(request, 201)
        took.append(time.perf_counter() - began)

    requests = [post(path, b'{"plan_type": "wanderer"}', X_User_ID=str(uuid4())) for _ in range(number)]
    return await in_flight(url, IN_FLIGHT, requests, one)


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    number = 200 if quick else 1000
    found: list[Figure] = []
    async with (
        services() as where,
        daemon(where) as ours,
        other(where, "tests.bench.plain_service") as (plain, _),
        other(where, "tests.bench.least_service") as (least, _),
    ):
        paths = {plain: "/invoices", least: "/invoices", ours.api: f"{API}/invoices"}
        for url, path in paths.items():
            await create(url, path, 50, [])  # warm
        for _ in range(rounds):
            times: dict[str, list[float]] = {url: [] for url in paths}
            seconds = dict.fromkeys(paths, 0.0)
            for _ in range(TURNS):
                for url, path in paths.items():
                    seconds[url] += await create(url, path, number // TURNS, times[url])
            took, least_took = times[ours.api], times[least]
            rate, plain_rate, least_rate = (number / seconds[url] for url in (ours.api, plain, least))
            found += [
                Figure(
                    what=f"invoices opened, {IN_FLIGHT} in flight",
                    value=rate,
                    unit="/s",
                    beside=least_rate,
                    beside_what="least service",
                    goal=at_least(0.8, ratio=True),
                ),
                Figure(
                    what="  beside a plain handler with httpx",
                    value=rate,
                    unit="/s",
                    beside=plain_rate,
                    beside_what="plain handler",
                    goal=at_least(4, ratio=True),
                ),
                Figure(
                    what="  p50 of opening one",
                    value=percentile(took, 50) * 1e3,
                    unit="ms",
                    beside=percentile(least_took, 50) * 1e3,
                    beside_what="least service",
                ),
                Figure(
                    what="  p99 of opening one",
                    value=percentile(took, 99) * 1e3,
                    unit="ms",
                    beside=percentile(least_took, 99) * 1e3,
                    beside_what="least service",
                    goal=at_most(1.3, ratio=True),
                ),
            ]
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
