import asyncio
import os
import socket
from pathlib import Path

import pytest

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.broker import EmbeddedBroker, find_mosquitto
from kosmo_billing_daemon.demo.children import EmbeddedServiceError, is_alive
from kosmo_billing_daemon.link import Broker, Link, LinkLost, Message, Will, connect
from tests.support.processes import killed_parent_leaves_nothing, with_descendants

KINDS = ("mosquitto", "amqtt")

STARTER = """
import asyncio, signal, sys
from pathlib import Path
from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.broker import EmbeddedBroker

async def main() -> None:
    await EmbeddedBroker(Path(sys.argv[1]), kind=sys.argv[2]).start()
    print("started", flush=True)
    signal.pause()

asyncio.run(main())
"""


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, service_directory: Path) -> EmbeddedBroker:
    return EmbeddedBroker(service_directory / "data", kind=request.param)


def client(broker: EmbeddedBroker, name: str, *, clean: bool = False, keepalive: int = 10) -> Broker:
    return Broker(
        host="127.0.0.1",
        port=broker.port,
        client_id=name,
        protocol=broker.protocol,
        clean=clean,
        keepalive=keepalive,
    )


async def received(link: Link, count: int) -> list[Message]:
    messages: list[Message] = []
    async with asyncio.timeout(10):
        while len(messages) < count:
            messages += await link.receive()
    return messages


async def nothing_more(link: Link) -> bool:
    """Whether only our own echo arrives: what was sent to us before would come before it."""
    await link.subscribe(["echo"])
    await link.publish("echo", b"")
    return [message.topic for message in await received(link, 1)] == ["echo"]


async def publish(broker: EmbeddedBroker, *messages: tuple[str, bytes], retain: bool = False) -> None:
    async with connect(client(broker, "publisher", clean=True)) as link:
        for topic, payload in messages:
            await link.publish(topic, payload, retain=retain)


def pid_of(broker: EmbeddedBroker) -> int:
    assert broker.pid is not None
    return broker.pid


def owner_of(pid: int) -> str:
    return Path(f"/proc/{pid}").owner()


def test_mosquitto_is_preferred(service_directory: Path) -> None:
    assert EmbeddedBroker(service_directory).kind == ("mosquitto" if find_mosquitto() else "amqtt")


async def test_it_says_how_to_connect(broker: EmbeddedBroker) -> None:
    async with broker:
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert broker.protocol == {"mosquitto": "5", "amqtt": "3.1.1"}[broker.kind]


async def test_stop_leaves_no_process(broker: EmbeddedBroker) -> None:
    await broker.start()
    pids = with_descendants(pid_of(broker))
    await broker.stop()
    assert not any(map(is_alive, pids))


async def test_a_killed_broker_is_gone_and_comes_back_at_the_same_url(broker: EmbeddedBroker) -> None:
    async with broker:
        url, pid = broker.url, pid_of(broker)
        broker.kill()
        assert not is_alive(pid)
        await broker.start()
        assert broker.url == url
        await publish(broker, ("fact", b""))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_parent_leaves_no_broker(service_directory: Path, kind: str) -> None:
    await killed_parent_leaves_nothing(STARTER, str(service_directory / "data"), kind, cwd=service_directory)


async def test_a_taken_port_that_was_asked_for_is_reported_with_the_log(service_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for kind in KINDS:
            broker = EmbeddedBroker(service_directory / kind, kind=kind, port=taken.getsockname()[1])
            with pytest.raises(EmbeddedServiceError, match=r"(?i)address already in use"):
                await broker.start()
            assert broker.pid is None


async def test_a_chosen_port_taken_meanwhile_is_replaced(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], children.free_port()]
        monkeypatch.setattr("random.choice", lambda _: ports[0] if len(ports) == 1 else ports.pop(0))
        # The probe sees the port free, as it would be a moment before another process takes it.
        monkeypatch.setattr("socket.socket.bind", lambda *_: None)
        async with broker:
            assert broker.port == ports[0]


async def test_a_wrong_line_is_reported_with_the_log(service_directory: Path) -> None:
    broker = EmbeddedBroker(service_directory / "data", kind="mosquitto", extra=["no_such_option 1"])
    with pytest.raises(EmbeddedServiceError, match="no_such_option"):
        await broker.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the broker as another user")
async def test_root_runs_mosquitto_as_nobody(service_directory: Path) -> None:
    async with EmbeddedBroker(service_directory / "data", kind="mosquitto") as broker:
        assert owner_of(pid_of(broker)) == "nobody"


async def test_a_frozen_broker_answers_nothing_until_thawed(broker: EmbeddedBroker) -> None:
    async with broker, connect(client(broker, "client", clean=True)) as link:
        broker.freeze()
        answer = link.send("fact", b"")
        done, _ = await asyncio.wait({answer}, timeout=0.1)
        assert not done
        broker.thaw()
        async with asyncio.timeout(5):
            await answer


