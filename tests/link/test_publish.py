import asyncio
import gc
import time
from typing import Any

import pytest

from kosmo_billing_daemon.link import LinkLost, Protocol, PublishRefused, connect
from tests.link.brokers import CONNACK, at, collect, retained, scripted
from tests.support.mosquitto import Mosquitto

ONLY_MINE = "topic readwrite mine/#\ntopic readwrite marker"
BOTH = pytest.mark.parametrize("protocol", list(Protocol))


@BOTH
async def test_published_retained_state_is_at_the_broker(mosquitto: Mosquitto, protocol: Protocol) -> None:
    async with connect(at(mosquitto, protocol=protocol)) as link:
        await link.publish("state/1", b"one", retain=True)
        await link.publish("state/2", b"two", retain=True, qos=0)
        await link.publish("state/3", b"change")
    found = await retained(mosquitto, "state/1", "state/2", "state/3")
    assert found == {"state/1": b"one", "state/2": b"two"}


async def test_publication_denied_by_the_acl_raises_and_the_link_stays() -> None:
    async with Mosquitto(acl=ONLY_MINE) as mosquitto, connect(at(mosquitto)) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish("theirs/1", b"x", retain=True)
        assert (refused.value.topic, refused.value.reason_code) == ("theirs/1", 0x87)
        assert refused.value.reason == "Not authorized"
        await link.publish("mine/1", b"x", retain=True)
        await mosquitto.reload(acl="topic readwrite #")
        await link.publish("theirs/1", b"x", retain=True)


async def test_acknowledgement_without_subscribers_is_success(mosquitto: Mosquitto) -> None:
    """MQTT 5 answers it with code 16, which is not an error."""
    async with connect(at(mosquitto)) as link:
        await link.publish("nobody/listens", b"x")


async def test_only_the_refused_one_of_many_fails() -> None:
    async with Mosquitto(acl=ONLY_MINE) as mosquitto, connect(at(mosquitto)) as link:
        topics = [f"{'theirs' if n == 7 else 'mine'}/{n}" for n in range(15)]
        results = await asyncio.gather(*(link.send(t, b"x") for t in topics), return_exceptions=True)
        assert [type(r) for r in results] == [PublishRefused if n == 7 else type(None) for n in range(15)]


async def test_killed_broker_fails_everything_pending_at_once(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        mosquitto.freeze()
        sent = [link.send(f"t/{n}", b"x") for n in range(5)]
        waiting = [asyncio.create_task(link.publish(f"u/{n}", b"x")) for n in range(200)]
        subscribing = asyncio.create_task(link.subscribe(["t/#"]))
        receiving = asyncio.create_task(link.receive())
        lost = asyncio.create_task(link.wait_lost())
        await asyncio.sleep(0)
        mosquitto.kill()
        started = time.monotonic()
        results = await asyncio.gather(*sent, *waiting, subscribing, receiving, return_exceptions=True)
        assert all(isinstance(result, LinkLost) for result in results), results
        assert isinstance(await lost, LinkLost)
        assert time.monotonic() - started < 0.5
        with pytest.raises(LinkLost):
            await link.send("later", b"x")
        with pytest.raises(LinkLost):
            await link.publish("later", b"x")


async def test_failed_publications_never_arrive_later(mosquitto: Mosquitto) -> None:
    """A reused client would deliver them as ghosts and take retained state back."""
    async with connect(at(mosquitto)) as link:
        mosquitto.kill()
        await link.wait_lost()
        with pytest.raises(LinkLost):
            await link.publish("state", b"v2", retain=True)
    await mosquitto.start()
    async with connect(at(mosquitto)) as link:
        await link.publish("state", b"v3", retain=True)
    assert await retained(mosquitto, "state") == {"state": b"v3"}


async def test_frozen_broker_costs_the_link_after_the_publish_timeout(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, publish_timeout=0.3, keepalive=2)) as link:
        mosquitto.freeze()
        started = time.monotonic()
        with pytest.raises(LinkLost, match="acknowledge"):
            await link.publish("t", b"x")
        assert time.monotonic() - started < 1.5
        assert isinstance(await link.wait_lost(), LinkLost)


async def test_publish_keeps_within_the_slots(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, max_in_flight=4)) as link:
        mosquitto.freeze()
        tasks = [asyncio.create_task(link.publish(f"t/{n}", b"x", retain=True)) for n in range(12)]
        await asyncio.sleep(0.05)
        assert len(link._outbox._waiting) == 4
        mosquitto.thaw()
        await asyncio.gather(*tasks)
        assert len(link._outbox._waiting) == 0


async def test_slot_of_a_caller_who_left_is_free_only_after_the_answer(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, max_in_flight=1)) as link:
        mosquitto.freeze()
        left = asyncio.create_task(link.publish("left", b"x", retain=True))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(link.publish("waited", b"x", retain=True))
        gave_up = asyncio.create_task(link.publish("never", b"x", retain=True))
        await asyncio.sleep(0)
        left.cancel()
        gave_up.cancel()
        await asyncio.wait({left, gave_up})
        assert len(link._outbox._waiting) == 1
        mosquitto.thaw()
        await waiting
    assert set(await retained(mosquitto, "left", "waited", "never")) == {"left", "waited"}


async def test_broker_with_a_smaller_window_is_not_overrun() -> None:
    async with Mosquitto(max_inflight_messages=7) as mosquitto, connect(at(mosquitto)) as link:
        assert link.max_in_flight == 7
        await asyncio.gather(*(link.publish(f"t/{n}", b"x") for n in range(100)))


