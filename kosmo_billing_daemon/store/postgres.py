"""The pool and the transaction: the one place where driver errors become ours."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.store.commits import Commits

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"
T = TypeVar("T")

CHANNEL = "kosmo_billing"
"""NOTIFY channel; the payload names what changed: ``entitlements`` or ``deliveries``."""

REFUSAL_LASTS = 10.0
"""Seconds for which a refused write is told; whatever waits to be written tries again more often."""


class DatabaseAway(Unavailable):
    """The database cannot be reached or does not answer; wait and try again."""

    code = "database_unavailable"


class RetryTransaction(Unavailable):
    """The transaction lost against another one and may be tried again at once."""

    code = "database_conflict"


_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InsufficientResourcesError,  # disk, memory, connections, its own file descriptors
    asyncpg.PostgresSystemError,  # its disk fails
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_WRITES_REFUSED = (
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
_LOST = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise our errors for the driver's."""
    try:
        yield
    except _LOST as error:
        raise RetryTransaction(f"database: {error}") from error
    except _AWAY as error:
        raise DatabaseAway(f"database: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the rows are. ``statement_timeout`` in seconds bounds every statement."""

    url: str
    schema: str = "public"
    most_connections: int = 10
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0

    async def connect(self, *, name: str = "kosmo-billing") -> "asyncpg.Connection[Any]":
        """Open one connection outside the pool; raises ``DatabaseAway``."""
        with translated():
            connection: asyncpg.Connection[Any] = await asyncpg.connect(self.url, **self.settings(name))
            return connection

    def settings(self, name: str) -> dict[str, Any]:
        """Return the arguments of every connection of ours."""
        return {
            "timeout": self.connect_timeout,
            "command_timeout": self.statement_timeout,
            "server_settings": {
                "search_path": '"' + self.schema.replace('"', '""') + '"',
                "application_name": name,
                "timezone": "UTC",
                "idle_in_transaction_session_timeout": "60000",
                # A peer that vanished without a word is noticed in about ten seconds.
                "tcp_keepalives_idle": "4",
                "tcp_keepalives_interval": "2",
                "tcp_keepalives_count": "3",
                # Planned once, since planning takes as long as most of our statements. So a plan must be good
                # for any size of tables that may have been empty when it was made: row by row along an index.
                # (A bitmap reads all of what waits, and never learns that it waits no more.)
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
            },
        }


async def _leave_as_it_is(_connection: Connection) -> None:
    """Reset nothing."""


class Pool:
    """A pool that opens when the database does, never before it is asked and never again after its end."""

    def __init__(self, database: Database) -> None:
        self.commits = Commits()
        self._database = database
        self._pool: asyncpg.Pool[Any] | None = None
        self._is_closed = False
        self._opening = asyncio.Lock()
        self._sessions: set[int] = set()
        self._refusal: tuple[float, str] | None = None

    @property
    def refusal(self) -> str | None:
        """Why the server, which may answer every question, refused to write a moment ago."""
        if self._refusal is None or time.monotonic() - self._refusal[0] > REFUSAL_LASTS:
            return None
        return self._refusal[1]

    @property
    def database(self) -> Database:
        return self._database

    def has_session(self, process_id: int) -> bool:
        """Say whether a session of the server is one of this pool."""
        return process_id in self._sessions

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    async def _opened(self) -> "asyncpg.Pool[Any]":
        if self._is_closed:
            raise DatabaseAway("database: the pool is closed")
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._database.url,
                        # None to begin with: opening asks nothing of the server, so `acquire` alone bounds
                        # the wait for it, and asyncpg 0.31 logs no traceback when it cannot keep the floor.
                        min_size=0,
                        max_size=self._database.most_connections,
                        max_inactive_connection_lifetime=300,
                        # We leave nothing in a session; asyncpg would ask the server to reset each time.
                        reset=_leave_as_it_is,
                        init=self._note_session,
                        **self._database.settings("kosmo-billing"),
                    )
        return self._pool

    async def _note_session(self, connection: "asyncpg.Connection[Any]") -> None:
        process_id = connection.get_server_pid()
        self._sessions.add(process_id)
        connection.add_termination_listener(lambda _: self._sessions.discard(process_id))

    @contextlib.asynccontextmanager
    async def connection(self, *, wait: float = 10.0) -> AsyncIterator[Connection]:
        """Borrow a connection for single statements; raises ``DatabaseAway`` after ``wait`` seconds."""
        with self._noting_refusals(), translated():
            pool = await self._opened()
            # Not acquire's own timeout: up to Python 3.11 that is a task more for each connection.
            async with asyncio.timeout(wait):
                connection = await pool.acquire()
            try:
                yield connection
            except asyncio.CancelledError:
                # Giving back a connection in the middle of a statement would wait for a server that may
                # be frozen, and raise its timeout in place of the cancellation, which would be lost.
                with contextlib.suppress(asyncpg.InterfaceError):  # the server ended it before us
                    connection.terminate()
                raise
            finally:
                await pool.release(connection, timeout=wait)

    @contextlib.contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        try:
            yield
        except DatabaseAway as error:
            if isinstance(error.__cause__, _WRITES_REFUSED):
                self._refusal = time.monotonic(), str(error)
            raise

    @contextlib.asynccontextmanager
    async def transaction(self, first: str = "") -> AsyncIterator[Connection]:
        """Borrow a connection within one transaction: all or nothing.

        ``first`` is a statement without arguments (``locking_users``, say), sent together with BEGIN.
        """
        async with self.connection() as connection:
            try:
                await connection.execute(f"BEGIN; {first}")
                yield connection
            except asyncio.CancelledError:
                raise  # the connection is cut, and that rolls back; asking for it would wait for an answer
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
            with self.commits.timed():
                said = await connection.execute("COMMIT")
            if said != "COMMIT":  # what PostgreSQL says of one that had failed
                raise RuntimeError("a statement of the transaction failed and nobody was told")

    async def retrying(
        self, work: Callable[[Connection], Awaitable[T]], first: str = "", *, tries: int = 4
    ) -> T:
        """Run ``work`` in a transaction (after ``first``), again when it lost against another one."""
        for _ in range(tries - 1):
            try:
                async with self.transaction(first) as connection:
                    return await work(connection)
            except RetryTransaction as error:
                log.info("transaction is tried again: %s", error)
        async with self.transaction(first) as connection:
            return await work(connection)


def locking_users(users: Iterable[UUID]) -> str:
    """Return the statement that serialises changes of users' purchases until the transaction ends.

    Locks are taken in order, so that two batches cannot deadlock. Advisory, because a user without a row
    must be lockable too, and because row locks on ``entitlements`` are taken after those on
    ``subscriptions`` by every other writer's trigger.
    """
    return f"SELECT lock_users({_literal(users)})"


def locking_owners(invoices: Iterable[UUID]) -> str:
    """Return the statement that locks the users whose invoices these are, before the invoices."""
    return f"SELECT lock_owners({_literal(invoices)})"


def _literal(ids: Iterable[UUID]) -> str:
    """Write ids where arguments cannot stand; a ``UUID`` is written with digits and hyphens alone."""
    return f"'{{{','.join(str(UUID(int=each.int)) for each in ids)}}}'::uuid[]"
