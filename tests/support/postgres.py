"""A real PostgreSQL per test session and a fresh copy of the migrated database per test.

Driven synchronously through an event loop of its own, so that no test shares its loop with a session fixture.
"""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from kosmo_billing_daemon.demo.children import temporary_directory
from kosmo_billing_daemon.demo.postgres import EmbeddedPostgres

Result = TypeVar("Result")

SETTINGS = {
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "512MB",
    "autovacuum": "off",  # it may hold the template open while it is copied
}


MEMORY = Path("/dev/shm")  # noqa: S108  a file system in memory, where there is one
ENOUGH = 4 << 30  # bytes that must be free there


async def create_database(server: EmbeddedPostgres, name: str) -> str:
    """Create a database and return its URL."""
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return server.database_url(name)


class PostgresSession:
    """The server of one test session (of one worker under pytest-xdist) and the databases on it."""

    def __init__(
        self,
        server: EmbeddedPostgres,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        connection: "asyncpg.Connection[Any]",
    ) -> None:
        self.server = server
        self._run = run
        self._connection = connection  # kept: to connect takes as long as to drop a database
        self._numbers = count(1)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` to its end on the session's own event loop."""
        result: Result = self._run(work)
        return result

    def create_template(
        self, name: str, migrate: Callable[[asyncpg.Connection], Coroutine[Any, Any, object]]
    ) -> str:
        """Create and migrate the database every test gets a copy of; returns its name."""

        async def work() -> None:
            connection = await asyncpg.connect(await create_database(self.server, name))
            try:
                await migrate(connection)
            finally:
                await connection.close()

        self.run(work())
        return name

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        source = "" if template is None else f" TEMPLATE {template} STRATEGY file_copy"
        self.run(self._connection.execute(f"CREATE DATABASE {name}{source}"))
        try:
            yield self.server.database_url(name)
        finally:
            self.run(self._connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@contextmanager
def postgres_session() -> Iterator[PostgresSession]:
    """Start a server that trades safety against a power cut for speed; commits stay synchronous."""
    # With a loop factory the runner leaves the thread's current event loop alone, which pytest-asyncio owns.
    with (
        temporary_directory("kosmo-tests-", _in_memory()) as directory,
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,
    ):
        server = EmbeddedPostgres(directory / "postgres", settings=SETTINGS, durable=False)
        runner.run(server.start())
        try:
            connection = runner.run(asyncpg.connect(server.url))
            yield PostgresSession(server, runner.run, connection)
            runner.run(connection.close())
        finally:
            runner.run(server.stop())


def _in_memory() -> str | None:
    """Where copying a database costs a third: a thousand tests take one each. None where there is no room."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH:
        return str(MEMORY)
    return None
