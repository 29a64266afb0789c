import asyncio
import dataclasses

import pytest

from kosmo_billing_daemon.link import LinkLost, Protocol, SubscribeRefused, connect
from tests.link.brokers import CONNACK, at, collect, scripted
from tests.support.mosquitto import Mosquitto

BOTH = pytest.mark.parametrize("protocol", list(Protocol))


async def send_numbers(mosquitto: Mosquitto, count: int, start: int = 0) -> None:
    async with connect(at(mosquitto, "sender", clean=True)) as link:
        await asyncio.gather(*(link.publish("t/x", b"%d" % n) for n in range(start, start + count)))


@BOTH
async def test_what_was_not_acknowledged_comes_again(mosquitto: Mosquitto, protocol: Protocol) -> None:
    broker = at(mosquitto, protocol=protocol)
    async with connect(broker) as link:
        assert not link.session_present
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 10)
        messages = await collect(link, 10)
        assert [int(m.payload) for m in messages] == list(range(10))
        assert not any(m.duplicate for m in messages)
        for message in messages[:4]:
            link.acknowledge(message)
    async with connect(broker) as link:
        assert link.session_present
        again = await collect(link, 6)
        assert [int(m.payload) for m in again] == [4, 5, 6, 7, 8, 9]
        assert all(m.duplicate and m.qos == 1 for m in again)
        for message in again:
            link.acknowledge(message)
    async with connect(broker) as link:
        await send_numbers(mosquitto, 1, start=99)
        assert [m.payload for m in await collect(link, 1)] == [b"99"]


async def test_drop_brings_the_unacknowledged_again(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 3)
        await collect(link, 3)
        link.drop("the database is away")
        assert "database" in str(await link.wait_lost())
    async with connect(at(mosquitto)) as link:
        assert [int(m.payload) for m in await collect(link, 3)] == [0, 1, 2]


@BOTH
async def test_session_survives_a_restart_of_the_broker(protocol: Protocol) -> None:
    async with Mosquitto(persistence=True) as mosquitto:
        broker = at(mosquitto, protocol=protocol)
        async with connect(broker) as link:
            await link.subscribe(["t/#"])
            await send_numbers(mosquitto, 3)
            await collect(link, 3)
            await mosquitto.restart()
            assert isinstance(await link.wait_lost(), LinkLost)
        await send_numbers(mosquitto, 2, start=3)
        async with connect(broker) as link:
            assert link.session_present
            assert [int(m.payload) for m in await collect(link, 5)] == [0, 1, 2, 3, 4]


@BOTH
async def test_clean_client_leaves_no_session(mosquitto: Mosquitto, protocol: Protocol) -> None:
    broker = at(mosquitto, clean=True, protocol=protocol)
    for _ in range(2):
        async with connect(broker) as link:
            assert not link.session_present
            await link.subscribe(["t/#"])


async def test_message_of_a_former_link_is_not_acknowledged(mosquitto: Mosquitto) -> None:
    """Its packet id may by now be another message's: acknowledging that one would lose it."""
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 1)
        [old] = await collect(link, 1)
    async with connect(at(mosquitto)) as link:
        [again] = await collect(link, 1)
        with pytest.raises(ValueError, match="another link"):
            link.acknowledge(old)
        link.acknowledge(again)


async def test_acknowledging_twice_is_an_error(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 2)
        first, second = await collect(link, 2)
        for message in (first, second):
            link.acknowledge(message)
            with pytest.raises(ValueError, match="already"):
                link.acknowledge(message)


async def test_acknowledgements_leave_in_order_of_arrival(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 6)
        messages = await collect(link, 6)
        for n in (5, 1, 0, 3):  # 0 and 1 leave; 3 and 5 wait for 2
            link.acknowledge(messages[n])
        with pytest.raises(ValueError, match="already"):
            link.acknowledge(messages[5])
    async with connect(at(mosquitto)) as link:
        assert [int(m.payload) for m in await collect(link, 4)] == [2, 3, 4, 5]


async def test_lost_link_neither_receives_nor_acknowledges(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 5)
        [first] = await collect(link, 1)
        link.drop("for the test")
        with pytest.raises(LinkLost):
            await link.receive()
        with pytest.raises(LinkLost):
            link.acknowledge(first)
        with pytest.raises(LinkLost):
            await link.subscribe(["u/#"])


async def test_receive_takes_at_most_its_limit_in_order(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        await send_numbers(mosquitto, 20)
        seen: list[int] = []
        while len(seen) < 20:
            batch = await link.receive(limit=3)
            assert 1 <= len(batch) <= 3
            seen += [int(m.payload) for m in batch]
            for message in batch:
                link.acknowledge(message)
        assert seen == list(range(20))


async def test_qos_0_needs_no_acknowledgement(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"], qos=0)
        await send_numbers(mosquitto, 1)
        [message] = await collect(link, 1)
        assert message.qos == 0
        link.acknowledge(message)
        link.acknowledge(message)


async def test_retained_flag_tells_state_from_a_change(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.publish("t/x", b"state", retain=True)
        await link.subscribe(["t/#"])
        await link.publish("t/x", b"change", retain=True)
        assert [(m.payload, m.retain) for m in await collect(link, 2)] == [
            (b"state", True),
            (b"change", False),
        ]


async def test_unsubscribed_topics_come_no_more(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#", "end"])
        await link.unsubscribe(["t/#"])
        await link.publish("t/x", b"x")
        await link.publish("end", b"x")
        assert [m.topic for m in await collect(link, 1)] == ["end"]


async def test_many_filters_are_subscribed_at_once(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe([f"entitlements/{n:02x}/+" for n in range(256)])
        await link.publish("entitlements/ff/x", b"x")
        assert [m.topic for m in await collect(link, 1)] == ["entitlements/ff/x"]


@pytest.mark.parametrize(
    ("protocol", "connack", "suback"),
    [
        (Protocol.V5, CONNACK, "90 04 00 01 00 01 90 04 00 02 00 87"),
        (Protocol.V311, bytes.fromhex("20 02 00 00"), "90 03 00 01 01 90 03 00 02 80"),
    ],
)
async def test_refused_filter_raises(protocol: Protocol, connack: bytes, suback: str) -> None:
    script = scripted(connack, bytes.fromhex(suback))
    async with script as broker, connect(dataclasses.replace(broker, protocol=protocol)) as link:
        with pytest.raises(SubscribeRefused) as refused:
            await link.subscribe(["mine/#", "theirs/#"])
        assert refused.value.topic == "theirs/#"
        assert refused.value.reason_code >= 0x80
        link.drop("enough")


async def test_packet_id_used_twice_ends_the_link() -> None:
    """One acknowledgement would count for both."""
    twice = bytes.fromhex("32 08 00 03 61 2f 62 00 07 00") * 2
    async with scripted(CONNACK + twice) as broker, connect(broker) as link:
        assert "twice" in str(await link.wait_lost())


async def test_cancelled_receive_loses_nothing(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        receiving = asyncio.create_task(link.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait({receiving})
        await send_numbers(mosquitto, 3)
        assert len(await collect(link, 3)) == 3


async def test_flood_is_received_completely() -> None:
    async with Mosquitto(max_queued_messages=100_000) as mosquitto, connect(at(mosquitto)) as link:
        await link.subscribe(["t/#"])
        sending = asyncio.create_task(send_numbers(mosquitto, 5000))
        seen: list[int] = []
        async with asyncio.timeout(30):
            while len(seen) < 5000:
                for message in await link.receive(100):
                    seen.append(int(message.payload))
                    link.acknowledge(message)
        await sending
        assert seen == list(range(5000))
