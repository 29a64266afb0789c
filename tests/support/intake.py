"""The MQTT half of a daemon on its own, in this process or another, and a reporter that never gives up.

Run as a program (`python -m tests.support.intake DATABASE_URL PORT`) it speaks until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from kosmo_billing_daemon.clock import Clock, utc_now
from kosmo_billing_daemon.contract.payloads import UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, Link, LinkLost, connect
from kosmo_billing_daemon.mqtt.conversation import Conversation
from kosmo_billing_daemon.mqtt.publisher import Publisher
from kosmo_billing_daemon.mqtt.usage_intake import UsageIntake
from kosmo_billing_daemon.services.metering import Metering
from kosmo_billing_daemon.store import lead
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.support.processes import eventually

TOPICS = Topics()
CLIENT_ID = "billing"


@dataclass(frozen=True)
class Half:
    """What a test looks at while it speaks."""

    conversation: Conversation
    usage: UsageIntake
    metering: Metering
    pool: Pool


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
        publisher = Publisher(pool=pool, topics=TOPICS, clock=clock)
        metering = Metering(pool=pool, clock=clock, changed=publisher.wake)
        usage = UsageIntake(metering=metering, topics=TOPICS)
        conversation = Conversation(
            broker=Broker(
                host="127.0.0.1", port=port, client_id=CLIENT_ID, username=username, password=password
            ),
            topics=TOPICS,
            pool=pool,
            publisher=publisher,
            usage=usage,
            clock=clock,
            instance="test",
            version="0",
        )
        listening = await pool.database.connect()
        await lead.listen(listening, lambda _payload, _sender: publisher.wake())
        speaking = asyncio.create_task(conversation.run(_leading))
        try:
            await eventually(lambda: conversation.line.connected_since is not None, "the connection")
            yield Half(conversation, usage, metering, pool)
        finally:
            listening.terminate()
            speaking.cancel()
            with suppress(asyncio.CancelledError):
                await speaking


async def _leading() -> None:
    """Nobody else does."""


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
