"""The process as systemd and people see it: readiness, signals, exit codes and clear words."""

import asyncio
import signal
import socket
import subprocess
from pathlib import Path
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from kosmo_billing_daemon.contract.paths import API
from tests.support.daemon import DaemonProcess, command, environment
from tests.support.world import World, until


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  our own interpreter
        command(*arguments),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def in_flight(world: World, daemon: DaemonProcess, milliseconds: int) -> "asyncio.Task[int]":
    """A request that waits for a slow BTCPay; returns when it got there."""
    world.simulator.set_faults(slow_ms=milliseconds)
    before = await world.value("SELECT count(*) FROM btcpay_invoices")

    async def post() -> int:
        url, headers = f"{daemon.url}{API}/invoices", {"X-User-ID": str(uuid4())}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"plan_type": "wanderer"}, headers=headers) as response,
        ):
            return response.status

    task = asyncio.create_task(post())
    reserved = "SELECT count(*) > $1 FROM btcpay_invoices"
    await until(lambda: world.value(reserved, before), "the reservation")
    return task


async def test_a_signal_ends_it_after_the_request_in_flight_and_a_second_one_at_once(world: World) -> None:
    daemon = await world.daemon()
    for number in (signal.SIGTERM, signal.SIGINT):
        request = await in_flight(world, daemon, 800)
        daemon.send(number)
        assert await request == 201
        assert await daemon.ended() == 0
        assert "stopped" in daemon.log
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(daemon.url.rpartition(":")[2]))
        await daemon.start()
        await world.until_ready(daemon)
    request = await in_flight(world, daemon, 60_000)
    daemon.send(signal.SIGINT)
    await until(lambda: world.observer.states()[-1] == "offline", "the offline message")
    daemon.send(signal.SIGINT)
    daemon.leaves_in_order = False
    assert await daemon.ended(20.0) != 0
    with pytest.raises(aiohttp.ClientError):
        await request


async def test_systemd_is_told_the_port_and_the_state(world: World, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(address))
        listening.setblocking(False)
        daemon = await world.daemon(NOTIFY_SOCKET=str(address))
        told: list[str] = []

        async def hears(text: str) -> None:
            def fact() -> bool:
                while True:
                    try:
                        told.append(listening.recv(4096).decode())
                    except BlockingIOError:
                        return any(text in message for message in told)

            await until(fact, lambda: f"{text}: {told}")

        await hears(f"READY=1\nSTATUS=listening on port {daemon.url.rpartition(':')[2]}")
        await hears("STATUS=ready, leads")
        told.clear()  # it may have been degraded for a moment at the start
        world.broker.kill()
        await hears("STATUS=degraded, leads (broker: ")
        await world.broker.start()
        told.clear()
        await hears("STATUS=ready, leads")
        assert await daemon.stop() == 0


def test_bad_settings_are_all_named_at_once_without_any_secret() -> None:
    ended = run(
        "serve",
        DATABASE_URL="postgresql://kosmo:sekret-of-mine@localhost/x",
        BTCPAY_URL="ftp://pay",
        BTCPAY_API_KEY="sekret-key",
        MQTT_PORT="not-a-port",
        WEBHOOK_SECERT="sekret-slip",
    )
    assert ended.returncode == 78
    assert "problems with the settings" in ended.stderr
    for named in ("BTCPAY_URL", "BTCPAY_STORE_ID", "MQTT_PORT", "WEBHOOK_SECERT"):
        assert named in ended.stderr
    assert "sekret" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_plans_file_with_errors_is_78(world: World, tmp_path: Path) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text("[[plans]]\nprice = -1\n")
    daemon = world.prepare(PLANS_FILE=str(plans))
    daemon.launch()
    assert await daemon.ended() == 78
    assert "problem" in daemon.log


async def test_a_port_in_use_is_said_in_one_line(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        daemon = world.prepare(PORT=str(port), ADMIN_LISTEN="")
        daemon.launch()
        assert await daemon.ended() == 69
    # Before it, the log may say that there is no console: it opens first, and has no place on this host.
    *before, last = daemon.log.splitlines()
    assert last.startswith(f"kosmo-billing: cannot listen on 127.0.0.1 port {port}: ")
    assert all(" console " in line for line in before), daemon.log


async def test_tables_of_somebody_else_are_refused_and_left_alone(
    empty_database_url: str, world: World
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute("CREATE TABLE subscriptions (mine int)")
        daemon = world.prepare(DATABASE_URL=empty_database_url)
        daemon.launch()
        assert await daemon.ended() == 78
        assert "subscriptions, not made by kosmo-billing" in daemon.log
        assert "kosmo-billing adopt plan" in daemon.log, "it may be an installation of v0.1"
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert await connection.fetchval(tables) == 1
    finally:
        await connection.close()
