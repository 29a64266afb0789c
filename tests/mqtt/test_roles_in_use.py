"""Daemon, gateway and bridge get along with exactly the rights that we ship, over TLS."""

from pathlib import Path
from uuid import uuid4

from kosmo_billing_daemon.gate import Gate
from tests.mqtt.shipped import BRIDGE, DAEMON, GATEWAY, OPERATOR, PASSWORD, ShippedMosquitto
from tests.support.processes import eventually
from tests.support.world import World, world_around

NODE = "!a1b2c3d4"


async def test_the_daemon_lives_on_these_rights(tmp_path: Path, database_url: str) -> None:
    identity = {"username": OPERATOR, "password": PASSWORD}
    async with (
        ShippedMosquitto() as mosquitto,
        world_around(tmp_path, database_url, mosquitto, identity) as world,
    ):
        world.more |= {
            "MQTT_HOST": mosquitto.host,
            "MQTT_PORT": str(mosquitto.tls_port),
            "MQTT_TLS_CA": str(mosquitto.authority),
            "MQTT_USERNAME": DAEMON,
            "MQTT_PASSWORD": PASSWORD,
        }
        gateway = Gate(mosquitto.at(GATEWAY, tls=True), tmp_path / "gateway.db", reporter=GATEWAY)
        bridge = Gate(mosquitto.at(BRIDGE, tls=True), tmp_path / "bridge.db")
        await _live(world, gateway, bridge)


async def _live(world: World, gateway: Gate, bridge: Gate) -> None:
    """Purchase, decisions at gateway and bridge, usage: nothing of it may be refused."""
    daemon = await world.daemon()
    user_id = await world.buy(daemon, uuid4(), "wanderer")
    await world.until_published(user_id)
    await eventually(lambda: world.observer.watermark["entitlements"] == 1, "the watermark")
    await eventually(lambda: "subscription.activated" in world.observer.events(user_id), "the event")
    async with gateway, bridge:
        for gate in (gateway, bridge):
            await gate.ready(20)
            await eventually(lambda gate=gate: bool(gate.check(user_id, NODE)), "the plan")  # type: ignore[misc]
        for _ in range(50):
            gateway.record(user_id, NODE)
        await eventually(lambda: gateway.status.unacknowledged == 0, "the usage-acks")
        await eventually(lambda: bridge.check(user_id, NODE).reason == "quota_exhausted", "the bridge")
        for gate in (gateway, bridge):
            await eventually(lambda gate=gate: gate.status.clock_proven_at is not None, "the time")  # type: ignore[misc]
            assert gate.status.problems == ()
    assert "refuse" not in daemon.log, daemon.log
