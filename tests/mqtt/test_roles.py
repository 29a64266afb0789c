"""Who may publish, read and hijack what on the broker that we ship the files for.

Mosquitto grants every subscription and filters on delivery, so rights are shown by what is published and
read back. Where nothing is to arrive, a later message that everybody may read ends the waiting.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import pytest

from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import ConnectRefused, Link, LinkLost, Protocol, PublishRefused, Will, connect
from tests.mqtt.shipped import BRIDGE, DAEMON, GATEWAY, NAMELESS, OPERATOR, ShippedMosquitto, commands
from tests.support.processes import eventually

TOPICS = Topics()
ENTITLEMENT = TOPICS.entitlement(UUID("a1b2c3d4-0000-4000-8000-000000000000"))
EVENT = TOPICS.event("subscription.activated")
USAGE, OTHER_USAGE = TOPICS.usage(GATEWAY), TOPICS.usage("gateway-2")
ACK, OTHER_ACK = TOPICS.usage_ack(GATEWAY), TOPICS.usage_ack("gateway-2")
ASK, OTHER_ASK, BRIDGE_ASK = map(TOPICS.time_request, (GATEWAY, "gateway-2", BRIDGE))
TIME, OTHER_TIME, BRIDGE_TIME = map(TOPICS.time_answer, (GATEWAY, "gateway-2", BRIDGE))
LEASE, OTHER_LEASE = map(TOPICS.lease, (GATEWAY, "gateway-2"))
GRANT, OTHER_GRANT = map(TOPICS.lease_grant, (GATEWAY, "gateway-2"))
CONTRACT = (
    ENTITLEMENT,
    TOPICS.watermark,
    TOPICS.status,
    EVENT,
    *(USAGE, OTHER_USAGE, ACK, OTHER_ACK),
    *(ASK, OTHER_ASK, BRIDGE_ASK, TIME, OTHER_TIME, BRIDGE_TIME),
    *(LEASE, OTHER_LEASE, GRANT, OTHER_GRANT),
)
ELSEWHERE = (
    TOPICS.usage(DAEMON),
    TOPICS.usage(BRIDGE),
    TOPICS.usage(f"{GATEWAY}/more"),
    f"{TOPICS.prefix}/other",
    "kosmo/billing/v2/status",
    "msh/EU_868/2/json",
    "$SYS/broker/version",
)
NOT_AUTHORIZED = 135  # the reason code of MQTT 5
EVERYTHING = ("#", "$SYS/#", "$share/thieves/kosmo/billing/v1/usage/+", *CONTRACT)

MAY_WRITE = {
    DAEMON: {
        ENTITLEMENT,
        TOPICS.watermark,
        TOPICS.status,
        EVENT,
        *(ACK, OTHER_ACK, TIME, OTHER_TIME, BRIDGE_TIME, GRANT, OTHER_GRANT),
    },
    OPERATOR: set[str](),
    GATEWAY: {USAGE, ASK, LEASE},
    BRIDGE: {BRIDGE_ASK},
    NAMELESS: set[str](),
}
_STATE = {ENTITLEMENT, TOPICS.watermark, TOPICS.status}
MAY_READ = {
    DAEMON: {*_STATE, USAGE, OTHER_USAGE, ASK, OTHER_ASK, BRIDGE_ASK, LEASE, OTHER_LEASE},
    OPERATOR: set(CONTRACT),
    GATEWAY: {*_STATE, ACK, TIME, GRANT},
    "gateway-2": {*_STATE, OTHER_ACK, OTHER_TIME, OTHER_GRANT},
    BRIDGE: {*_STATE, BRIDGE_TIME},
    NAMELESS: set[str](),
}


@pytest.fixture
async def mosquitto() -> AsyncIterator[ShippedMosquitto]:
    async with ShippedMosquitto() as broker:
        yield broker


def add(mosquitto: ShippedMosquitto, *names: str) -> None:
    """Add gateway-2 or bridge-2 with the commands in the header of the rights file."""
    mosquitto.type(
        *(line for line in commands("acl") if line.startswith("cd ") or any(n in line for n in names))
    )


async def read_until(link: Link, marker: str) -> list[str]:
    """The topics that arrived before the message ``marker``, each time they did."""
    topics: list[str] = []
    async with asyncio.timeout(10):
        while True:
            for message in await link.receive():
                link.acknowledge(message)
                if message.payload == marker.encode():
                    return topics
                topics.append(message.topic)


@asynccontextmanager
async def everybody(
    mosquitto: ShippedMosquitto, users: Iterable[str], *, tls: bool = False
) -> AsyncIterator[dict[str, Link]]:
    """A link for each user, subscribed to everything there is."""
    async with AsyncExitStack() as stack:
        links = {}
        for user in users:
            links[user] = await stack.enter_async_context(connect(mosquitto.at(user, tls=tls, clean=True)))
            await links[user].subscribe(EVERYTHING)
        yield links


@pytest.mark.parametrize("tls", [False, True], ids=["loopback", "tls"])
async def test_each_role_reads_what_it_may_and_nothing_else(mosquitto: ShippedMosquitto, tls: bool) -> None:
    add(mosquitto, "gateway-2")
    await mosquitto.reload()
    async with everybody(mosquitto, MAY_READ, tls=tls) as links:
        for topic in CONTRACT:
            authors = (user for user in MAY_WRITE if topic in MAY_WRITE[user])
            author = "gateway-2" if topic in {OTHER_USAGE, OTHER_ASK, OTHER_LEASE} else next(authors)
            await links[author].publish(topic, b"a secret")
        # Retained as well, so that whoever subscribes now is given it, or not.
        await links[DAEMON].publish(ENTITLEMENT, b"a secret", retain=True)
        await links[NAMELESS].subscribe([ENTITLEMENT])
        await links[DAEMON].publish(TOPICS.status, b"that is all")
        for user, expected in MAY_READ.items():
            if user == NAMELESS:
                continue  # has no message that would end it; see the next test
            seen = set(await read_until(links[user], "that is all"))
            of_the_broker = {topic for topic in seen if topic.startswith("$SYS/")}
            assert seen - of_the_broker == expected, user
            assert bool(of_the_broker) is (user == OPERATOR), user


async def test_a_user_without_a_block_reads_nothing_at_all(mosquitto: ShippedMosquitto) -> None:
    async with everybody(mosquitto, [DAEMON, GATEWAY, NAMELESS]) as links:
        for topic in sorted(MAY_WRITE[DAEMON]):
            await links[DAEMON].publish(topic, b"a secret", retain=True)
        await links[GATEWAY].publish(USAGE, b"a secret")
        # Its own offline message comes after whatever was sent to it.
        reading = asyncio.create_task(links[NAMELESS].receive())
        await links[NAMELESS].subscribe(EVERYTHING)
        await links[NAMELESS].unsubscribe(EVERYTHING)
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled(), "something was delivered"


@pytest.mark.parametrize("tls", [False, True], ids=["loopback", "tls"])
@pytest.mark.parametrize("user", sorted(MAY_WRITE))
async def test_each_role_publishes_what_it_may_and_nothing_else(
    mosquitto: ShippedMosquitto, user: str, tls: bool
) -> None:
    async with AsyncExitStack() as stack:
        links = {}
        for name in {OPERATOR, DAEMON, user}:
            links[name] = await stack.enter_async_context(connect(mosquitto.at(name, tls=tls, clean=True)))
        await links[OPERATOR].subscribe(["#"])
        accepted, codes = set(), set()
        for topic in (*CONTRACT, *ELSEWHERE):
            for retain in (False, True):
                try:
                    await links[user].publish(topic, b"mine", retain=retain)
                except PublishRefused as error:
                    codes.add(error.reason_code)
                else:
                    accepted.add(topic)
        await links[DAEMON].publish(TOPICS.status, b"that is all")
        arrived = set(await read_until(links[OPERATOR], "that is all"))
    assert accepted == MAY_WRITE[user]
    assert arrived == accepted
    assert codes == {NOT_AUTHORIZED}


@pytest.mark.parametrize("tls", [False, True], ids=["loopback", "tls"])
@pytest.mark.parametrize(
    "pretence",
    [
        {"username": None, "password": None},
        {"password": "wrong"},
        {"password": ""},
        {"username": "nobody"},
        {"client_id": DAEMON, "username": None, "password": None},
    ],
    ids=["anonymous", "wrong password", "no password", "unknown user", "anonymous with the daemon's id"],
)
async def test_nobody_comes_in_without_a_password(
    mosquitto: ShippedMosquitto, pretence: dict[str, str | None], tls: bool
) -> None:
    with pytest.raises(ConnectRefused) as refused:
        async with connect(mosquitto.at(DAEMON, tls=tls, **pretence)):
            pass
    assert refused.value.reason_code == NOT_AUTHORIZED


async def test_the_network_is_listened_to_by_tls_alone(mosquitto: ShippedMosquitto) -> None:
    with pytest.raises(LinkLost):
        async with connect(mosquitto.at(GATEWAY, port=mosquitto.tls_port, connect_timeout=1)):
            pass
    _, writer = await asyncio.open_connection("127.0.0.2", mosquitto.tls_port)
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.2", mosquitto.port)


@pytest.mark.parametrize("tls", [False, True], ids=["loopback", "tls"])
async def test_a_stolen_client_id_takes_nothing_from_its_owner(
    mosquitto: ShippedMosquitto, tls: bool
) -> None:
    async with connect(mosquitto.at(DAEMON, tls=tls)) as daemon:
        await daemon.subscribe([TOPICS.usage_filter])
        async with connect(mosquitto.at(BRIDGE, tls=tls, client_id=DAEMON, clean=True)) as thief:
            with pytest.raises(PublishRefused):
                await thief.publish(ENTITLEMENT, b"free for all", retain=True)
            await daemon.publish(TOPICS.status, b"still here")
        async with (
            connect(mosquitto.at(GATEWAY, tls=tls, clean=True)) as gateway,
            connect(mosquitto.at(BRIDGE, tls=tls, client_id=GATEWAY, clean=True)),
        ):
            await gateway.publish(USAGE, b"mine")
        assert [message.payload for message in await daemon.receive()] == [b"mine"]


async def test_the_queue_of_an_absent_daemon_survives_who_uses_its_client_id(
    mosquitto: ShippedMosquitto,
) -> None:
    async with connect(mosquitto.at(DAEMON)) as daemon:
        await daemon.subscribe([TOPICS.usage_filter])
    async with connect(mosquitto.at(GATEWAY, clean=True)) as gateway:
        await gateway.publish(USAGE, b"while it was away")
    async with connect(mosquitto.at(BRIDGE, client_id=DAEMON, clean=True)) as thief:
        assert not thief.session_present
    async with connect(mosquitto.at(DAEMON)) as daemon, asyncio.timeout(5):
        assert daemon.session_present
        assert [message.payload for message in await daemon.receive()] == [b"while it was away"]


async def test_one_user_name_is_one_connection(mosquitto: ShippedMosquitto) -> None:
    async with (
        connect(mosquitto.at(GATEWAY, client_id="first")) as first,
        connect(mosquitto.at(GATEWAY, client_id="second")),
        asyncio.timeout(5),
    ):
        await first.wait_lost()


@pytest.mark.parametrize("topic", [TOPICS.status, ENTITLEMENT, OTHER_USAGE])
async def test_a_will_on_a_denied_topic_is_never_said(mosquitto: ShippedMosquitto, topic: str) -> None:
    async with everybody(mosquitto, [OPERATOR, DAEMON]) as links:
        for user in (BRIDGE, GATEWAY):
            async with connect(mosquitto.at(user), will=Will(topic, b"forged")) as link:
                link.drop("as if the power had failed")
            await eventually(
                lambda user=user: f"Client {user} closed its connection" in mosquitto.log,  # type: ignore[misc]
                "the end of the connection",
            )
        await links[DAEMON].publish(TOPICS.status, b"that is all")
        told = await read_until(links[OPERATOR], "that is all")
    assert not [name for name in told if not name.startswith("$SYS/")]


async def test_a_will_on_an_allowed_topic_is_said(mosquitto: ShippedMosquitto) -> None:
    async with everybody(mosquitto, [OPERATOR]) as links:
        async with connect(mosquitto.at(DAEMON), will=Will(TOPICS.status, b"offline")) as link:
            link.drop("as if the power had failed")
        await read_until(links[OPERATOR], "offline")


async def test_a_refusal_that_3_1_1_cannot_tell_is_a_refusal_still(mosquitto: ShippedMosquitto) -> None:
    async with everybody(mosquitto, [OPERATOR, DAEMON]) as links:
        async with connect(mosquitto.at(BRIDGE, protocol=Protocol.V311, clean=True)) as bridge:
            await bridge.publish(ENTITLEMENT, b"free for all", retain=True)  # acknowledged like any other
        await links[DAEMON].publish(TOPICS.status, b"that is all")
        told = await read_until(links[OPERATOR], "that is all")
    assert ENTITLEMENT not in told


async def test_a_user_whose_password_is_removed_is_cut_off_by_a_reload(mosquitto: ShippedMosquitto) -> None:
    async with (
        connect(mosquitto.at(DAEMON)) as daemon,
        connect(mosquitto.at(GATEWAY)) as gateway,
        connect(mosquitto.at(BRIDGE)) as bridge,
    ):
        mosquitto.type(f"mosquitto_passwd -D /etc/mosquitto/kosmo-billing.passwords {GATEWAY}")
        await mosquitto.reload()
        async with asyncio.timeout(5):
            await gateway.wait_lost()
        with pytest.raises(ConnectRefused):
            async with connect(mosquitto.at(GATEWAY)):
                pass
        await daemon.publish(TOPICS.status, b"still here")
        await bridge.subscribe([TOPICS.status])


async def test_a_block_that_is_removed_takes_the_rights_at_a_reload(mosquitto: ShippedMosquitto) -> None:
    async with everybody(mosquitto, [DAEMON, GATEWAY, BRIDGE]) as links:
        await links[GATEWAY].publish(USAGE, b"mine")
        head, block, tail = mosquitto.acl.read_text().partition(f"user {GATEWAY}\n")
        assert block
        mosquitto.acl.write_text(head + tail.partition("\n\n")[2])
        await mosquitto.reload()
        with pytest.raises((PublishRefused, LinkLost)):
            await links[GATEWAY].publish(USAGE, b"mine")
        await links[DAEMON].publish(TOPICS.status, b"that is all")
        await read_until(links[BRIDGE], "that is all")


async def test_added_gateways_and_bridges_have_their_rights_after_a_reload(
    mosquitto: ShippedMosquitto,
) -> None:
    async with everybody(mosquitto, [DAEMON, OPERATOR]) as links:
        add(mosquitto, "gateway-2", "bridge-2")
        await mosquitto.reload()
        async with everybody(mosquitto, ["gateway-2", "bridge-2"]) as added:
            await added["gateway-2"].publish(OTHER_USAGE, b"mine")
            for user, topic in (("gateway-2", USAGE), ("bridge-2", TOPICS.usage("bridge-2"))):
                with pytest.raises(PublishRefused):
                    await added[user].publish(topic, b"not mine")
            await links[DAEMON].publish(OTHER_ACK, b"counted")
            await links[DAEMON].publish(TOPICS.status, b"that is all")
            assert set(await read_until(added["gateway-2"], "that is all")) == {OTHER_ACK}
            assert await read_until(added["bridge-2"], "that is all") == []


async def test_a_new_certificate_is_served_after_a_reload(mosquitto: ShippedMosquitto) -> None:
    before = mosquitto.at(GATEWAY, tls=True)
    mosquitto.type(*(line for line in commands("kosmo-billing.conf") if "mosquitto_passwd" not in line))
    await mosquitto.reload()
    async with connect(mosquitto.at(GATEWAY, tls=True)):
        pass
    with pytest.raises(LinkLost, match="certificate"):
        async with connect(before):
            pass


async def test_what_was_retained_and_queued_survives_a_restart(mosquitto: ShippedMosquitto) -> None:
    async with connect(mosquitto.at(DAEMON)) as daemon, connect(mosquitto.at(GATEWAY)) as gateway:
        await daemon.subscribe([TOPICS.usage_filter])
        await daemon.publish(TOPICS.watermark, b"before", retain=True)
        daemon.drop("killed")
        await gateway.publish(USAGE, b"while it was away")
    await mosquitto.restart()
    async with connect(mosquitto.at(DAEMON)) as daemon, connect(mosquitto.at(BRIDGE)) as bridge:
        assert [message.payload for message in await daemon.receive()] == [b"while it was away"]
        await bridge.subscribe([TOPICS.watermark])
        assert [message.payload for message in await bridge.receive()] == [b"before"]
