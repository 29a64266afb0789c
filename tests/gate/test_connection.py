"""Connections that end, at once or at a bad moment."""

import asyncio
from pathlib import Path

from kosmo_billing_daemon.gate import Gate
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


async def test_connections_that_end_at_once_come_ever_more_seldom_and_stay_in_the_status(
    state: Path,
) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        times.append(loop.time())
        writer.write(b"\x20\x03\x00\x00\x00")  # a CONNACK, and the connection ends
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(end, "127.0.0.1", 0)
    broker = Broker(host="127.0.0.1", port=server.sockets[0].getsockname()[1], client_id="gateway-1")
    async with Gate(broker, state, reporter="gateway-1") as edge:
        await eventually(lambda: len(times) > 1, "a second connection")
        while len(times) < 5:
            assert edge.status.last_error is not None
            await asyncio.sleep(0.02)
    server.close()
    assert times[4] - times[0] > 1.2  # without growing waits it is at most 0.8


async def test_of_two_gates_with_one_name_each_says_so(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with gate(mosquitto, tmp_path / "1.db") as first, gate(mosquitto, tmp_path / "clone.db") as second:
        for edge in (first, second):
            await eventually(lambda edge=edge: "another client" in str(edge.status.last_error), "the words")  # type: ignore[misc]


async def test_a_gate_closes_though_its_connection_ends_at_that_moment() -> None:
    link: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        link.append(writer)
        writer.write(b"\x20\x03\x00\x00\x00")  # a CONNACK

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    broker = Broker(host="127.0.0.1", port=server.sockets[0].getsockname()[1], client_id="gateway-1")
    for steps in range(20):
        async with asyncio.timeout(5), Gate(broker, None, reporter="gateway-1") as edge:
            await eventually(lambda edge=edge: edge.status.connected, "the connection")  # type: ignore[misc]
            link.pop().close()
            for _ in range(steps):  # of the event loop, so that some closing meets the loss of the link
                await asyncio.sleep(0)
    server.close()
