"""How long a gate goes on allowing what another gate has used up: `python -m tests.bench.propagation`.

From the return of `record` for the last message of a quota at one gate to the refusal at a second one, over
the real broker, the real daemon in a process of its own, and PostgreSQL with fsync on; and the way back,
from a purchase in the database to the answer of both. Between the two times lies the overshoot that two
gates can produce.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.bench.rig import Rig, percentiles, rig
from tests.support.quotes import WANDERER, quoting

NODE = "!a1b2c3d4"
PATIENCE = 20.0

_SUBSCRIBE = quoting(
    WANDERER,
    """
INSERT INTO subscriptions (
    id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit, carried_rule,
    carried_time, carried_messages)
VALUES (gen_random_uuid(), $1, :quote, 'grant', 'active',
    now() - interval '1 minute', now() + interval '29 days', $2, 'fresh', '0', 0)
""",
)


async def until_allowed(gates: Sequence[Gate], user_id: UUID, *, allowed: bool) -> float:
    """Wait for the same answer of all and return the time; an event would be measured along."""
    begun = time.perf_counter()
    while not all(bool(gate.check(user_id, NODE)) is allowed for gate in gates):
        if time.perf_counter() - begun > PATIENCE:
            raise TimeoutError(f"not {allowed=} within {PATIENCE} s: {[gate.status for gate in gates]}")
        await asyncio.sleep(0)
    return time.perf_counter() - begun


async def overshoot(one: Gate, other: Gate, user_id: UUID) -> int:
    """Let both gates pass what they may as fast as they can and return how many messages passed."""
    passed = 0
    begun = time.perf_counter()
    while one.check(user_id, NODE) or other.check(user_id, NODE):
        for gate in (one, other):
            if gate.check(user_id, NODE):
                gate.record(user_id, NODE)
                passed += 1
        await asyncio.sleep(0)
        if time.perf_counter() - begun > PATIENCE:
            raise TimeoutError("the gates do not refuse")
    return passed


async def measure(parts: Rig, rounds: int, quota: int) -> None:
    host, port = parts.broker_address
    connection = await asyncpg.connect(parts.postgres.url)
    opened: list[float] = []
    refused: list[float] = []
    oversold: list[int] = []
    try:
        with temporary_directory("kosmo-bench-gates-") as directory:

            def gate(name: str) -> Gate:
                broker = Broker(host=host, port=port, client_id=name, protocol=parts.broker.protocol)
                return Gate(broker, Path(directory) / f"{name}.db", reporter=name)

            async with gate("gateway-1") as one, gate("gateway-2") as other:
                await one.ready(PATIENCE)
                await other.ready(PATIENCE)
                for _ in range(rounds):
                    user_id = uuid4()
                    await connection.execute(_SUBSCRIBE, user_id, quota)
                    opened.append(await until_allowed([one, other], user_id, allowed=True))
                    for _ in range(quota):
                        one.record(user_id, NODE)
                    refused.append(await until_allowed([other], user_id, allowed=False))
                for _ in range(rounds):
                    user_id = uuid4()
                    await connection.execute(_SUBSCRIBE, user_id, quota)
                    await until_allowed([one, other], user_id, allowed=True)
                    oversold.append(await overshoot(one, other, user_id) - quota)
    finally:
        await connection.close()
    print(f"purchase committed to both gates open    {percentiles(opened)}")
    print(f"last message to refusal at a second gate {percentiles(refused)}")
    print(f"sold above a quota of {quota} by two gates at full speed: at most {max(oversold)} messages")


async def main(rounds: int, quota: int) -> None:
    async with rig() as parts:
        await measure(parts, rounds, quota)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=50)
    arguments.add_argument("--quota", type=int, default=50)
    given = arguments.parse_args()
    asyncio.run(main(given.rounds, given.quota))
