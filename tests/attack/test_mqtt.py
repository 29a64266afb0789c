"""A daemon among hostile neighbours on the broker we ship the files for.

Who may publish what is shown in tests/mqtt/test_roles.py, and what is no report in
tests/mqtt/test_usage_intake.py and tests/contract/test_hostile_payloads.py. Here the whole daemon stands
behind it: whatever a password of ours publishes, nobody's rights change, nobody else waits, and the daemon
neither falls nor loses its link.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.payloads import UsageAck
from kosmo_billing_daemon.contract.topics import Topics
from kosmo_billing_daemon.link import LinkLost, Protocol, PublishRefused, Will, connect
from kosmo_billing_daemon.mqtt.usage_intake import MOST_OF_ONE
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.attack.raw_mqtt import CONTENT_TYPE, USER_PROPERTY, publish, raw_client, text
from tests.mqtt.shipped import BRIDGE, DAEMON, GATEWAY, NAMELESS, OPERATOR, PASSWORD, ShippedMosquitto
from tests.mqtt.test_roles import NOT_AUTHORIZED, add
from tests.support.daemon import DaemonProcess
from tests.support.intake import report_all
from tests.support.usage import event, payload
from tests.support.world import World, grant, until, world_around

TOPICS = Topics()
HONEST = "gateway-2"


@pytest.fixture
async def mosquitto() -> AsyncIterator[ShippedMosquitto]:
    async with ShippedMosquitto() as broker:
        add(broker, HONEST)
        await broker.reload()
        yield broker


@pytest.fixture
async def world(tmp_path: Path, database_url: str, mosquitto: ShippedMosquitto) -> AsyncIterator[World]:
    identity = {"username": OPERATOR, "password": PASSWORD}
    async with world_around(tmp_path, database_url, mosquitto, identity) as world:
        world.more = {"MQTT_USERNAME": DAEMON, "MQTT_PASSWORD": PASSWORD}
        yield world


@pytest.fixture
async def daemon(world: World) -> DaemonProcess:
    return await world.daemon()


@pytest.fixture
async def victim(world: World, daemon: DaemonProcess) -> UUID:
    """A user with a plan whose document everybody has."""
    assert daemon.pid
    user_id = uuid4()
    await grant(world, [user_id])
    await world.until_published(user_id)
    return user_id


async def honest_report(mosquitto: ShippedMosquitto, user_id: UUID, name: str) -> float:
    """Have an honest gateway report one message; returns the seconds until its usage-ack."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    report = payload([event(user_id, name, utc_now() - timedelta(seconds=1))], name)
    async with asyncio.timeout(20):
        # Patient beyond the test, so that it is sent once.
        acks = await report_all(
            mosquitto.port, HONEST, {name: report}, patience=60.0, username=HONEST, password=PASSWORD
        )
    # Where the link was given up after the commit, for another's flood, the answer is that to the repeat.
    assert (acks[0].report_id, acks[0].accepted + acks[0].duplicates, acks[0].rejected) == (name, 1, ())
    return loop.time() - began


async def metric(world: World, daemon: DaemonProcess, name: str) -> float:
    async with world.http.get(f"{daemon.url}/metrics") as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))


async def rows(world: World) -> dict[str, str]:
    """A fingerprint of every table that rights, money or usage hang on."""
    tables = ("subscriptions", "btcpay_invoices", "entitlements", "events", "usage_events", "usage_days")
    fingerprint = "SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} AS t"
    return {table: await world.value(fingerprint.format(table)) for table in tables}


async def unshaken(world: World, daemon: DaemonProcess) -> None:
    """Fail if the daemon lost its link, was restarted, or thinks that anything is wrong with it."""
    assert await metric(world, daemon, "kosmo_billing_broker_losses_total") == 0, daemon.log
    assert (await world.ready(daemon))[0] == 200


