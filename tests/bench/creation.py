"""How fast an invoice is opened, BTCPay answering at once: `python -m tests.bench.creation`.

16 requests in flight, beside a plain handler that calls the same BTCPay with httpx's default transport and
keeps a row.
"""

import time
from uuid import uuid4

from tests.bench.figures import Figure, at_least, at_most, percentile
from tests.bench.load_generator import PREFIX, Connection, in_flight, post
from tests.bench.rig import alone, daemon, services
from tests.bench.settlement import TURNS, plain

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
    async with services() as where, daemon(where) as ours, plain(where) as (plain_url, _):
        await create(ours.api, f"{PREFIX}/invoices", 50, [])  # warm
        await create(plain_url, "/invoices", 50, [])
        for _ in range(rounds):
            took: list[float] = []
            plain_took: list[float] = []
            seconds = plain_seconds = 0.0
            for _ in range(TURNS):
                plain_seconds += await create(plain_url, "/invoices", number // TURNS, plain_took)
                seconds += await create(ours.api, f"{PREFIX}/invoices", number // TURNS, took)
            found += [
                Figure(
                    what=f"invoices opened, {IN_FLIGHT} in flight",
                    value=number / seconds,
                    unit="/s",
                    beside=number / plain_seconds,
                    beside_what="plain handler with httpx",
                    goal=at_least(4, ratio=True),
                ),
                Figure(
                    what="  p50 of opening one",
                    value=percentile(took, 50) * 1e3,
                    unit="ms",
                    beside=percentile(plain_took, 50) * 1e3,
                    beside_what="plain handler with httpx",
                ),
                Figure(
                    what="  p99 of opening one",
                    value=percentile(took, 99) * 1e3,
                    unit="ms",
                    beside=percentile(plain_took, 99) * 1e3,
                    beside_what="plain handler with httpx",
                    goal=at_most(15),
                ),
            ]
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
