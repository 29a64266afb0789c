"""A report of many megabytes, on a broker whose packets nobody bounded (Mosquitto's own default)."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import Broker, connect
from kosmo_billing_daemon.mqtt.usage_intake import MOST_OF_ONE
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around

TOPICS = Topics()
HUGE = b'{"report_id": "' + b"x" * MOST_OF_ONE + b'"}'


@pytest.fixture
async def world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, database_url, broker) as world:
        yield world


@pytest.mark.parametrize(("protocol", "kept"), [("5", 0), ("3.1.1", 1)])
async def test_a_report_larger_than_all_that_is_held_does_not_end_the_link(
    world: World, protocol: str, kept: int
) -> None:
    """With MQTT 5 the broker is told not to send it; else it is quarantined by its size alone.

    Before, the link was given up for it, and it came first again over the next one, for ever.
    """
    daemon = await world.daemon(MQTT_PROTOCOL=protocol)
    at = Broker(host=world.broker.host, port=world.broker.port, client_id="gateway-1")
    async with connect(at) as link:
        await link.publish(TOPICS.usage("gateway-1"), HUGE)
        await link.publish(TOPICS.usage("gateway-1"), b"no report either")
    quarantined = "SELECT count(*) FROM usage_quarantine"

    async def all_came() -> bool:
        return bool(await world.value(quarantined) == 1 + kept)

    await until(all_came, lambda: f"what came behind it is dealt with:\n{daemon.log}")
    await world.until_published(await world.buy(daemon, uuid4()))
    assert "broker lost" not in daemon.log
    reasons = await world.value("SELECT string_agg(reason, '; ') FROM usage_quarantine WHERE size > 1000000")
    assert reasons == (None if kept == 0 else "larger than 1048576 bytes")
