"""How soon the end of subscriptions is told: `python -m tests.bench.expiry`.

One by itself, and ten thousand that end in the same second, each from its end to a subscriber's receipt.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.link import Broker, Link, Protocol, connect
from tests.bench.figures import Figure, at_most, percentile
from tests.bench.rig import Rig, alone, rig
from tests.support.quotes import GUARDIAN, quoting

TOGETHER = 10_000
SINGLE = 5
PATIENCE = 60.0

_SUBSCRIBE = quoting(
    GUARDIAN,
    """
INSERT INTO subscriptions (
    id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit, carried_rule,
    carried_time, carried_messages, reminder_hours)
SELECT gen_random_uuid(), u, :quote, 'grant', 'active',
    $2::timestamptz - interval '29 days', $2::timestamptz + interval '1 second' * place / $3::integer, 500,
    'fresh', '0', 0, 0
FROM unnest($1::uuid[]) WITH ORDINALITY AS row (u, place)
RETURNING user_id, valid_until
""",
)


async def told(link: Link, where: Rig, ends: dict[UUID, datetime]) -> list[float]:
    """Wait for the document of each after its end; returns the seconds from end to receipt."""
    waiting, late = dict(ends), list[float]()
    async with asyncio.timeout(PATIENCE):
        while waiting:
            for message in await link.receive():
                link.acknowledge(message)
                user_id = where.topics.entitlement_user(message.topic)
                if user_id in waiting and b'"expired"' in message.payload:
                    late.append((datetime.now(UTC) - waiting.pop(user_id)).total_seconds())
    return late


async def ending(where: Rig, link: Link, users: Sequence[UUID], after: timedelta) -> list[float]:
    """Have users' subscriptions end within one second, beginning ``after`` from now."""
    connection = await asyncpg.connect(where.postgres.url)
    rows = await connection.fetch(_SUBSCRIBE, users, datetime.now(UTC) + after, len(users))
    await connection.close()
    return await told(link, where, {row["user_id"]: row["valid_until"] for row in rows})


async def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """How late the last of many and the slowest of a few single ones were told."""
    together = TOGETHER // 10 if quick else TOGETHER
    found: list[Figure] = []
    async with rig() as where:
        host, port = where.broker_address
        broker = Broker(
            host=host, port=port, client_id="bench", clean=True, protocol=Protocol(where.broker.protocol)
        )
        async with connect(broker) as link:
            await link.subscribe([f"{where.topics.prefix}/entitlements/#"])
            for _ in range(rounds):
                single = [
                    (await ending(where, link, [uuid4()], timedelta(seconds=0.2)))[0] for _ in range(SINGLE)
                ]
                late = await ending(where, link, [uuid4() for _ in range(together)], timedelta(seconds=8))
                found += [
                    Figure(
                        what="a single subscription's end to its document",
                        value=max(single) * 1000,
                        unit="ms",
                        goal=at_most(50),
                    ),
                    Figure(
                        what=f"{together} ends in one second, the last document",
                        value=max(late),
                        unit="s",
                        goal=at_most(2),
                    ),
                    Figure(what=f"{together} ends in one second, p50", value=percentile(late, 50), unit="s"),
                ]
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
