import asyncio
import dataclasses
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kosmo_billing_daemon.link import Broker, ConnectRefused, LinkLost, Protocol, Will, connect
from tests.link.brokers import CONNACK, at, collect, held, retained, scripted
from tests.support.mosquitto import Mosquitto

BOTH = pytest.mark.parametrize("protocol", list(Protocol))
WILL = Will("status", b"offline")


@contextmanager
def unused_port() -> Iterator[int]:
    """A port nobody listens on, held so that nobody will."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@BOTH
async def test_wrong_password_is_refused(protocol: Protocol) -> None:
    async with Mosquitto(users={"daemon": "right"}) as mosquitto:
        wrong = at(mosquitto, username="daemon", password="wrong", protocol=protocol)
        with pytest.raises(ConnectRefused) as refused:
            async with connect(wrong):
                pass
        assert refused.value.reason_code in {0x86, 0x87}
        assert "wrong" not in repr(wrong)
        async with connect(dataclasses.replace(wrong, password="right")) as link:
            await link.publish("t", b"x")


@pytest.mark.parametrize("what", ["username", "password", "client_id"])
async def test_an_identity_longer_than_mqtt_carries_is_told(mosquitto: Mosquitto, what: str) -> None:
    who: dict[str, Any] = {"username": "daemon", "password": "p", what: "x" * 65536}
    with pytest.raises(LinkLost, match="longer than MQTT carries"):
        async with connect(at(mosquitto, **who)):
            pass


async def test_failed_connects_leave_nothing_behind(mosquitto: Mosquitto) -> None:
    nowhere = at(mosquitto, connect_timeout=0.05)
    mosquitto.freeze()
    try:
        async with asyncio.timeout(0.5):  # the event loop's own threads and pipes exist before counting
            with pytest.raises(LinkLost):
                async with connect(nowhere):
                    pass
        before = held()
        for _ in range(20):
            with pytest.raises(LinkLost, match="did not answer"):
                async with connect(nowhere):
                    pass
        assert held() == before
        with unused_port() as port:
            during = held()
            for _ in range(20):
                with pytest.raises(LinkLost, match="could not connect"):
                    async with connect(dataclasses.replace(nowhere, port=port)):
                        pass
            assert held() == during
        for _ in range(20):
            task = asyncio.create_task(connect(dataclasses.replace(nowhere, connect_timeout=5)).__aenter__())
            for _ in range(4):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert held() == before
    finally:
        mosquitto.thaw()


async def test_refused_connects_leave_nothing_behind() -> None:
    async with Mosquitto(users={"daemon": "right"}) as mosquitto:
        before = held()
        for _ in range(20):
            with pytest.raises(ConnectRefused):
                async with connect(at(mosquitto, username="daemon", password="wrong")):
                    pass
        assert held() == before


async def test_cut_and_closed_links_leave_nothing_behind(mosquitto: Mosquitto) -> None:
    before = held()
    for n in range(20):
        async with connect(at(mosquitto)) as link:
            await link.subscribe(["t/#"])
            link.send("t/x", b"x")
            if n % 2:
                link.drop("for the test")
    assert held() == before


async def test_unknown_host_is_a_lost_link() -> None:
    with pytest.raises(LinkLost, match="could not connect"):
        async with connect(Broker(host="nowhere.invalid", client_id="x", connect_timeout=20)):
            pass


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="not a broker"),
        pytest.param(b"\x00" * 64, id="zeros"),
        pytest.param(b"\xff" * 64, id="ones"),
        pytest.param(bytes.fromhex("20 02 00 01"), id="3.1.1 refusal"),
        pytest.param(bytes.fromhex("e0 01 8e"), id="disconnect"),
    ],
)
@BOTH
async def test_strange_answers_end_the_attempt(answer: bytes, protocol: Protocol) -> None:
    async with scripted(answer) as broker:
        with pytest.raises((LinkLost, ConnectRefused)):
            async with connect(dataclasses.replace(broker, protocol=protocol, connect_timeout=2)):
                pass


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param("ff ff ff ff ff ff", id="no such packet"),
        pytest.param("30 03 00 09 41", id="topic longer than its packet"),
        pytest.param("32 05 00 01 ff 00 01 00", id="topic not UTF-8"),
        pytest.param("36 06 00 01 41 00 01 00", id="QoS 3"),
        pytest.param("32 05 00 00 00 01 00", id="no topic"),
        pytest.param("32 07 00 01 41 00 01 7f 26", id="properties longer than their packet"),
        pytest.param("90 02 00 01", id="answer to no subscription"),
        pytest.param("40 01 00", id="half an acknowledgement"),
        pytest.param("e0 01 8e", id="session taken over"),
    ],
)
async def test_strange_packets_end_the_link(garbage: str) -> None:
    async with scripted(CONNACK, bytes.fromhex(garbage)) as broker, connect(broker) as link:
        sent = link.send("t", b"x")
        link.send("t", b"x")
        async with asyncio.timeout(2):
            with pytest.raises(LinkLost):
                await sent
            assert isinstance(await link.wait_lost(), LinkLost)


async def test_packets_cut_into_single_bytes_are_understood() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        for byte in CONNACK + bytes.fromhex("30 08 00 03 61 2f 62 00 68 69"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.002)
        await reader.read(65_536)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(Broker(host="127.0.0.1", port=port, client_id="x")) as link:
            [message] = await link.receive()
            assert (message.topic, message.payload) == ("a/b", b"hi")


async def test_a_link_is_not_opened_twice(mosquitto: Mosquitto) -> None:
    context = connect(at(mosquitto))
    async with context:
        pass
    with pytest.raises(RuntimeError):
        async with context:
            pass


async def will_was_published(mosquitto: Mosquitto) -> bool:
    return await retained(mosquitto, "status") == {"status": b"offline"}


async def test_dropped_link_leaves_its_will(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, "watcher")) as watcher:
        await watcher.subscribe(["status"])
        async with connect(at(mosquitto), will=WILL) as link:
            link.drop("for the test")
        assert [m.payload for m in await collect(watcher, 1)] == [b"offline"]


async def test_failure_inside_leaves_the_will(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, "watcher")) as watcher:
        await watcher.subscribe(["status"])
        with pytest.raises(ZeroDivisionError):
            async with connect(at(mosquitto), will=WILL):
                raise ZeroDivisionError
        assert [m.payload for m in await collect(watcher, 1)] == [b"offline"]


@BOTH
async def test_goodbye_leaves_no_will(mosquitto: Mosquitto, protocol: Protocol) -> None:
    async with connect(at(mosquitto, protocol=protocol), will=WILL) as link:
        await link.publish("status", b"online", retain=True)
    assert await retained(mosquitto, "status") == {"status": b"online"}


async def test_goodbye_in_a_flood_leaves_no_will() -> None:
    async with Mosquitto(max_queued_messages=100_000) as mosquitto:
        async with connect(at(mosquitto, "sender")) as sender:
            for _ in range(5):
                async with connect(at(mosquitto), will=WILL) as link:
                    await link.subscribe(["t/#"], qos=0)
                    flood = [sender.send("t/x", b"x" * 2000) for _ in range(20)]
                    await link.receive(1)
                await asyncio.gather(*flood)
        assert not await will_was_published(mosquitto)


async def test_leaving_a_frozen_broker_takes_a_second(mosquitto: Mosquitto) -> None:
    started = time.monotonic()
    async with connect(at(mosquitto)):
        mosquitto.freeze()
    assert time.monotonic() - started < 2
    mosquitto.thaw()


async def test_half_open_connection_is_noticed_within_twice_the_keepalive(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, keepalive=1)) as link:
        mosquitto.freeze()
        started = time.monotonic()
        lost = await link.wait_lost()
        assert 0.9 < time.monotonic() - started < 2.0, lost
    mosquitto.thaw()


async def test_idle_link_is_kept_alive(mosquitto: Mosquitto) -> None:
    """The broker would cut it after one and a half keepalives."""
    async with connect(at(mosquitto, keepalive=1)) as link:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.wait_lost(), 3.5)
        await link.publish("t", b"x")


async def test_stall_of_our_own_loop_does_not_cost_the_link(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto, keepalive=2, publish_timeout=1)) as link:
        sent = link.send("t", b"x")
        await asyncio.sleep(0)  # the packet leaves
        await asyncio.sleep(0)
        blocked_until = time.monotonic() + 2.5  # the broker waits 1.5 x 2 s
        while time.monotonic() < blocked_until:
            pass
        await sent
        await link.publish("t", b"y")


async def test_same_client_id_takes_the_session_over(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as first, connect(at(mosquitto)) as second:
        async with asyncio.timeout(2):
            assert isinstance(await first.wait_lost(), LinkLost)
        await second.publish("t", b"x")


async def test_every_waiter_learns_of_the_loss(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        waiters = [asyncio.create_task(link.wait_lost()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        link.drop("for the test")
        assert [str(await waiter) for waiter in waiters[1:]] == ["for the test"] * 2
        link.drop("another reason")
        assert str(await link.wait_lost()) == "for the test"


async def test_small_packets_are_not_delayed(mosquitto: Mosquitto) -> None:
    async with connect(at(mosquitto)) as link:
        transport = link._wire._transport
        assert transport is not None
        raw: socket.socket = transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_killed_broker_is_reached_again_on_the_same_port(mosquitto: Mosquitto) -> None:
    ports = {mosquitto.port}
    for _ in range(3):
        async with connect(at(mosquitto)) as link:
            await link.publish("t", b"x")
            mosquitto.kill()
            await link.wait_lost()
        await mosquitto.start()
        ports.add(mosquitto.port)
    assert len(ports) == 1
