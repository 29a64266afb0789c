"""A backup taken while the daemon runs, and the commands an operator types to go back to it.

The server is Debian's with its own pg_dump: the embedded one comes without, and a pg_dump never reads a
server newer than itself.
"""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from kosmo_billing_daemon.demo.children import unprivileged_account
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around

pytestmark = pytest.mark.timeout(180)  # a server of its own, and daemons on it

PROGRAMS = Path("/usr/lib/postgresql")
ROLE = "kosmo"


def programs() -> Path:
    """Where the newest of Debian's PostgreSQL servers has its programs."""
    found = [path for path in PROGRAMS.glob("*/bin") if (path / "initdb").exists()]
    assert found, "a PostgreSQL server with pg_dump is missing: install the package postgresql"
    return max(found, key=lambda path: int(path.parent.name))


class Server:
    """One server of Debian's; ``run`` runs one of its programs against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.account = unprivileged_account()
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603  our own words
            [programs() / program, *arguments],
            env={
                "PATH": os.defpath,
                "LC_ALL": "C.UTF-8",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": ROLE,
            },
            user=None if self.account is None else self.account.uid,
            group=None if self.account is None else self.account.gid,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def server(service_directory: Path) -> Iterator[Server]:
    directory = service_directory / "server"
    directory.mkdir()
    made = Server(directory)
    data = str(directory / "data")
    made.run("initdb", "-D", data, "-U", ROLE, "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={made.port} -c unix_socket_directories= -c fsync=off"
    made.run("pg_ctl", "-D", data, "-l", str(directory / "log"), "-w", "-t", "60", "-o", options, "start")
    try:
        made.run("createdb", "kosmo")
        yield made
    finally:
        made.run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


@pytest.fixture
async def world(tmp_path: Path, server: Server) -> AsyncIterator[World]:
    async with Mosquitto() as broker, world_around(tmp_path, server.url("kosmo"), broker) as made:
        yield made


async def test_restored_database_speaks_above_everything_that_was_published(
    world: World, server: Server
) -> None:
    daemon = await world.daemon()
    kept = await world.buy(daemon)
    await world.until_published(kept, messages_limit=50)
    backup = str(server.directory / "kosmo.dump")
    await asyncio.to_thread(server.run, "pg_dump", "--format=custom", f"--file={backup}", "kosmo")

    lost = await world.buy(daemon)
    await world.until_published(lost)
    await world.buy(daemon, kept)
    await world.until_published(kept, messages_limit=100)
    published = max(max(versions) for versions in world.observer.versions.values())
    # What a daemon remembers about the database's past is on the broker: it must have been written.
    await until(lambda: world.observer.watermark.get("greatest_version", 0) >= published, "the watermark")
    assert await daemon.stop() == 0

    await asyncio.to_thread(server.run, "dropdb", "kosmo")
    await asyncio.to_thread(server.run, "createdb", f"--owner={ROLE}", "kosmo")
    restore = ("--exit-on-error", "--no-owner", "--dbname=kosmo", backup)
    await asyncio.to_thread(server.run, "pg_restore", *restore)

    await daemon.start()
    await world.until_published(kept, messages_limit=50)
    assert world.observer.documents[kept]["version"] > published
    assert "restored from a backup" in daemon.log
    # Nobody in the database: the document that was left on the broker is cleared.
    await until(lambda: _is_cleared(world, lost), "the orphan is cleared")
    new = await world.buy(daemon, uuid4())
    await world.until_published(new)
    assert world.observer.documents[new]["version"] > published


def _is_cleared(world: World, user: object) -> bool:
    mine = [message for message in world.observer.messages if message.topic.endswith(str(user))]
    return mine[-1].payload == b""


async def test_backup_of_a_running_daemon_is_whole(world: World, server: Server) -> None:
    """Taken in the middle of purchases: every purchase in it is there with its invoice, or not at all."""
    daemon = await world.daemon()
    buyers = [asyncio.create_task(world.buy(daemon)) for _ in range(20)]
    backup = str(server.directory / "kosmo.dump")
    await asyncio.to_thread(server.run, "pg_dump", "--format=custom", f"--file={backup}", "kosmo")
    await asyncio.gather(*buyers)
    await asyncio.to_thread(server.run, "createdb", "copy")
    await asyncio.to_thread(
        server.run, "pg_restore", "--exit-on-error", "--no-owner", "--dbname=copy", backup
    )
    world.database_url = server.url("copy")
    unequal = await world.value(
        "SELECT count(*) FROM btcpay_invoices AS i FULL JOIN subscriptions AS s ON s.invoice_id = i.id"
        " WHERE (i.effect = 'fulfilled') IS DISTINCT FROM (s.id IS NOT NULL)"
    )
    assert unequal == 0
    assert await world.value("SELECT count(*) FROM kosmo_billing_migrations") >= 3
