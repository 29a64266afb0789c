"""Usage over a real broker into a real database: exactly once, whatever is killed."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from kosmo_billing_daemon.contract.payloads import EntitlementDocument, Rejection, UsageAck
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.link import Link, connect
from kosmo_billing_daemon.mqtt.usage_intake import KEEP_PER_REPORTER, MOST_ACK, encoded
from kosmo_billing_daemon.runtime.backoff import LogThrottle
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.migrations import migrate
from kosmo_billing_daemon.store.postgres import Database
from tests.link.brokers import at, collect
from tests.support.intake import CLIENT_ID, TOPICS, Half, intake, report_all
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually
from tests.support.usage import DAY, event, granted, payload, subscribe, used

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    async with Mosquitto(max_queued_messages=100_000) as broker:
        yield broker


async def subscribers(database_url: str, number: int, **changes: Any) -> list[Subscription]:
    """Users with a subscription since yesterday."""
    now = utc_now()
    rows = [
        granted(uuid4(), valid_from=now - DAY, valid_until=now + 29 * DAY, **changes) for _ in range(number)
    ]
    connection = await Database(url=database_url).connect()
    await subscribe(connection, *rows)
    await connection.close()
    return rows


def sent(row: Subscription, *names: str) -> list[dict[str, Any]]:
    return [event(row.user_id, name, utc_now() - timedelta(seconds=1)) for name in names]


async def fetch(database_url: str, sql: str, *arguments: object) -> list[Any]:
    connection: asyncpg.Connection[Any] = await Database(url=database_url).connect()
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def still_queued(mosquitto: Mosquitto, marker: str = "marker", **account: str) -> list[bytes]:
    """The reports that the broker still keeps for the daemon, which must not be connected."""
    async with connect(at(mosquitto, CLIENT_ID, **account)) as link:
        await link.subscribe([marker])
        await link.publish(marker, b"")
        found: list[bytes] = []
        while True:
            for message in await link.receive():
                if message.topic == marker:
                    return found
                if TOPICS.usage_reporter(message.topic):
                    found.append(message.payload)


async def check_exact(database_url: str, distinct: Sequence[tuple[UUID, str]]) -> None:
    """Every message counted once: as a row, on its subscription and on its day."""
    rows = await fetch(database_url, "SELECT user_id, message_id FROM usage_events")
    assert {(row["user_id"], row["message_id"]) for row in rows} == set(distinct)
    sums = (
        "SELECT (SELECT sum(messages_used) FROM subscriptions) AS used, sum(messages) AS days FROM usage_days"
    )
    ((used_up, days),) = await fetch(database_url, sums)
    assert used_up == days == len(rows)


def mixed(
    rows: Sequence[Subscription], number: int, chance: random.Random, *, size: int = 100
) -> tuple[dict[str, bytes], list[tuple[UUID, str]]]:
    """Reports over `number` events in random order, a tenth of them twice, and what is distinct in them."""
    now = utc_now() - timedelta(seconds=1)
    distinct = [(chance.choice(rows).user_id, f"message-{n}") for n in range(number - number // 10)]
    events = [event(user, name, now) for user, name in distinct]
    events += chance.sample(events, number // 10)
    chance.shuffle(events)
    return {f"r{n}": payload(events[n : n + size], f"r{n}") for n in range(0, number, size)}, [*distinct]


async def counted(half: Half, number: int) -> None:
    await eventually(lambda: half.metering.tally.accepted >= number, f"{number} counts")


async def test_a_report_is_counted_answered_and_published(mosquitto: Mosquitto, database_url: str) -> None:
    (row,) = await subscribers(database_url, 1)
    events = [*sent(row, "a", "b", "a"), event(row.user_id, "old", utc_now() - 8 * DAY)]
    async with intake(database_url, mosquitto.port), connect(at(mosquitto, "watcher")) as watcher:
        await watcher.subscribe([TOPICS.entitlement(row.user_id), f"{TOPICS.prefix}/events/+"])
        acks = await report_all(mosquitto.port, "gateway-1", {"r": payload(events)})
        expected = UsageAck(report_id="r", accepted=2, duplicates=1, rejected=(Rejection("old", "too_old"),))
        assert [replace(ack, at=None) for ack in acks] == [expected]
        assert acks[0].at is not None
        assert abs(utc_now() - acks[0].at) < timedelta(seconds=10)
        acks = await report_all(mosquitto.port, "gateway-2", {"r": payload(sent(row, "b", "c"))})
        assert [(ack.accepted, ack.duplicates) for ack in acks] == [(1, 1)]
        await _document_says(watcher, 3)
    assert await still_queued(mosquitto) == []


async def _document_says(watcher: Link, number: int) -> None:
    async with asyncio.timeout(10):
        while True:
            for message in await watcher.receive():
                watcher.acknowledge(message)
                if "/entitlements/" in message.topic:
                    document = EntitlementDocument.decode(message.payload)
                    if document.messages_used == number:
                        return


async def test_a_threshold_causes_an_event_at_once(mosquitto: Mosquitto, database_url: str) -> None:
    (row,) = await subscribers(database_url, 1)
    async with intake(database_url, mosquitto.port), connect(at(mosquitto, "watcher")) as watcher:
        await watcher.subscribe([f"{TOPICS.prefix}/events/+"])
        await report_all(mosquitto.port, "gateway-1", {"r": payload(sent(row, *map(str, range(40))))})
        (message,) = await collect(watcher, 1)
        assert message.topic == TOPICS.event("quota.warning")
        await fetch(database_url, "UPDATE subscriptions SET messages_used = messages_used + 10")
        (message,) = await collect(watcher, 1)
        found = json.loads(message.payload)
        assert (found["type"], found["subject"]) == ("quota.exhausted", str(row.user_id))
        assert found["data"]["messages_used"] == 50


async def test_what_waits_for_a_daemon_that_is_down_is_counted_when_it_is_back(
    mosquitto: Mosquitto, database_url: str
) -> None:
    rows = await subscribers(database_url, 5, messages_limit=None)
    async with intake(database_url, mosquitto.port) as half:
        assert half.metering.tally.accepted == 0
    reports, distinct = mixed(rows, 2000, random.Random(1))
    reporting = asyncio.create_task(report_all(mosquitto.port, "gateway-1", reports, patience=30.0))
    async with connect(at(mosquitto, "watcher")) as watcher:
        await watcher.subscribe([TOPICS.usage_filter])
        await collect(watcher, len(reports))
    async with intake(database_url, mosquitto.port):
        acks = await reporting
    assert len(acks) == len(reports)
    assert sum(ack.accepted for ack in acks) == len(distinct)
    await check_exact(database_url, distinct)


async def test_malformed_reports_are_kept_aside_and_block_nothing(
    mosquitto: Mosquitto, database_url: str
) -> None:
    (row,) = await subscribers(database_url, 1)
    bad = [b"", b"\xff\x00", b"[]", b'{"report_id":"r"}', payload([]), payload([{}] * 501), b"{" * 100_000]
    async with intake(database_url, mosquitto.port) as half, connect(at(mosquitto, "bad")) as link:
        for number in bad:
            await link.publish(TOPICS.usage("gateway-1"), number)
        await link.publish(TOPICS.usage("x" * 200), payload(sent(row, "a")))
        acks = await report_all(mosquitto.port, "gateway-1", {"r": payload(sent(row, "a"))})
        assert [(ack.accepted, ack.duplicates) for ack in acks] == [(1, 0)]
        assert half.metering.tally.malformed == len(bad) + 1
    assert await still_queued(mosquitto) == []
    kept = await fetch(database_url, "SELECT * FROM usage_quarantine ORDER BY id")
    assert len(kept) == len(bad) + 1
    assert [row["size"] for row in kept][:-1] == [len(payload) for payload in bad]
    assert max(len(row["payload"]) for row in kept) == 4096
    assert all(row["reason"] for row in kept)


async def test_a_flood_of_malformed_reports_starves_nobody(mosquitto: Mosquitto, database_url: str) -> None:
    (row,) = await subscribers(database_url, 1)
    async with intake(database_url, mosquitto.port) as half, connect(at(mosquitto, "bad")) as link:
        flood = asyncio.gather(*(link.publish(TOPICS.usage("bad"), b"no") for _ in range(3000)))
        async with asyncio.timeout(10):
            await report_all(mosquitto.port, "gateway-1", {"r": payload(sent(row, "a"))}, patience=10.0)
        await flood
        await eventually(lambda: half.metering.tally.malformed == 3000, "the flood")
    assert len(await fetch(database_url, "SELECT FROM usage_quarantine")) == KEEP_PER_REPORTER
    assert await still_queued(mosquitto) == []


async def test_an_ack_that_the_broker_forbids_holds_up_nothing(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = await subscribers(database_url, 1)
    # Reading everything, writing everything but usage-acks.
    acl = "user billing\ntopic read #\ntopic write kosmo/billing/v1/entitlements/#\n"
    acl += "topic write kosmo/billing/v1/status\ntopic write kosmo/billing/v1/watermark\n"
    acl += "topic write marker\nuser gateway\ntopic readwrite #"
    users = {"billing": "secret", "gateway": "secret"}
    async with Mosquitto(acl=acl, users=users) as mosquitto:
        async with intake(database_url, mosquitto.port, username="billing", password="secret") as half:
            half.usage.throttle = LogThrottle(0)
            async with connect(at(mosquitto, "gateway", username="gateway", password="secret")) as link:
                for name in ("a", "b"):
                    await link.publish(TOPICS.usage("gateway"), payload(sent(row, name), name))
            await eventually(lambda: caplog.text.count("usage-ack was refused") == 2, "both refusals")
            assert half.metering.tally.accepted == 2
            assert half.conversation.is_connected
        assert await still_queued(mosquitto, username="billing", password="secret") == []
    assert len(await fetch(database_url, "SELECT FROM usage_events")) == 2


def test_an_ack_never_outgrows_the_brokers_packets() -> None:
    rejected = tuple(Rejection(f"{n:03}" + "\N{SNOWMAN}" * 120, "too_old") for n in range(500))
    short = UsageAck.decode(encoded(UsageAck(report_id="r", accepted=3, duplicates=4, rejected=rejected)))
    assert len(encoded(short)) <= MOST_ACK
    assert (short.accepted, short.duplicates) == (3, 4)
    assert short.rejected == rejected[: len(short.rejected)]
    assert len(short.rejected) > 100


async def test_a_database_that_dies_loses_and_doubles_nothing(service_directory: Path) -> None:
    async with EmbeddedPostgres(service_directory / "postgres", durable=False) as postgres:
        connection = await Database(url=postgres.url).connect()
        await migrate(connection)
        await connection.close()
        rows = await subscribers(postgres.url, 20, messages_limit=None)
        reports, distinct = mixed(rows, 30_000, random.Random(2))
        async with (
            Mosquitto(max_queued_messages=100_000) as mosquitto,
            intake(postgres.url, mosquitto.port) as half,
        ):
            # Patient beyond the test: what comes again comes from the broker.
            reporting = asyncio.create_task(report_all(mosquitto.port, "gateway-1", reports, patience=60.0))
            for share in (1, 3):
                await counted(half, share * 1000)
                postgres.kill()
                await eventually(lambda: not half.conversation.is_connected, "the link dropped")
                await postgres.start()
            acks = await asyncio.wait_for(reporting, 40)
            assert {ack.report_id for ack in acks} == set(reports)
        await check_exact(postgres.url, distinct)


async def test_a_broker_that_dies_loses_and_doubles_nothing(mosquitto: Mosquitto, database_url: str) -> None:
    rows = await subscribers(database_url, 20, messages_limit=None)
    reports, distinct = mixed(rows, 6000, random.Random(3))
    async with intake(database_url, mosquitto.port) as half:
        reporting = asyncio.create_task(report_all(mosquitto.port, "gateway-1", reports))
        for share in (1, 2, 3):
            await counted(half, share * 800)
            mosquitto.kill()
            await mosquitto.start()
        await asyncio.wait_for(reporting, 40)
    await check_exact(database_url, distinct)


@pytest.mark.parametrize("count", [5_000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_killed_again_and_again_it_counts_every_message_once(
    mosquitto: Mosquitto, database_url: str, count: int
) -> None:
    """A tenth of the events is reported twice, and all out of order, by four reporters."""
    chance = random.Random(4)
    rows = await subscribers(database_url, 50, messages_limit=None)
    reports, distinct = mixed(rows, count, chance, size=50)
    shares = [dict(list(reports.items())[n::4]) for n in range(4)]
    reporting = [
        asyncio.create_task(report_all(mosquitto.port, f"gateway-{n}", share))
        for n, share in enumerate(shares)
    ]
    counted = 0
    while not all(task.done() for task in reporting):
        command = [sys.executable, "-m", "tests.support.intake", database_url, str(mosquitto.port)]
        with subprocess.Popen(command, cwd=ROOT) as process:  # noqa: ASYNC220, S603  our own module
            aim = min(len(distinct), counted + chance.randrange(count // 20, count // 3))
            while counted < aim and process.poll() is None:
                ((counted,),) = await fetch(database_url, "SELECT count(*) FROM usage_events")
                await asyncio.sleep(0.01)
            if counted == len(distinct):
                await asyncio.wait(reporting, timeout=20)
            process.send_signal(signal.SIGKILL)
    acks = [ack for task in reporting for ack in task.result()]
    assert {ack.report_id for ack in acks} == set(reports)
    await check_exact(database_url, distinct)


async def test_two_intakes_on_one_database_count_a_message_once(database_url: str) -> None:
    """As when a leader that was frozen wakes up beside its successor."""
    rows = await subscribers(database_url, 10, messages_limit=None)
    reports, distinct = mixed(rows, 3000, random.Random(6))
    async with Mosquitto() as one, Mosquitto() as two:
        halves: list[Half] = []
        async with intake(database_url, one.port) as first, intake(database_url, two.port) as second:
            halves += [first, second]
            await asyncio.gather(
                *(report_all(broker.port, f"gateway-{n}", reports) for n in (1, 2) for broker in (one, two))
            )
        assert sum(half.metering.tally.accepted for half in halves) == len(distinct)
    await check_exact(database_url, distinct)


def counted_or_known(half: Half) -> int:
    return half.metering.tally.accepted + half.metering.tally.duplicates


async def test_a_report_that_was_retained_by_mistake_counts_once(
    mosquitto: Mosquitto, database_url: str
) -> None:
    (row,) = await subscribers(database_url, 1)
    async with connect(at(mosquitto, "gateway-1")) as link:
        await link.publish(TOPICS.usage("gateway-1"), payload(sent(row, "a")), retain=True)
    for _ in range(2):
        async with intake(database_url, mosquitto.port) as half:
            # It comes again also if the first daemon had no time to acknowledge it.
            await eventually(lambda: counted_or_known(half) >= 1, "the retained report")
    connection = await Database(url=database_url).connect()
    assert await used(connection, row) == 1
    await connection.close()
