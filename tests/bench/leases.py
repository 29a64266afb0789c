"""What leases cost and what they prevent: `python -m tests.bench.leases`.

Three gates send one user's last 500 messages over the real broker and the real daemon, each one message every
20 ms, which is more than a radio does. Strict: how many decisions found a lease at once, how long the others
waited, and how many passed in all. Not strict, one of them cut off: by how much the limit is exceeded.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.propagation import _SUBSCRIBE, NODE, until_allowed
from tests.bench.rig import Rig, alone, rig

LIMIT = 500
EVERY = 0.02  # seconds between messages of one gate

Database: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def send(gate: Gate, user_id: UUID, waits: list[float], at_once: list[bool]) -> int:
    """Send until nothing is left; note of each decision whether it waited for a lease."""
    passed = 0
    while True:
        begun, waited = time.perf_counter(), False
        while not (hold := gate.hold(user_id, NODE)):
            if hold.reason is Reason.QUOTA_EXHAUSTED:
                return passed
            waited = True
            try:
                await gate.leased(user_id, 0.5)
            except TimeoutError:
                continue
        at_once.append(not waited)
        if waited:
            waits.append((time.perf_counter() - begun) * 1e3)
        hold.commit()
        passed += 1
        await asyncio.sleep(EVERY)


async def strict(at: Rig, directory: Path, connection: Database) -> list[Figure]:
    user_id, (host, port) = uuid4(), at.broker_address
    await connection.execute(_SUBSCRIBE, user_id, LIMIT)
    waits: list[float] = []
    at_once: list[bool] = []
    async with AsyncExitStack() as stack:
        gates = [
            await stack.enter_async_context(
                Gate(
                    Broker(host=host, port=port, client_id=name),
                    directory / f"{user_id}-{name}.db",
                    reporter=name,
                    strict=True,
                )
            )
            for name in ("one", "two", "three")
        ]
        for gate in gates:
            while gate.check(user_id, NODE).reason is Reason.UNKNOWN_USER:  # noqa: ASYNC110  no event says so
                await asyncio.sleep(0.01)
            await gate.leased(user_id, 10)
        passed = sum(await asyncio.gather(*(send(gate, user_id, waits, at_once) for gate in gates)))
        begun = time.perf_counter()
        while any(gate.status.unacknowledged for gate in gates):
            assert time.perf_counter() - begun < 20
            await asyncio.sleep(0.05)
    used = await connection.fetchval("SELECT messages_used FROM subscriptions WHERE user_id = $1", user_id)
    waits.sort()
    share = 100 * sum(at_once) / len(at_once)
    return [
        Figure(what="leases: passed above the limit", value=passed - LIMIT, unit="messages", goal=at_most(0)),
        Figure(what="leases: counted above the limit", value=used - LIMIT, unit="messages", goal=at_most(0)),
        Figure(what="leases: decisions without waiting", value=share, unit="%", goal=at_least(99)),
        Figure(
            what="leases: the others, p99",
            value=waits[int(len(waits) * 0.99)] if waits else 0.0,
            unit="ms",
            goal=at_most(25),
        ),
    ]


async def cut_off(at: Rig, directory: Path, connection: Database) -> list[Figure]:
    """Two connected gates and one that is cut off, none of them strict."""
    user_id, (host, port) = uuid4(), at.broker_address
    await connection.execute(_SUBSCRIBE, user_id, LIMIT)
    state = directory / f"{user_id}.db"
    async with Gate(Broker(host=host, port=port, client_id="three"), state, reporter="three") as gate:
        await until_allowed([gate], user_id, allowed=True)
    nowhere = Broker(host="127.0.0.1", port=1, client_id="three")
    at_broker = [Broker(host=host, port=port, client_id=name) for name in ("one", "two")]
    files = [directory / f"{user_id}-{number}.db" for number in range(2)]
    async with (
        Gate(at_broker[0], files[0], reporter="one") as one,
        Gate(at_broker[1], files[1], reporter="two") as two,
        Gate(nowhere, state, reporter="three") as three,
    ):
        await until_allowed([one, two, three], user_id, allowed=True)
        passed = sum(await asyncio.gather(*(send(gate, user_id, [], []) for gate in (one, two, three))))
    what = "not strict, one of three cut off: passed above the limit"
    return [Figure(what=what, value=passed - LIMIT, unit="messages")]


async def measure(rounds: int, *, quick: bool = False) -> list[Figure]:
    found: list[Figure] = []
    with temporary_directory("kosmo-leases-") as directory:
        async with rig() as at:
            connection = await asyncpg.connect(at.database_url)
            for _ in range(1 if quick else rounds):
                found += await strict(at, directory, connection)
                found += await cut_off(at, directory, connection)
            await connection.close()
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