LEGAL_AND_HOSTILE = (
    USER_PROPERTY + text("\ufeff") + text("b"),  # a mark that paho 2.2 takes for a protocol error
    CONTENT_TYPE + text("\ufeffapplication/json"),
    (USER_PROPERTY + text("a") + text("b")) * 18_000,  # which paho 2.2 reads in quadratic time
)


async def test_properties_of_a_report_neither_end_nor_stall_the_link(
    world: World, daemon: DaemonProcess, victim: UUID, mosquitto: ShippedMosquitto
) -> None:
    """A broker passes properties on from whoever publishes; what ends a link comes again on the next one."""
    async with raw_client(mosquitto, GATEWAY) as attacker:
        for number in range(9):
            report = payload([event(victim, f"m{number}", utc_now() - timedelta(seconds=1))], f"r{number}")
            properties = LEGAL_AND_HOSTILE[number // 3]
            said = publish(TOPICS.usage(GATEWAY), report, mid=number + 1, properties=properties)
            assert await attacker.say(said) == 0
        waited = await honest_report(mosquitto, victim, "honest")
    counted = "SELECT count(*) = 10 FROM usage_events"
    await until(lambda: world.value(counted), "ten counts")
    await unshaken(world, daemon)
    assert waited < 2.0


async def test_no_password_of_ours_changes_a_right_or_a_count(
    world: World, daemon: DaemonProcess, victim: UUID, mosquitto: ShippedMosquitto
) -> None:
    """Forged documents, watermarks, status, events, usage-acks, usage under other names, and wills."""
    before = await rows(world)
    documents = dict(world.observer.documents)
    seen = len(world.observer.messages)
    forged = json.dumps(
        documents[victim] | {"version": 10**9, "plan_type": "sanctuary", "messages_limit": None}
    )
    usage = payload([event(victim, "forged", utc_now() - timedelta(seconds=1))])
    ack = UsageAck(report_id="r", accepted=1, duplicates=0).encode()
    publications = {
        TOPICS.entitlement(victim): forged.encode(),
        TOPICS.entitlement(uuid4()): b"",
        TOPICS.watermark: b'{"sequence":999999999,"entitlements":0}',
        TOPICS.status: b'{"state":"offline"}',
        TOPICS.event("subscription.revoked"): b"{}",
        TOPICS.usage_ack(GATEWAY): ack,
        TOPICS.usage_ack(HONEST): ack,
        TOPICS.time_answer(GATEWAY): b'{"nonce":"n","at":"2020-01-01T00:00:00Z"}',
        TOPICS.time_request(HONEST): b'{"nonce":"n"}',
        TOPICS.usage(HONEST): usage,
        TOPICS.usage(BRIDGE): usage,
        TOPICS.usage(DAEMON): usage,
        TOPICS.usage(f"{GATEWAY}/more"): usage,
    }
    # The operator is the observer here; that it may write nothing is shown in tests/mqtt/test_roles.py.
    for user in (GATEWAY, BRIDGE, NAMELESS):
        for claimed in (user, DAEMON):  # the daemon's client id changes nothing
            async with connect(mosquitto.at(user, client_id=claimed, clean=True)) as thief:
                for topic, content in publications.items():
                    for retain in (False, True):
                        with pytest.raises(PublishRefused) as refused:
                            await thief.publish(topic, content, retain=retain)
                        assert refused.value.reason_code == NOT_AUTHORIZED
        async with connect(mosquitto.at(user, clean=True), will=Will(TOPICS.status, b"forged")) as link:
            link.drop("as if the power had failed")
    await honest_report(mosquitto, victim, "honest")  # whatever was let through would be counted before it
    assert await world.value("SELECT array_agg(message_id) FROM usage_events") == ["honest"]
    after = await rows(world)
    assert {name for name in after if after[name] != before[name]} <= {
        "subscriptions",  # by the honest report: one message used
        "entitlements",
        "usage_events",
        "usage_days",
    }
    await world.until_published(victim, messages_used=1)
    assert world.observer.documents[victim]["version"] < documents[victim]["version"] + 1000
    expected = {TOPICS.entitlement(victim), TOPICS.watermark, TOPICS.usage(HONEST), TOPICS.usage_ack(HONEST)}
    told = {message.topic for message in world.observer.messages[seen:] if not message.retain}
    assert told <= expected
    await unshaken(world, daemon)


UNSENDABLE = {
    "a wildcard": publish(f"{TOPICS.prefix}/usage/+", b"{}"),
    "another wildcard": publish(f"{TOPICS.prefix}/#", b"{}"),
    "NUL": publish(f"{TOPICS.usage(GATEWAY)}\0", b"{}"),
    "a control character": publish(f"{TOPICS.usage(GATEWAY)}\x1b[2J", b"{}"),
    "half of a surrogate pair": publish(TOPICS.usage(GATEWAY).encode() + b"\xed\xa0\x80", b"{}"),
    "no topic": publish("", b"{}"),
    "an alias never given": publish("", b"{}", properties=b"\x23\x00\x05"),
    "more than max_packet_size": publish(TOPICS.usage(GATEWAY), b"0" * 131_073),
    "properties longer than the packet": b"\x32\x07\x00\x01a\x00\x01\x7f\x26",
    "reserved QoS 3": b"\x36\x05\x00\x01a\x00\x01",
}
REFUSED = {
    "of the broker": publish("$SYS/broker/uptime", b"0"),
    "a shared name": publish(f"$share/x/{TOPICS.usage(GATEWAY)}", b"{}"),
    "a level more": publish(f"{TOPICS.usage(GATEWAY)}/", b"{}"),
    "another case": publish(TOPICS.usage(GATEWAY.upper()), b"{}"),
    "look-alike": publish(TOPICS.usage("gatew\u0430y-1"), b"{}"),
    "a thousand levels": publish(f"{TOPICS.prefix}/usage" + "/x" * 190, b"{}"),
}


async def test_what_is_no_publication_ends_at_the_broker(
    world: World, daemon: DaemonProcess, victim: UUID, mosquitto: ShippedMosquitto
) -> None:
    for name, said in UNSENDABLE.items():
        async with raw_client(mosquitto, GATEWAY) as attacker:
            answer = await attacker.say(said)
        assert answer is None or answer >= 0x80, name
    async with raw_client(mosquitto, GATEWAY) as attacker:
        for name, said in REFUSED.items():
            answer = await attacker.say(said)
            assert answer == NOT_AUTHORIZED, name
    # MQTT 3.1.1 is told of no limit, so nothing holds such a client back but the broker.
    with pytest.raises(LinkLost):
        async with connect(mosquitto.at(GATEWAY, protocol=Protocol.V311, clean=True)) as link:
            await link.publish(TOPICS.usage(GATEWAY), b"0" * 131_073)
    await honest_report(mosquitto, victim, "honest")
    assert await metric(world, daemon, 'kosmo_billing_usage_total{outcome="malformed"}') == 0
    await unshaken(world, daemon)


def hostile_reports(user_id: UUID) -> tuple[list[bytes], list[tuple[bytes, str]]]:
    """What is no report at all, and what is one with a single event that is refused, and how."""
    good = event(user_id, "x", utc_now() - timedelta(seconds=1))

    def one(**changes: Any) -> bytes:
        return payload([good | changes])

    def raw(name: str, value: str) -> bytes:
        """As JSON cannot be made to say it."""
        return payload([good | {name: "@"}]).replace(b'"@"', value.encode())

    malformed = [
        b"",
        b"\xff\xfe{}",
        payload([good]).decode().encode("utf-16"),
        b"\x1f\x8b\x08\x00" + bytes(100),  # gzip
        b"[" * 130_000,
        b'{"report_id":"r","events":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b'{"report_id":"' + b"x" * 120_000 + b'","events":[]}',
        b'{"report_id":"r","events":[],"events":null}',
        b'{"report_id":' + b"9" * 100_000 + b',"events":[]}',
        one(message_id="m" * 129),
        one(message_id="nul\0"),
        one(message_id="\ud800"),
        raw("message_id", "NaN"),
        payload([good] * 501),
        payload([]),
    ]
    refused = [
        (one(user_id="' OR 1=1 --"), "user_id"),
        (one(user_id=[[]]), "user_id"),
        (one(node_id="x" * 129), "node_id"),
        (raw("count", "NaN"), "count"),
        (raw("count", "1e999"), "count"),
        (raw("count", "-1"), "count"),
        (raw("count", "9" * 4000), "count"),
        (one(count=True), "count"),
        (one(sent_at="0001-01-01T00:00:00+14:00"), "sent_at"),
        (one(sent_at=1e308), "sent_at"),
        (one(sent_at="1970-01-01T00:00:00Z"), "too_old"),
    ]
    return malformed, refused


async def test_hostile_reports_are_named_by_their_reason_and_change_no_row(
    world: World, daemon: DaemonProcess, victim: UUID, mosquitto: ShippedMosquitto
) -> None:
    before = await rows(world)
    malformed, refused = hostile_reports(victim)
    async with connect(mosquitto.at(GATEWAY, clean=True)) as attacker:
        await attacker.subscribe([TOPICS.usage_ack(GATEWAY)])
        await attacker.publish(TOPICS.usage(GATEWAY), malformed[0], retain=True)  # an empty one clears
        for said in (*malformed, *(said for said, _ in refused)):
            await attacker.publish(TOPICS.usage(GATEWAY), said)
        answers: list[UsageAck] = []
        async with asyncio.timeout(20):
            while len(answers) < len(refused):
                answers += [UsageAck.decode(message.payload) for message in await attacker.receive()]
    for (said, reason), answer in zip(refused, answers, strict=True):
        assert (answer.accepted, answer.duplicates) == (0, 0), said[:300]
        assert [rejection.message_id for rejection in answer.rejected] == ["x"]
        assert reason in answer.rejected[0].reason
    assert await rows(world) == before
    number = len(malformed) + 1
    assert await metric(world, daemon, 'kosmo_billing_usage_total{outcome="malformed"}') == number
    assert await metric(world, daemon, 'kosmo_billing_usage_total{outcome="rejected"}') == len(refused)
    kept = "SELECT count(*) FROM usage_quarantine WHERE reason <> '' AND octet_length(payload) <= 4096"
    assert await world.value(kept) == number
    await honest_report(mosquitto, victim, "honest")
    await unshaken(world, daemon)


def resident(pid: int) -> int:
    """The memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) >> 10


async def test_a_flood_beyond_what_is_held_stops_neither_documents_nor_others_usage(
    world: World, daemon: DaemonProcess, victim: UUID, mosquitto: ShippedMosquitto
) -> None:
    """Four times what is held of one reporter. When the link was dropped for it, all of it came again
    and the link was dropped again, for ever: no document went out and no usage was counted.
    """
    number = 4 * MOST_OF_ONE // 125_000
    before = resident(daemon.pid)
    async with connect(mosquitto.at(GATEWAY, clean=True)) as attacker:
        flood = asyncio.gather(
            *(attacker.publish(TOPICS.usage(GATEWAY), b"[" * 125_000) for _ in range(number))
        )
        await honest_report(mosquitto, victim, "honest")
        bought = await world.buy(daemon)
        await world.until_published(bought)
        peak = resident(daemon.pid)
        await flood
    malformed = 'kosmo_billing_usage_total{outcome="malformed"}'

    async def all_read() -> bool:
        return await metric(world, daemon, malformed) >= number

    await until(all_read, "the end of the flood")
    await world.until_ready(daemon)
    await honest_report(mosquitto, victim, "afterwards")
    assert peak - before < 128
    assert await metric(world, daemon, "kosmo_billing_broker_losses_total") <= 8