async def test_mosquitto_keeps_retained_messages_and_sessions_over_a_restart(service_directory: Path) -> None:
    async with EmbeddedBroker(service_directory / "data", kind="mosquitto") as broker:
        async with connect(client(broker, "reader")) as link:
            await link.subscribe(["usage"])
        await publish(broker, ("state", b"kept"), retain=True)
        await publish(broker, ("usage", b"queued"))
        await broker.restart()
        async with connect(client(broker, "reader")) as link:
            assert [message.payload for message in await received(link, 1)] == [b"queued"]
            await link.subscribe(["state"])
            assert [message.payload for message in await received(link, 1)] == [b"kept"]


async def test_retained_messages_come_on_subscribing_and_an_empty_one_removes(broker: EmbeddedBroker) -> None:
    async with broker:
        await publish(broker, ("state/a", b"1"), ("state/b", b"2"), retain=True)
        async with connect(client(broker, "reader", clean=True)) as link:
            await link.subscribe(["state/#"])
            first = await received(link, 2)
            assert {(message.topic, message.retain) for message in first} == {
                ("state/a", True),
                ("state/b", True),
            }
            await publish(broker, ("state/a", b""), retain=True)
            assert [(message.payload, message.retain) for message in await received(link, 1)] == [
                (b"", False)
            ]
        async with connect(client(broker, "late", clean=True)) as link:
            await link.subscribe(["state/+"])
            assert [message.topic for message in await received(link, 1)] == ["state/b"]
            assert await nothing_more(link)


async def test_nobody_gets_retained_messages_of_others_subscriptions(broker: EmbeddedBroker) -> None:
    async with broker:
        await publish(broker, ("state/a", b"1"), retain=True)
        async with connect(client(broker, "reader", clean=True)) as link:
            await link.subscribe(["state/#"])
            async with connect(client(broker, "stranger", clean=True)) as stranger:
                assert await nothing_more(stranger)


async def test_what_was_not_acknowledged_comes_again(broker: EmbeddedBroker) -> None:
    async with broker:
        async with connect(client(broker, "reader")) as link:
            await link.subscribe(["usage/#"])
        await publish(broker, *((f"usage/{number}", b"") for number in range(3)))
        async with connect(client(broker, "reader")) as link:
            assert link.session_present
            await link.subscribe(["usage/#"])  # answered while deliveries wait for their acknowledgement
            first = await received(link, 3)
            assert [message.topic for message in first] == ["usage/0", "usage/1", "usage/2"]
            assert not any(message.retain for message in first)
            link.drop("crash")
        async with connect(client(broker, "reader")) as link:
            again = await received(link, 3)
            assert {message.topic for message in again} == {"usage/0", "usage/1", "usage/2"}
            for message in again:
                link.acknowledge(message)
        async with connect(client(broker, "reader")) as link:
            assert await nothing_more(link)


async def test_an_abrupt_end_publishes_the_will_and_a_graceful_one_does_not(broker: EmbeddedBroker) -> None:
    async with broker, connect(client(broker, "watcher", clean=True)) as watcher:
        await watcher.subscribe(["status"])
        will = Will("status", b"offline")
        async with connect(client(broker, "daemon"), will=will):
            pass
        assert await nothing_more(watcher)
        async with connect(client(broker, "daemon"), will=will) as link:
            link.drop("crash")
        assert [message.payload for message in await received(watcher, 1)] == [b"offline"]


async def test_amqtt_cuts_a_silent_client_off_and_publishes_its_will(service_directory: Path) -> None:
    async with (
        EmbeddedBroker(service_directory / "data", kind="amqtt") as broker,
        connect(client(broker, "watcher", clean=True)) as watcher,
    ):
        await watcher.subscribe(["status"])
        with socket.create_connection(("127.0.0.1", broker.port)) as silent:
            # CONNECT, MQTT 3.1.1, keepalive 1 s, will "off" on "status", client id "dumb"; then never a word.
            silent.sendall(b"\x10\x1d\x00\x04MQTT\x04\x06\x00\x01\x00\x04dumb\x00\x06status\x00\x03off")
            assert [message.payload for message in await received(watcher, 1)] == [b"off"]


@pytest.mark.parametrize("clean", [False, True])
async def test_a_take_over_cuts_the_old_link_and_the_new_one_works(
    broker: EmbeddedBroker, *, clean: bool
) -> None:
    async with broker, connect(client(broker, "daemon", clean=clean)) as old:
        await old.subscribe(["usage"])
        async with connect(client(broker, "daemon", clean=clean)) as new:
            async with asyncio.timeout(5):
                assert isinstance(await old.wait_lost(), LinkLost)
            assert new.session_present is not clean
            if clean:
                await new.subscribe(["usage"])
            await publish(broker, ("usage", b"report"))
            assert [message.payload for message in await received(new, 1)] == [b"report"]
