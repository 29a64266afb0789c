"""How the tests of the link reach a broker, and a scripted broker for what mosquitto never says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kosmo_billing_daemon.link import Broker, Link, Message, connect
from tests.support.mosquitto import Mosquitto

CONNACK = bytes.fromhex("20 03 00 00 00")


def at(mosquitto: Mosquitto, client_id: str = "link", **settings: Any) -> Broker:
    return Broker(host=mosquitto.host, port=mosquitto.port, client_id=client_id, **settings)


def held() -> tuple[int, int]:
    """How many files and sockets this process, and how many tasks this event loop holds."""
    return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())


async def retained(mosquitto: Mosquitto, *topics: str, **settings: Any) -> dict[str, bytes]:
    """What the broker keeps under exact `topics`, ended by a marker of our own."""
    async with connect(at(mosquitto, "reader", clean=True, **settings)) as link:
        await link.subscribe([*topics, "marker"])
        await link.publish("marker", b"")
        found: dict[str, bytes] = {}
        while True:
            for message in await link.receive():
                if message.topic == "marker":
                    return found
                found[message.topic] = message.payload


async def collect(link: Link, count: int) -> list[Message]:
    """Exactly `count` messages, not acknowledged."""
    messages: list[Message] = []
    async with asyncio.timeout(10):
        while len(messages) < count:
            messages += await link.receive(count - len(messages))
    return messages


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Broker]:
    """A broker that answers the n-th thing it reads with the n-th of `answers` and then stays silent."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in answers:
                if not await reader.read(65_536):
                    return
                writer.write(answer)
                await writer.drain()
            await done.wait()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield Broker(host="127.0.0.1", port=port, client_id="scripted")
    finally:
        done.set()
        server.close()
        await server.wait_closed()
