"""How many usage events are committed and acknowledged per second: `python -m tests.bench.usage`.

The limits first: the same statements alone, one connection, in several batch sizes, on the same server; and
the link alone, a consumer that answers each report at once without counting it. Then 500-event reports of ten
reporters through broker and daemon, from the first publication to the last usage-ack. In the end the sums
must be exact.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

import asyncpg

from kosmo_billing_daemon.contract.payloads import UsageAck, UsageEvent, UsageReport
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.contract.usage_columns import Row, UsageColumns
from kosmo_billing_daemon.link import Broker, Link, Protocol, connect
from kosmo_billing_daemon.store import usage
from kosmo_billing_daemon.store.migrations import migrate
from kosmo_billing_daemon.store.usage import UsageRows
from tests.bench.figures import Figure, at_least, percentile
from tests.bench.rig import Rig, alone, rig
from tests.support.postgres import create_database
from tests.support.quotes import GUARDIAN, quoting

USERS = 1000
REPORTERS = 10
PER_REPORT = 500
IN_FLIGHT = 3  # reports of one reporter without an answer, as a gate has them
TOPICS = Topics()
BARE = Topics("bench/link")  # where no daemon listens

_SUBSCRIBE = quoting(
    GUARDIAN,
    """
INSERT INTO subscriptions (
    id, user_id, quote_id, source, status, valid_from, valid_until, messages_limit, carried_rule,
    carried_time, carried_messages)
SELECT gen_random_uuid(), u, :quote, 'grant', 'active',
    now() - interval '1 day', now() + interval '29 days', 1000000000, 'fresh', '0', 0
FROM unnest($1::uuid[]) AS u
""",
)

_numbers = count()


def message_id(now: float) -> str:
    """Like a gate's: UUID version 7 with a counter."""
    value = (
        int(now * 1000) << 80 | 7 << 76 | (next(_numbers) & 0xFFF) << 64 | 2 << 62 | random.getrandbits(62)
    )
    return str(UUID(int=value))


def report(users: Sequence[UUID], number: int) -> UsageReport:
    now = datetime.now(UTC)
    return UsageReport(
        report_id=f"r{number}",
        events=tuple(
            UsageEvent(
                message_id=message_id(now.timestamp()),
                user_id=random.choice(users),
                node_id="!0a1b2c3d",
                sent_at=now - timedelta(seconds=1, microseconds=random.randrange(10**6)),
            )
            for _ in range(PER_REPORT)
        ),
    )


