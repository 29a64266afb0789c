"""What waits at the broker that we ship while the daemon is away: bounded, and nothing is lost by that."""

import asyncio
from pathlib import Path
from uuid import uuid4

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import connect
from tests.mqtt.shipped import DAEMON, FILES, GATEWAY, OPERATOR, PASSWORD, ShippedMosquitto
from tests.support.processes import eventually
from tests.support.world import grant, world_around

USAGE = "kosmo/billing/v1/usage"
LARGEST = b"x" * 130_000
DROPS = f"Outgoing messages are being dropped for client {DAEMON}"


def bound() -> int:
    lines = (FILES / "kosmo-billing.conf").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("max_queued_bytes "))


def memory(broker: ShippedMosquitto) -> int:
    """Resident bytes of its process."""
    lines = Path(f"/proc/{broker.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def flooded(broker: ShippedMosquitto) -> None:
    """The daemon was here once and is away; a gateway sends half as much again as the broker keeps for it."""
    async with connect(broker.at(DAEMON)) as link:
        await link.subscribe([f"{USAGE}/+"])
    async with connect(broker.at(GATEWAY)) as link:
        for _ in range(0, 3 * bound() // 2 // len(LARGEST), 50):
            await asyncio.gather(*(link.publish(f"{USAGE}/{GATEWAY}", LARGEST) for _ in range(50)))


async def test_what_an_absent_daemon_is_sent_is_bounded_and_no_message_is_lost(
    tmp_path: Path, database_url: str
) -> None:
    """Beyond the bound the broker drops in silence, and acknowledges to the sender.

    Fails without ``max_queued_bytes``: the broker keeps as much as it is sent.
    """
    identity = {"username": OPERATOR, "password": PASSWORD}
    user = uuid4()
    async with ShippedMosquitto() as broker:
        await flooded(broker)
        assert DROPS in broker.log
        print(f"the broker keeps {memory(broker) / 1e6:.0f} MB of {1.5 * bound() / 1e6:.0f}")
        assert memory(broker) < 1.25 * bound()
        async with (
            world_around(tmp_path, database_url, broker, identity) as world,
            Gate(broker.at(GATEWAY), tmp_path / "gate.db", reporter=GATEWAY, ack_timeout=0.2) as gate,
        ):
            await grant(world, [user])
            for _ in range(30):
                gate.record(user, "!a1b2c3d4")
            await eventually(lambda: gate.status.connected, "the gate's connection")
            await world.daemon(MQTT_USERNAME=DAEMON, MQTT_PASSWORD=PASSWORD)
            await eventually(lambda: gate.status.unacknowledged == 0, "the usage-acks")
            used = "SELECT messages_used FROM subscriptions WHERE user_id = $1"
            assert await world.value(used, user) == 30