async def test_own_window_holds_where_the_broker_allows_more() -> None:
    async with Mosquitto(max_inflight_messages=100) as mosquitto, connect(at(mosquitto)) as link:
        assert link.max_in_flight == 50


async def test_oversize_for_max_packet_size_is_refused_and_the_link_stays() -> None:
    async with Mosquitto(lines=["max_packet_size 2000"]) as mosquitto, connect(at(mosquitto)) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish("t", b"x" * 2000)
        assert refused.value.reason_code == 0x95
        for size in range(1950, 2001):  # whatever is not refused here passes there
            answer = (await asyncio.gather(link.publish("t", b"x" * size), return_exceptions=True))[0]
            assert answer is None or isinstance(answer, PublishRefused)
        await link.publish("t", b"x" * 1980)


async def test_oversize_for_message_size_limit_is_refused_and_the_link_stays() -> None:
    """The broker answers 0x95, which paho 2.2 takes for a protocol error."""
    async with Mosquitto(lines=["message_size_limit 1000"]) as mosquitto, connect(at(mosquitto)) as link:
        with pytest.raises(PublishRefused, match="too large") as refused:
            await link.publish("t", b"x" * 1001)
        assert refused.value.reason_code == 0x95
        await link.publish("t", b"x" * 1000)


@BOTH
@pytest.mark.parametrize("size", [0, 100, 130, 16_370, 16_400, 2_097_160])
async def test_payload_of_any_size_arrives_whole(mosquitto: Mosquitto, protocol: Protocol, size: int) -> None:
    """Around the sizes where the length of a packet takes one more byte."""
    async with connect(at(mosquitto, protocol=protocol)) as link:
        await link.subscribe(["größe/ß"])
        for length in range(size, size + 12):
            payload = (b"0123456789" * (length // 10 + 1))[:length]
            link.send("größe/ß", payload)
            [message] = await link.receive()
            assert (message.topic, message.payload) == ("größe/ß", payload)
            link.acknowledge(message)


@pytest.mark.parametrize("topic", ["", "a/#", "+/b", "nul\0", "x" * 65_536])
async def test_what_is_no_topic_is_the_callers_mistake(mosquitto: Mosquitto, topic: str) -> None:
    async with connect(at(mosquitto)) as link:
        with pytest.raises(ValueError, match="not a topic"):
            link.send(topic, b"x")
        with pytest.raises(ValueError, match="QoS"):
            await link.publish("t", b"x", qos=2)
        await link.publish("t", b"x")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        pytest.param("40 03 00 01 97", 0x97, "Quota exceeded", id="short"),
        pytest.param("40 0b 00 01 87 07 1f 00 04 6e 6f 70 65", 0x87, "Not authorized", id="with a reason"),
        pytest.param("40 84 01 00 01 80 80 01" + " 00" * 128, 0x80, "Unspecified error", id="long"),
        pytest.param("40 03 00 01 ff", 0xFF, "code 0xff", id="unheard of"),
    ],
)
async def test_refusals_are_understood_in_every_form(answer: str, code: int, words: str) -> None:
    async with scripted(CONNACK, bytes.fromhex(answer)) as broker, connect(broker) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish("t", b"x")
        assert (refused.value.reason_code, refused.value.reason) == (code, words)
        link.drop("enough")


async def test_retained_is_refused_where_the_broker_keeps_nothing() -> None:
    async with Mosquitto(lines=["retain_available false"]) as mosquitto, connect(at(mosquitto)) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish("t", b"x", retain=True)
        assert refused.value.reason_code == 0x9A
        await link.publish("t", b"x")


async def test_qos_above_the_brokers_is_refused() -> None:
    async with Mosquitto(lines=["max_qos 0"]) as mosquitto, connect(at(mosquitto)) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish("t", b"x")
        assert refused.value.reason_code == 0x9B
        await link.publish("t", b"x", qos=0)


async def test_refusals_before_sending_give_their_slots_back() -> None:
    small = Mosquitto(lines=["max_packet_size 2000"])
    async with small as mosquitto, connect(at(mosquitto, max_in_flight=2)) as link:
        for _ in range(5):
            with pytest.raises(PublishRefused):
                await link.publish("t", b"x" * 3000)
            with pytest.raises(ValueError, match="wildcard"):
                await link.publish("t/#", b"x")
        async with asyncio.timeout(5):
            await asyncio.gather(*(link.publish("t", b"x") for _ in range(10)))


async def test_future_nobody_awaits_logs_nothing(mosquitto: Mosquitto) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with connect(at(mosquitto)) as link:
        mosquitto.freeze()
        link.send("t", b"x")
        mosquitto.kill()
        await link.wait_lost()
        link.send("t", b"x")
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_publications_arrive_in_the_order_they_were_sent(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link, connect(at(mosquitto, "other")) as other:
        await other.subscribe(["t"])
        await asyncio.gather(*(link.publish("t", b"%d" % n) for n in range(500)))
        assert [int(m.payload) for m in await collect(other, 500)] == list(range(500))


async def test_packet_ids_are_used_again_after_they_ran_out(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        pending: list[asyncio.Future[None]] = []
        for n in range(70_000):
            pending.append(link.send("t", b"%d" % n))
            if len(pending) == link.max_in_flight:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)


async def test_answer_to_a_publication_never_sent_changes_nothing() -> None:
    async with scripted(CONNACK + bytes.fromhex("40 02 00 63")) as broker, connect(broker) as link:
        link.send("t", b"x")
        await asyncio.sleep(0)
        assert len(link._outbox._waiting) == 1
        link.drop("enough")
