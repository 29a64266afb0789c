"""The MQTT half of a daemon on its own, in this process or another, and a reporter that never gives up.

Run as a program (`python -m tests.support.intake DATABASE_URL PORT`) it speaks until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from kosmo_billing_daemon.contract.payloads import UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.link import Broker, Link, LinkLost, connect
from kosmo_billing_daemon.mqtt.broker_session import BrokerSession
from kosmo_billing_daemon.mqtt.publisher import Publisher
from kosmo_billing_daemon.mqtt.usage_intake import UsageIntake
from kosmo_billing_daemon.runtime.clock import Clock, utc_now
from kosmo_billing_daemon.services.leasing import Leasing
from kosmo_billing_daemon.services.links import RenewalLinks
from kosmo_billing_daemon.services.metering import Metering
from kosmo_billing_daemon.services.topups import TopUps
from kosmo_billing_daemon.store import leader_lock
from kosmo_billing_daemon.store.postgres import Connection, Database, Pool
from tests.domain.builders import WITH_PACK
from tests.support.processes import eventually

TOPICS = Topics()
PUBLIC = "https://billing.kosmoconnect.example"
CLIENT_ID = "billing"


@dataclass(frozen=True)
class Half:
    """What a test looks at while it speaks."""

    conversation: BrokerSession
    usage: UsageIntake
    metering: Metering
    pool: Pool


_TERM = "SELECT pid AS process_id, backend_start AS since FROM pg_stat_get_activity(pg_backend_pid())"


async def _speak(conversation: BrokerSession, publisher: Publisher, database: Database) -> None:
    """Speak as one who leads whenever there is a database; nobody is asked for a lock."""
    while True:
        with suppress(Unavailable):
            session = await database.connect()
            try:
                await _speak_while(session, conversation, publisher)
            finally:
                session.terminate()
        await asyncio.sleep(0.1)


async def _speak_while(session: Connection, conversation: BrokerSession, publisher: Publisher) -> None:
    lost = asyncio.Event()
    session.add_termination_listener(lambda _: lost.set())
    await leader_lock.listen(session, lambda _payload, _sender: publisher.wake())
    row = await session.fetchrow(_TERM)
    assert row is not None

    async def leading() -> leader_lock.Term:
        return leader_lock.Term(**row)

    speaking, losing = (asyncio.ensure_future(one) for one in (conversation.run(leading), lost.wait()))
    try:
        await asyncio.wait([speaking, losing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        losing.cancel()
        while not speaking.done():  # again, as a leader does: some library may swallow a cancellation
            speaking.cancel()
            await asyncio.wait([speaking], timeout=1.0)


@asynccontextmanager
async def intake(
    database_url: str,
    port: int,
    *,
    clock: Clock = utc_now,
    username: str | None = None,
    password: str | None = None,
) -> AsyncIterator[Half]:
    """Speak for the length of the block, which begins when it is connected and subscribed."""
    async with Pool(Database(url=database_url, connect_timeout=2.0)) as pool:
        links = RenewalLinks(pool=pool, clock=clock, key=b"key", public_url=PUBLIC)
        topups = TopUps(links=links, catalogue=WITH_PACK)
        publisher = Publisher(topics=TOPICS, clock=clock, topups=topups)
        metering = Metering(pool=pool, clock=clock, changed=publisher.wake)
        usage = UsageIntake(metering=metering, topics=TOPICS)
        conversation = BrokerSession(
            broker=Broker(
                host="127.0.0.1", port=port, client_id=CLIENT_ID, username=username, password=password
            ),
            topics=TOPICS,
            pool=pool,
            publisher=publisher,
            usage=usage,
            leasing=Leasing(pool=pool, clock=clock),
            clock=clock,
            instance="test",
            version="0",
        )
        speaking = asyncio.create_task(_speak(conversation, publisher, pool.database))
        try:
            await eventually(lambda: conversation.is_connected, "the connection")
            yield Half(conversation, usage, metering, pool)
        finally:
            speaking.cancel()
            with suppress(asyncio.CancelledError):
                await speaking


async def report_all(
    port: int, reporter: str, reports: Mapping[str, bytes], *, patience: float = 2.0, **identity: str
) -> list[UsageAck]:
    """Send reports, again what is not answered in time, until each has its usage-ack; returns all acks."""
    waiting = dict(reports)
    acks: list[UsageAck] = []
    broker = Broker(host="127.0.0.1", port=port, client_id=reporter, clean=True, **identity)  # type: ignore[arg-type]  # user name and password
    while waiting:
        try:
            async with connect(broker) as link:
                await link.subscribe([TOPICS.usage_ack(reporter)])
                while waiting:
                    await _send(link, reporter, list(waiting.values()))
                    with suppress(TimeoutError):
                        while waiting:
                            async with asyncio.timeout(patience):
                                for message in await link.receive():
                                    ack = UsageAck.decode(message.payload)
                                    waiting.pop(ack.report_id, None)
                                    acks.append(ack)
                                    link.acknowledge(message)
        except LinkLost:
            await asyncio.sleep(0.05)
    return acks


async def _send(link: Link, reporter: str, payloads: list[bytes]) -> None:
    await asyncio.gather(*(link.publish(TOPICS.usage(reporter), payload) for payload in payloads))


async def _main(database_url: str, port: str) -> None:
    async with intake(database_url, int(port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
