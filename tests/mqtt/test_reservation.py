"""Versions rise whatever is lost: none is published before it is reserved, and terms begin above them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.payloads import Watermark
from kosmo_billing_daemon.link import Broker, connect
from kosmo_billing_daemon.mqtt.reservation import BLOCK, GREATEST_CEILING, Start, start
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.leader_lock import OtherServer, Term, TermPool
from kosmo_billing_daemon.store.postgres import Connection, Database, Pool
from tests.support.intake import intake
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS, Observer, observing
from tests.support.world import GRANT, until

USE = "UPDATE subscriptions SET messages_used = messages_used + 1 WHERE user_id = $1"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    opened = await Database(url=database_url).connect()
    yield opened
    await opened.close()


@pytest.fixture
async def mosquitto() -> AsyncIterator[Mosquitto]:
    async with Mosquitto() as started:
        yield started


async def one_user(connection: Connection) -> UUID:
    user_id = uuid4()
    await connection.execute(GRANT, [user_id], utc_now() + timedelta(days=30))
    return user_id


async def until_told(observer: Observer, user_id: UUID) -> int:
    await until(lambda: user_id in observer.documents, "a document")
    version: int = observer.documents[user_id]["version"]
    return version


def watermark(begun: Start, **changes: Any) -> Watermark:
    position, reservation = begun.position, begun.reservation
    said = Watermark(
        sequence=position.sequence,
        entitlements=0,
        version_ceiling=reservation.ceiling,
        database=position.database,
    )
    return replace(said, **changes)


async def drawn(connection: Connection) -> int:
    version: int = await connection.fetchval("SELECT nextval('entitlement_versions')")
    return version


async def test_each_term_draws_its_versions_above_what_the_last_one_reserved(
    connection: Connection,
) -> None:
    first = await start(connection, None, None)
    assert (first.reservation.floor, first.reservation.acknowledged, first.after) == (0, 0, 0)
    second = await start(connection, watermark(first), None)
    assert second.reservation.floor == first.reservation.ceiling < await drawn(connection)
    assert second.reservation.ceiling >= second.reservation.floor + BLOCK
    assert (second.after, second.went_back) == (first.position.sequence, False)
    # Connected again within its term it goes on where it was.
    again = await start(connection, watermark(second), second.reservation.floor)
    assert again.reservation.floor == second.reservation.floor
    assert again.reservation.acknowledged == again.reservation.ceiling == second.reservation.ceiling


@pytest.mark.parametrize(
    ("changes", "went_back"),
    [({"version_ceiling": 7 * BLOCK}, True), ({"sequence": 10**6}, True), ({"database": "another"}, False)],
    ids=["ceiling", "sequence", "database"],
)
@pytest.mark.parametrize("is_same_term", [True, False])
async def test_what_the_database_never_said_is_overtaken(
    connection: Connection,
    changes: dict[str, Any],
    *,
    went_back: bool,
    is_same_term: bool,
) -> None:
    first = await start(connection, None, None)
    told = watermark(first, **changes)
    begun = await start(connection, told, first.reservation.floor if is_same_term else None)
    assert begun.went_back == went_back
    assert (begun.after, begun.reservation.acknowledged) == (0, 0)
    assert begun.reservation.floor >= told.version_ceiling
    assert begun.position.sequence >= told.sequence or not went_back
    assert await drawn(connection) > begun.reservation.floor


async def test_a_broker_that_forgot_leaves_the_reservation_to_the_database(
    connection: Connection,
) -> None:
    first = await start(connection, None, None)
    for told in (None, watermark(first, version_ceiling=first.reservation.ceiling - 1)):
        ceiling = await connection.fetchval("SELECT version_ceiling FROM installation")
        begun = await start(connection, told, None)
        assert (begun.reservation.floor, begun.after, begun.went_back) == (ceiling, 0, False)


async def test_a_writer_that_drew_before_the_term_and_commits_in_it_is_heard(
    database_url: str, mosquitto: Mosquitto, connection: Connection
) -> None:
    """As on a promoted standby: its version is one that gates may hold something newer than."""
    user_id = await one_user(connection)
    await connection.execute("UPDATE installation SET version_ceiling = 5000")
    writing = connection.transaction()
    await writing.start()
    await connection.execute(USE, user_id)
    assert await connection.fetchval("SELECT version FROM entitlements WHERE user_id = $1", user_id) < 5000
    async with observing(mosquitto) as observer, intake(database_url, mosquitto.port):
        await until(lambda: observer.watermark["sequence"] == 0, "a watermark")
        await writing.commit()
        assert await until_told(observer, user_id) > 5000


async def test_what_a_writer_draws_above_the_reserved_waits_for_its_reservation(
    database_url: str, mosquitto: Mosquitto, connection: Connection
) -> None:
    user_id = await one_user(connection)
    async with observing(mosquitto) as observer, intake(database_url, mosquitto.port):
        await until_told(observer, user_id)
        for _ in range(2):
            await connection.execute(
                "SELECT setval('entitlement_versions', last_value + $1) FROM entitlement_versions", 3 * BLOCK
            )
            await connection.execute(USE, user_id)
        told = await connection.fetchval("SELECT version FROM entitlements WHERE user_id = $1", user_id)
        await until(lambda: observer.versions[user_id][-1] == told > 6 * BLOCK, lambda: observer.versions)
        assert not observer.unreserved
        assert observer.watermark["version_ceiling"] >= told + BLOCK // 2


@pytest.mark.parametrize(
    "forged",
    [b'{"sequence":0,"entitlements":0,"version_ceiling":9007199254740991}', b"{", b'{"sequence":3}'],
)
async def test_a_forged_watermark_leaves_versions_that_every_reader_understands(
    database_url: str, mosquitto: Mosquitto, connection: Connection, forged: bytes
) -> None:
    user_id = await one_user(connection)
    broker = Broker(host=mosquitto.host, port=mosquitto.port, client_id="vandal", clean=True)
    async with connect(broker) as link:
        await link.publish(TOPICS.watermark, forged, retain=True)
    async with observing(mosquitto) as observer, intake(database_url, mosquitto.port):
        assert await until_told(observer, user_id) < GREATEST_CEILING


async def test_nothing_is_noted_on_a_server_where_the_lock_is_not_held(
    database_url: str, connection: Connection
) -> None:
    leader = await Database(url=database_url).connect()
    row = await leader.fetchrow(
        "SELECT pid AS process_id, backend_start AS since FROM pg_stat_get_activity(pg_backend_pid())"
    )
    assert row is not None
    async with Pool(Database(url=database_url)) as pool:
        held = TermPool(pool, Term(**row))
        async with held.connection() as one:
            assert await one.fetchval("SELECT 1") == 1
        leader.terminate()
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_get_activity($1))"
        await until(lambda: connection.fetchval(gone, row["process_id"]), "the end of the leader's session")
        async with held.connection() as one:  # of the same life of the server
            with pytest.raises(OtherServer):
                async with held.connection():
                    pass
            assert await one.fetchval("SELECT 1") == 1
