"""File descriptors: clients who hold connections, and a daemon that has none left.

Without the bound of web/admission.py the event loop (uvloop) accepts and closes what it has no descriptor
for, without a word: nobody new comes in, and no metric, no health and no log says why.
"""

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from tests.faults.signs import logs, measures, metrics, says
from tests.support.daemon import DaemonProcess
from tests.support.world import World, until


def limit(daemon: DaemonProcess, most: int | None = None) -> None:
    """Let it have no more than this, or what it may have at most."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard if most is None else most, hard))


def opened(daemon: DaemonProcess) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@contextlib.asynccontextmanager
async def idlers(daemon: DaemonProcess, number: int) -> AsyncIterator[None]:
    """Clients that connect and ask nothing, half of them with half a head."""
    port = int(daemon.url.rpartition(":")[2])
    writers: list[asyncio.StreamWriter] = []
    try:
        for at in range(number):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n" if at % 2 else b"")
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@contextlib.asynccontextmanager
async def kept_connection(world: World) -> AsyncIterator[None]:
    """The same world seen by a client that keeps its connection, and so needs no new one to ask."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        mine, world.http = world.http, http
        try:
            yield
        finally:
            world.http = mine


async def test_clients_that_hold_connections_cost_nobody_a_purchase(world: World) -> None:
    """Fails without ``_displace``: whoever is new finds the connection closed."""
    daemon = await world.daemon()
    pid = daemon.pid
    limit(daemon, 64)
    async with idlers(daemon, 120):
        await says(world, daemon, "degraded", "connections", "of 32; idle ones are closed for new ones")
        users = list(await asyncio.gather(*(world.buy(daemon) for _ in range(5))))
        for user_id in users:
            await world.until_published(user_id)
        seen = await metrics(world, daemon)
        assert seen["http_displaced_total"] >= 120 - 32
        assert seen["http_connections"] <= 32
        assert seen['descriptors{what="open"}'] <= seen['descriptors{what="most"}'] == 64
        await logs(daemon, "32 connections are held: for each more, the longest idle one is closed")
    await world.until_ready(daemon)
    await logs(daemon, "there is room for connections again")
    assert daemon.pid == pid


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
async def test_a_daemon_short_of_descriptors_says_so_and_goes_on(world: World, uvloop: bool) -> None:
    """As with a leak, or a limit set too low: nothing new can be opened, what is open works.

    Fails without ``_is_no_shortage``: asyncio's loop fills the log with tracebacks.
    """
    if not uvloop:
        (world.directory / "uvloop.py").write_text("raise ImportError\n")
        world.more["PYTHONPATH"] = os.pathsep.join([str(world.directory), *filter(None, sys.path)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        daemon = await world.daemon()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)  # it takes what it may have
    pid, user_id = daemon.pid, uuid4()
    invoice_id = await world.order(daemon, user_id)
    async with kept_connection(world):

        async def is_short() -> bool:
            limit(daemon, opened(daemon))  # again, when a connection that was closing is closed
            seen = await metrics(world, daemon)
            return seen['descriptors{what="open"}'] == seen['descriptors{what="most"}']

        await until(is_short, "no descriptor is left")
        await says(world, daemon, "degraded", "descriptors", "file descriptors are open")
        async with idlers(daemon, 10):  # some are turned away, or wait
            await logs(daemon, "soon nothing more can be opened or accepted")
            await world.pay(invoice_id)  # its webhook may find no door; reconciliation finds the payment
    limit(daemon)
    recovered = await world.until_published(user_id) + await world.until_ready(daemon)
    print(f"file descriptors short: recovered in {recovered:.2f} s")
    await logs(daemon, "file descriptors are free again")
    await measures(world, daemon, 'descriptors{what="most"}', hard)
    assert daemon.pid == pid
