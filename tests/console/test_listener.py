"""Where the console listens: a socket or port of its own, which no customer reaches, in real processes."""

import asyncio
import logging
import re
import signal
import socket
import stat
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from kosmo_billing_daemon.assembly.connections import btcpay_of, database_of, links_of
from kosmo_billing_daemon.assembly.console import ConsoleServer, require_local
from kosmo_billing_daemon.assembly.front import CannotListen
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.settlement import Settlement
from kosmo_billing_daemon.settings import load
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.web.health import Readiness
from kosmo_billing_daemon.web.server.unix_socket import listening_at
from tests.support.daemon import DaemonProcess, command, environment
from tests.systemd.conftest import settings
from tests.systemd.served import Manager

ENDED_WITHIN = 20.0


@pytest.fixture
def directory(service_directory: Path) -> Path:
    return service_directory


async def ask(path: Path, url: str = "http://localhost/admin/") -> tuple[int, str]:
    async with (
        aiohttp.UnixConnector(path=str(path)) as connector,
        aiohttp.ClientSession(connector=connector) as http,
        http.get(url, allow_redirects=False) as response,
    ):
        return response.status, await response.text()


def own(database_url: str, socket_path: Path, **more: str) -> dict[str, str]:
    return {**settings(database_url), "PORT": "0", "ADMIN_LISTEN": str(socket_path), **more}


async def test_the_command_leads_to_pages_that_the_public_port_does_not_have(
    database_url: str, directory: Path
) -> None:
    path = directory / "admin.sock"
    given = own(database_url, path, SSH_CONNECTION="10.0.0.9 5 10.0.0.1 22", USER="carol")
    async with DaemonProcess(directory, given) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        status, page = await ask(path)
        assert (status, "You are not logged in" in page) == (401, True)
        for public in ("/api/v1/billing/plans", "/health/live", "/metrics", "/r/x", "/docs"):
            assert (await ask(path, f"http://localhost{public}"))[0] == 401
        async with aiohttp.ClientSession() as http:
            for target in (
                "/admin/",
                "/admin",
                "/admin/login",
                "/ADMIN/",
                "//admin/",
                "/%61dmin/",
                "/docs/../admin/",
            ):
                async with http.get(f"{daemon.url}{target}") as response:
                    assert response.status == 404, target
                    assert "You are not logged in" not in await response.text()
        process = await asyncio.create_subprocess_exec(
            *command("console", "--as", "Alice from support", "--port", "0"),
            env=environment(**given, PYTHONUNBUFFERED="1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        printed = ""
        async with asyncio.timeout(ENDED_WITHIN):
            while "Ctrl-C" not in printed:
                printed += (await process.stdout.readline()).decode()
        found = re.search(r"(http://127\.0\.0\.1:(\d+))(/admin/login)\?token=([\w-]{43})", printed)
        assert found is not None, printed
        url, port, page, token = found.groups()
        assert f"ssh -L {port}:127.0.0.1:{port} carol@10.0.0.1" in printed
        assert "recorded as Alice from support" in printed
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as http:
            async with http.post(url + page, data={"token": token}, headers={"Origin": url}) as entered:
                assert entered.status == 200
                assert "Alice from support" in await entered.text()
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.wait_for(process.communicate(), ENDED_WITHIN)
        assert (process.returncode, err) == (0, b"")
        assert await daemon.stop() == 0
        assert not path.is_socket()
    code, _, err_text = await _console(given)
    assert code == 69
    assert re.search(r"cannot be reached: [A-Za-z ]+; is the daemon running", err_text)


def serving(admin_listen: str | None) -> AbstractAsyncContextManager[str]:
    """The console alone, on a database that is away: every page needs it, and none of these tests a page."""
    given = own("postgresql://nobody@127.0.0.1:9/nothing", Path(), ADMIN_LISTEN=admin_listen or "")
    loaded = load(
        {name: text for name, text in given.items() if name != "ADMIN_LISTEN" or admin_listen is not None}
    )
    pool = Pool(database_of(loaded))
    settlement = Settlement(
        pool=pool, btcpay=btcpay_of(loaded), store_id="StoreOne", clock=utc_now, changed=lambda: None
    )

    async def readiness() -> Readiness:
        raise AssertionError

    server = ConsoleServer(
        loaded,
        pool=pool,
        settlement=settlement,
        links=links_of(loaded, pool),
        clock=utc_now,
        readiness=readiness,
    )
    return server.serving(())


async def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(str(path)) as address:
        assert address == str(path)
        assert (await ask(path))[0] == 401
        with pytest.raises(CannotListen, match="another daemon listens there; change ADMIN_LISTEN"):
            await serving(str(path)).__aenter__()
        assert (await ask(path))[0] == 401
    assert not path.is_socket()


async def test_a_place_nobody_chose_does_not_keep_the_daemon_from_taking_money(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(None) as address:
        if address:
            pytest.skip("the service's directory exists here")
        assert "the console cannot listen on /run/kosmo-billing/admin.sock" in caplog.text


async def test_off_means_off(database_url: str) -> None:
    async with serving("") as address:
        assert not address
    code, out, err = await _console(own(database_url, Path(), ADMIN_LISTEN=""))
    assert (code, out, err) == (1, "", "kosmo-billing: the console is off: ADMIN_LISTEN is empty\n")


async def test_systemd_holds_the_socket_over_a_restart(
    database_url: str, tmp_path: Path, directory: Path
) -> None:
    path = directory / "admin.sock"
    with listening_at(path) as admin:
        async with Manager(tmp_path, settings(database_url), uvloop=True, admin=admin) as manager:
            await manager.start()
            assert (await ask(path))[0] == 401
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"{manager.url}/health/live") as live,
                http.get(f"{manager.url}/admin/") as page,
            ):
                assert (live.status, page.status) == (200, 404)
            manager.send(signal.SIGTERM)
            assert await manager.ended() == 0
            waiting = asyncio.create_task(ask(path))
            await manager.start()
            assert (await waiting)[0] == 401


def test_a_socket_of_systemd_that_others_reach_is_refused() -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as public,  # noqa: S104  nobody accepts
        pytest.raises(Misconfigured, match=r"listens on 0\.0\.0\.0, which others reach"),
    ):
        require_local(public)
    with socket.create_server(("127.0.0.1", 0)) as local:
        require_local(local)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("a file of somebody")
    with pytest.raises(OSError, match="something else than a socket is there"), listening_at(path):
        pass
    assert path.read_text() == "a file of somebody"


async def _console(given: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command("console", *arguments),
        env=environment(**given),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), ENDED_WITHIN)
    return process.returncode, out.decode(), err.decode()


async def test_with_a_port_the_command_prints_the_link_and_ends(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    given = own(database_url, Path(), ADMIN_LISTEN=address)
    code, out, _ = await _console(given | {"KOSMO_BILLING_CALLER": "dave"}, "--as", "Alice")
    assert code == 0
    assert f"http://{address}/admin/login?token=" in out
    assert "recorded as Alice (dave)" in out, "under sudo nobody takes another one's name"
