"""The main journeys on a broker that is not Mosquitto, over two nodes of it: nothing may assume Mosquitto.

aedes with Redis stands for the clustered brokers (EMQX, HiveMQ, VerneMQ) that no package of ours can start.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker, Protocol, connect
from tests.daemon.test_two_daemons import HOLDER
from tests.support.aedes import AedesCluster, AedesNode
from tests.support.mosquitto import Mosquitto
from tests.support.observer import TOPICS
from tests.support.world import World, until, world_around

NODE = "!a1b2c3d4"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def cluster() -> AsyncIterator[AedesCluster]:
    async with AedesCluster() as running:
        yield running


@pytest.fixture
async def world(tmp_path: Path, database_url: str, cluster: AedesCluster) -> AsyncIterator[World]:
    """Daemons speak to node one; the observer and all who come late listen at node two."""
    other = cast(
        "Mosquitto", cluster.two
    )  # of a broker that nobody kills, its address is all that is asked for
    async with world_around(tmp_path, database_url, other, {"protocol": Protocol.V311}) as made:
        made.more["MQTT_PROTOCOL"] = "3.1.1"
        yield made


def at(node: AedesNode) -> dict[str, str]:
    return {"MQTT_HOST": node.host, "MQTT_PORT": str(node.port)}


def gate(node: AedesNode, directory: Path, name: str = "gateway-1") -> Gate:
    broker = Broker(host=node.host, port=node.port, client_id=name, protocol=Protocol.V311)
    return Gate(broker, directory / f"{name}.db", reporter=name)


async def used(world: World, user_id: object) -> int:
    query = "SELECT coalesce(sum(messages_used), 0) FROM subscriptions WHERE user_id = $1"
    return int(await world.value(query, user_id))


async def test_a_gateway_at_the_other_node_lives_through_its_death_and_the_loss_of_everything(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    """A purchase reaches the other node, and usage comes back; so it does when the node, or all, went."""
    daemon = await world.daemon(**at(cluster.one))
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)

        async def all_counted() -> None:
            await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{daemon.log}", 40)

        user = await world.buy(daemon)
        await world.until_published(user)
        topic = TOPICS.entitlement(user)
        assert (await world.retained(topic))[topic]["status"] == "active"
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        for _ in range(50):
            assert one.check(user, NODE)
            one.record(user, NODE)
        assert one.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
        await all_counted()
        assert await used(world, user) == 50
        await world.until_published(user, messages_used=50, quota_state="exhausted")

        users = [user, *[await world.buy(daemon) for _ in range(9)]]
        user = users[-1]
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        cluster.two.kill()
        for _ in range(10):
            assert one.check(user, NODE)
            one.record(user, NODE)
        assert one.check(user, NODE).remaining == 40
        await cluster.two.start()
        await all_counted()
        assert await used(world, user) == 10

        await cluster.forget()

        async def is_whole() -> bool:
            documents = await world.retained(TOPICS.entitlements_filter)
            return len(documents) == 10 and all(said["status"] == "active" for said in documents.values())

        await until(is_whole, lambda: daemon.log, 40)
        one.record(user, NODE)
        await all_counted()
        assert await used(world, user) == 11


async def test_another_leader_takes_the_session_over_at_the_other_node_and_compares_what_it_holds(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    """The first leader is frozen, not killed: its node must cut it off once the other has its session."""
    first = await world.daemon("first", **at(cluster.one))
    user, lost, kept = [await world.buy(first, UUID(f"00{uuid4().hex[2:]}")) for _ in range(3)]
    for one_of_them in (user, lost, kept):  # of the first shard, which is compared first
        await world.until_published(one_of_them)
    documents = world.observer.documents
    version = {one_of_them: documents[one_of_them]["version"] for one_of_them in (lost, kept)}
    await until(lambda: world.observer.watermark["sequence"] >= max(version.values()), "the watermark")
    second = await world.daemon("second", **at(cluster.two))
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        first.freeze()
        nobody = Broker(
            host=cluster.two.host, port=cluster.two.port, client_id="nobody", protocol=Protocol.V311
        )
        async with connect(nobody) as link:
            await link.publish(TOPICS.entitlement(lost), b"", retain=True)
        assert await world.value(HOLDER)  # what a candidate does after twelve seconds of silence
        for _ in range(20):  # reported while nobody reads
            one.record(user, NODE)
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{second.log}", 40)
        first.thaw()
        await until(lambda: "stands by" in first.log, lambda: first.log)
        one.record(user, NODE)
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{second.log}")
    assert await used(world, user) == 21
    await world.until_published(user, messages_used=21)
    # It compares what the node holds, in whatever order that comes: one document was lost, and no other.
    await until(lambda: documents[lost]["version"] > version[lost], lambda: second.log)
    assert documents[kept]["version"] == version[kept]
