"""How the service listens and stops."""

import asyncio
import socket
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.web.server.serving import serve
from tests.web.conftest import LOOPBACK, Service, Starter

USER = {"X-User-ID": "11111111-1111-1111-1111-111111111111"}


def unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    return listener


@pytest.mark.parametrize(("trusted", "status"), [(True, 200), (False, 401)])
async def test_a_peer_over_a_unix_socket_is_a_proxy_by_setting(
    start: Starter, tmp_path: Path, trusted: bool, status: int
) -> None:
    path = tmp_path / "http.sock"
    service = await start(sockets=[unix_listener(path)], trusted_proxies=LOOPBACK._replace(unix=trusted))
    assert service.url.endswith(":0")
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(f"http://local{API}/subscription", headers=USER) as answer,
    ):
        assert answer.status == status


async def test_several_sockets_are_listened_on(start: Starter, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    service = await start(sockets=[unix_listener(path), socket.create_server(("127.0.0.1", 0))])
    assert (await service.ask("GET", "/plans")).status == 200
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://local/health/live") as answer,
    ):
        assert answer.status == 200


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await serve(web.Application(), host="127.0.0.1", port=taken.getsockname()[1])


async def test_a_request_in_flight_is_answered_before_the_service_stops(service: Service, user: UUID) -> None:
    service.simulator.set_faults(slow_ms=300)
    asked = asyncio.create_task(service.buy(user, "wanderer"))
    for _ in range(1000):
        if await service.rows("SELECT id FROM btcpay_invoices"):
            break
        await asyncio.sleep(0.01)
    await service.runner.cleanup()
    assert (await asked).status == 201
    with pytest.raises(aiohttp.ClientConnectionError):
        await service.ask("GET", "/plans")