async def by_itself(url: str, users: Sequence[UUID], reports: int, per_batch: int) -> float:
    """Events per second of the same statements by themselves."""
    batches: list[UsageRows] = []
    for first in range(0, reports, per_batch):
        rows: list[Row] = []
        for number in range(first, first + per_batch):
            rows += UsageColumns.decode(report(users, number).encode()).rows()
        user_id, ids, node_id, number_of, sent_at, lease_id = zip(*rows, strict=True)
        batches.append(
            UsageRows(
                user_id=user_id,
                message_id=ids,
                node_id=node_id,
                count=number_of,
                sent_at=sent_at,
                lease_id=lease_id,
                report=[n // PER_REPORT for n in range(len(rows))],
                reporters=[f"gateway-{n % REPORTERS}" for n in range(per_batch)],
            )
        )
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    began = time.perf_counter()
    for batch in batches:
        async with connection.transaction():
            await usage.lock_counters(connection, set(batch.user_id))
            accepted = await usage.count(connection, batch, datetime.now(UTC))
            assert sum(accepted) == len(batch.user_id)
    seconds = time.perf_counter() - began
    await connection.close()
    return sum(len(batch.user_id) for batch in batches) / seconds


async def answer_at_once(where: Rig, ready: asyncio.Event) -> None:
    """Consume reports as the daemon does, without a database."""
    host, port = where.broker_address
    broker = Broker(
        host=host, port=port, client_id="bare", clean=True, protocol=Protocol(where.broker.protocol)
    )
    async with connect(broker) as link:
        await link.subscribe([BARE.usage_filter])
        ready.set()
        while True:
            for message in await link.receive():
                columns = UsageColumns.decode(message.payload)
                reporter = BARE.usage_reporter(message.topic)
                assert reporter is not None
                ack = UsageAck(report_id=columns.report_id, accepted=len(columns), duplicates=0)
                link.send(BARE.usage_ack(reporter), ack.encode()).add_done_callback(
                    lambda sent: sent.result()
                )
                link.acknowledge(message)


async def through(
    where: Rig, users: Sequence[UUID], reports: int, round_: int, topics: Topics = TOPICS
) -> tuple[float, list[float]]:
    """Events per second from publication to usage-ack, and the seconds each report took."""
    host, port = where.broker_address
    payloads = [report(users, number).encode() for number in range(reports)]
    latencies: list[float] = []

    async def reporter(name: str, mine: list[tuple[str, bytes]], ready: asyncio.Barrier) -> None:
        broker = Broker(
            host=host, port=port, client_id=name, clean=True, protocol=Protocol(where.broker.protocol)
        )
        async with connect(broker) as link:
            await link.subscribe([topics.usage_ack(name)])
            await ready.wait()
            await _report(link, topics.usage(name), mine, latencies)

    shares = [
        [(f"r{number}", payloads[number]) for number in range(first, reports, REPORTERS)]
        for first in range(REPORTERS)
    ]
    ready = asyncio.Barrier(REPORTERS + 1)
    tasks = [
        asyncio.create_task(reporter(f"bench-{round_}-{n}", share, ready)) for n, share in enumerate(shares)
    ]
    await ready.wait()
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    return reports * PER_REPORT / (time.perf_counter() - began), latencies


async def _report(link: Link, topic: str, mine: list[tuple[str, bytes]], latencies: list[float]) -> None:
    waiting: dict[str, float] = {}
    queue = iter(mine)

    def send_next() -> None:
        if following := next(queue, None):
            waiting[following[0]] = time.perf_counter()
            link.send(topic, following[1]).add_done_callback(lambda sent: sent.result())

    for _ in range(IN_FLIGHT):
        send_next()
    while waiting:
        for message in await link.receive():
            link.acknowledge(message)
            ack = UsageAck.decode(message.payload)
            assert (ack.accepted, ack.duplicates, ack.rejected) == (PER_REPORT, 0, ()), ack
            latencies.append(time.perf_counter() - waiting.pop(ack.report_id))
            send_next()


async def measure(rounds: int, *, quick: bool) -> list[Figure]:
    """The rates of each round, and how long a report takes to its answer."""
    reports, users = (100 if quick else 400), [uuid4() for _ in range(USERS)]
    found: list[Figure] = []
    async with rig() as where:
        url = await create_database(where.postgres, "alone")
        for target in (url, where.postgres.url):
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(target)
            await migrate(connection)
            await connection.execute(_SUBSCRIBE, users)
            # Not of what is empty: plans made for a table known to be empty take any of its indexes.
            await connection.execute("ANALYZE subscriptions, entitlements")
            await connection.close()
        answering = asyncio.Event()
        bare = asyncio.create_task(answer_at_once(where, answering))
        await answering.wait()
        for round_ in range(rounds):
            best = 0.0
            for per_batch in (1, 4, 10, 20):
                best = max(best, await by_itself(url, users, reports, per_batch))
            linked, _ = await through(where, users, reports, round_, BARE)
            rate, latencies = await through(where, users, reports, round_)
            found += [
                Figure(what="usage events", value=rate, unit="/s", goal=at_least(40_000)),
                Figure(
                    what="usage events, beside the same SQL by itself",
                    value=rate,
                    unit="/s",
                    beside=best,
                    beside_what="SQL",
                    goal=at_least(0.6, ratio=True),
                ),
                Figure(
                    what="usage events, beside answers without counting",
                    value=rate,
                    unit="/s",
                    beside=linked,
                    beside_what="link",
                ),
                Figure(
                    what="usage report to its ack, p50", value=percentile(latencies, 50) * 1000, unit="ms"
                ),
                Figure(
                    what="usage report to its ack, p99", value=percentile(latencies, 99) * 1000, unit="ms"
                ),
            ]
        bare.cancel()
        connection = await asyncpg.connect(where.postgres.url)
        counted = await connection.fetchval("SELECT sum(messages_used)::bigint FROM subscriptions")
        await connection.close()
        assert counted == reports * PER_REPORT * rounds, counted
    return found


if __name__ == "__main__":
    alone(measure, __doc__)
