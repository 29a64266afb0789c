"""The main journeys on a broker that is not Mosquitto, over two nodes of it: nothing may assume Mosquitto.

aedes with Redis stands for the clustered brokers (EMQX, HiveMQ, VerneMQ) that no package of ours can start.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker, Protocol
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


async def test_a_purchase_reaches_the_other_node_and_its_usage_comes_back(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    daemon = await world.daemon(**at(cluster.one))
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)
        user = await world.buy(daemon)
        await world.until_published(user)
        assert (await world.retained(TOPICS.entitlement(user)))[TOPICS.entitlement(user)][
            "status"
        ] == "active"
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        for _ in range(50):
            assert one.check(user, NODE)
            one.record(user, NODE)
        assert one.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
        await until(lambda: one.status.unacknowledged == 0, lambda: one.status)
    assert await used(world, user) == 50
    await world.until_published(user, messages_used=50, quota_state="exhausted")


async def test_another_leader_takes_the_session_over_at_the_other_node(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    """The first leader is frozen, not killed: its node must cut it off once the other has its session."""
    first = await world.daemon("first", **at(cluster.one))
    user = await world.buy(first)
    await world.until_published(user)
    second = await world.daemon("second", **at(cluster.two))
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        first.freeze()
        for _ in range(20):  # reported while nobody reads
            one.record(user, NODE)
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{second.log}", 40)
        first.thaw()
        await until(lambda: "stands by" in first.log, lambda: first.log)
        one.record(user, NODE)
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{second.log}")
    assert await used(world, user) == 21
    await world.until_published(user, messages_used=21)
    assert (
        "lost or altered" not in world.logs
    )  # the new leader compared everything, in whatever order it came


async def test_everything_is_published_again_when_the_cluster_lost_it(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    daemon = await world.daemon(**at(cluster.one))
    users = [await world.buy(daemon, uuid4()) for _ in range(30)]
    for user in users:
        await world.until_published(user)
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)
        await cluster.forget()

        async def is_whole() -> bool:
            documents = await world.retained(f"{TOPICS.prefix}/entitlements/#")
            return len(documents) == 30 and all(said["status"] == "active" for said in documents.values())

        await until(is_whole, lambda: daemon.log, 40)
        one.record(users[0], NODE)
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{daemon.log}", 40)
    assert await used(world, users[0]) == 1


async def test_a_gate_whose_node_dies_comes_back_and_reports(
    world: World, cluster: AedesCluster, tmp_path: Path
) -> None:
    daemon = await world.daemon(**at(cluster.one))
    user = await world.buy(daemon)
    await world.until_published(user)
    async with gate(cluster.two, tmp_path) as one:
        await one.ready(20)
        await until(lambda: one.check(user, NODE).reason is Reason.OK, lambda: one.status)
        cluster.two.kill()
        for _ in range(10):
            assert one.check(user, NODE)
            one.record(user, NODE)
        assert one.check(user, NODE).remaining == 40
        await cluster.two.start()
        await until(lambda: one.status.unacknowledged == 0, lambda: f"{one.status}\n{daemon.log}", 40)
    assert await used(world, user) == 10
