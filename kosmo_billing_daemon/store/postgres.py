"""The database, the pool and the transaction: where the driver's errors become ours."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeAlias, TypeVar
from uuid import UUID

import asyncpg

from kosmo_billing_daemon.errors import Erased, Locked, Unavailable
from kosmo_billing_daemon.runtime.batcher import hurries
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import locks, session_settings
from kosmo_billing_daemon.store.commits import Commits
from kosmo_billing_daemon.store.errors import (
    REFUSED,
    UNFIT,
    WRITES_REFUSED,
    DatabaseAway,
    DatabaseUnfit,
    ReadOnly,
    RetryTransaction,
    translate,
    translated,
)
from kosmo_billing_daemon.store.opening import NoServer, Opener, remedy
from kosmo_billing_daemon.store.sessions import Session, Sessions, is_read_only

log = logging.getLogger(__name__)

Connection: TypeAlias = Session
P = ParamSpec("P")
T = TypeVar("T")

CHANNEL = "kosmo_billing"
"""NOTIFY channel; the payload names what changed: ``entitlements``, ``deliveries`` or ``hooks``."""

ENCODING = "UTF8"
"""Of the database; SQL_ASCII would keep bytes that are no text, and others lack characters."""

REFUSAL_LASTS = 10.0
"""Seconds for which a refused write is told; whatever waits to be written tries again more often."""

# Longer than we ourselves hold a lock; shorter, because many may be stuck, and others wait meanwhile.
_HURRY = "SET LOCAL lock_timeout = '25ms'; "

HOLDER_KNOWN = 1.0  # seconds for which the answer to "who holds it" is not asked for again in a hurry

CLOSED_WITHIN = 5.0
"""Seconds for who still has a connection at the end."""


@record(kw_only=True)
class Database:
    """Where the rows are. ``statement_timeout`` in seconds bounds every statement.

    Subscriptions that are written here are due for their first reminder ``reminder_hours`` before their end.
    """

    url: str
    schema: str = "public"
    most_connections: int = 10
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    reminder_hours: int = 168
    opener: Opener = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opener", Opener(self.url))

    async def connect(self, *, name: str = "kosmo-billing", writable: bool = False) -> Connection:
        """Open one connection outside the pool; raises ``DatabaseAway``, also for one not ``writable``."""
        with translated():
            session = await self.open(name)
        if writable and is_read_only(session):
            session.terminate()
            raise ReadOnly("it is a standby, or default_transaction_read_only is on")
        return session

    async def open(self, name: str = "kosmo-billing") -> Session:
        """Open a session in which all we need is in force; raises the driver's errors or ours."""
        pinned = {
            **session_settings.PINNED,
            "kosmo_billing.reminder_hours": str(self.reminder_hours),
            "search_path": '"' + self.schema.replace('"', '""') + '"',
        }
        try:
            session = await self._open(name, pinned)
        except NoServer as error:
            if (advice := remedy(self.url, error.said)) is not None:
                fact = f"database: {error.said}"
                if isinstance(error.said, asyncpg.InsufficientPrivilegeError):
                    raise DatabaseUnfit(fact, advice) from None
                raise DatabaseAway(fact, advice=advice) from None
            # What the only server said has a meaning of its own; else all that was met is told.
            if error.said is not None and translate(error.said) is not None:
                raise error.said from None
            raise
        try:
            await self._verify(session, pinned)
        except BaseException:
            session.terminate()
            raise
        return session

    async def _verify(self, session: Session, pinned: Mapping[str, str]) -> None:
        wrong = await session_settings.find_difference(session, pinned, within=self.connect_timeout)
        if wrong is not None:
            fact, advice = wrong
            raise DatabaseAway(f"database: {fact}", advice=advice)
        encoding = getattr(session.get_settings(), "server_encoding", "something unknown")
        if encoding != ENCODING:
            raise DatabaseUnfit(
                f"the database is encoded in {encoding}, which cannot keep every name",
                "make one with createdb --encoding=UTF8 --template=template0, and move there what is in this",
            )

    async def _open(self, name: str, pinned: Mapping[str, str]) -> Session:
        return await self.opener.open(
            within=self.connect_timeout,
            statement_within=self.statement_timeout,
            settings={
                **pinned,
                "application_name": name,
                # A peer that vanished without a word is noticed in about ten seconds.
                "tcp_keepalives_idle": "4",
                "tcp_keepalives_interval": "2",
                "tcp_keepalives_count": "3",
            },
        )


class Pool:
    """Sessions of one database, opened when they are needed and never again after its end."""

    def __init__(self, database: Database) -> None:
        self.commits = Commits()
        self.database = database
        self._sessions = Sessions(database.open, most=database.most_connections)
        self._refusal: tuple[float, str] | None = None
        self._holder: tuple[float, str | None] = 0.0, None

    @property
    def refusal(self) -> str | None:
        """Why the server, which may answer every question, refused to write a moment ago."""
        if self._refusal is None or time.monotonic() - self._refusal[0] > REFUSAL_LASTS:
            return None
        return self._refusal[1]

    def has_session(self, process_id: int) -> bool:
        """Say whether a session of the server is one of this pool."""
        return self._sessions.has(process_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sessions.close(CLOSED_WITHIN)

    def connection(self, *, wait: float = 10.0) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection for single statements; raises ``DatabaseAway`` after ``wait`` seconds."""
        return _Lent(self, self._sessions, wait)

    async def read(
        self, load: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what one function of the store loads, on a connection borrowed for it alone."""
        async with self.connection() as connection:
            return await load(connection, *args, **kwargs)

    def understand(self, error: BaseException | None) -> Unavailable | Erased | None:
        """Return what a driver's error means to us, and remember if the server would not write."""
        ours = None if error is None else translate(error)
        if ours is not None and isinstance(error, REFUSED):
            self._refusal = time.monotonic(), str(ours)
        return ours

    def transaction(self, first: str = "") -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection within one transaction: all or nothing.

        ``first`` is a statement without arguments (``locking_users``, say), sent together with BEGIN.
        """
        return _Transaction(self, self._sessions, first)

    async def retrying(
        self, work: Callable[[Connection], Awaitable[T]], first: str = "", *, tries: int = 4
    ) -> T:
        """Run ``work`` in a transaction (after ``first``), again when it lost against another one.

        Raises ``Locked``, and says who holds the lock as far as can be seen, after half a second of waiting.
        """
        while True:
            tries -= 1
            try:
                async with self.transaction(first) as connection:
                    return await work(connection)
            except RetryTransaction as error:
                if not tries:
                    raise
                log.info("transaction is tried again: %s", error)
            except Locked as error:
                raise Locked(await self._name_holder() or error.message) from error

    async def _name_holder(self) -> str | None:
        asked, holder = self._holder
        if not hurries.get() or holder is None or time.monotonic() - asked > HOLDER_KNOWN:
            async with self.connection() as connection:
                holder = await locks.find_holder(connection)
            self._holder = time.monotonic(), holder
        return None if holder is None else f"database: rows are locked by {holder}"


class _Lent(AbstractAsyncContextManager[Connection]):
    """A connection of a pool for the length of one ``async with``; no generator, which costs more."""

    __slots__ = ("_pool", "_session", "_sessions", "_wait")

    def __init__(self, pool: Pool, sessions: Sessions, wait: float = 10.0) -> None:
        self._pool, self._sessions, self._wait = pool, sessions, wait

    async def __aenter__(self) -> Connection:
        try:
            self._session = await self._sessions.lend(self._wait)
        except Exception as error:
            if (ours := self._pool.understand(error)) is None:
                raise
            raise ours from error
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = self._pool.understand(error)
        # Whoever is cancelled leaves a statement behind that a frozen server may never end; nor is it known
        # what else still comes from a server that was away.
        is_lost = isinstance(ours, DatabaseAway) and not isinstance(error, WRITES_REFUSED + UNFIT)
        is_sound = isinstance(error, Exception | None) and not is_lost
        if isinstance(ours, ReadOnly):
            self._sessions.renew()
        self._sessions.take_back(self._session, is_sound=is_sound)
        if ours is not None:
            raise ours from error


class _Transaction(_Lent):
    """A transaction on such a connection, which begins with the statement ``first``."""

    __slots__ = ("_first",)

    def __init__(self, pool: Pool, sessions: Sessions, first: str) -> None:
        super().__init__(pool, sessions)
        self._first = first

    async def __aenter__(self) -> Connection:
        connection = await super().__aenter__()
        try:
            hurry = _HURRY if hurries.get() else ""
            await connection.execute(f"BEGIN; {hurry}{self._first}")
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
            elif not isinstance(error, asyncio.CancelledError):
                await self._session.execute("ROLLBACK")  # else it is cut, which waits for nobody
        except BaseException as later:
            await super().__aexit__(type(later), later, later.__traceback__)
            raise
        await super().__aexit__(kind, error, trace)

    async def _commit(self) -> None:
        with self._pool.commits.timed():
            said = await self._session.execute("COMMIT")
        if said != "COMMIT":  # what PostgreSQL says of one that had failed
            raise RuntimeError("a statement of the transaction failed and nobody was told")


class Rehearsal(Pool):
    """The same database, on which every transaction is undone at its end: it shows what an action would do.

    ``look`` sees the end of the last transaction before that. Single statements are carried out as ever.
    """

    def __init__(self, pool: Pool, look: Callable[[Connection], Awaitable[None]]) -> None:
        super().__init__(pool.database)
        self._sessions = pool._sessions  # noqa: SLF001 - of the same class
        self.look = look

    def transaction(self, first: str = "") -> AbstractAsyncContextManager[Connection]:
        """Lend a connection within a transaction that will be undone."""
        return _Undone(self, self._sessions, first)


class _Undone(_Transaction):
    """A transaction that is looked at, and undone."""

    __slots__ = ("_look",)

    def __init__(self, pool: Rehearsal, sessions: Sessions, first: str) -> None:
        super().__init__(pool, sessions, first)
        self._look = pool.look

    async def _commit(self) -> None:
        await self._look(self._session)
        await self._session.execute("ROLLBACK")


async def notify(connection: Connection, what: str) -> None:
    """Wake the leader, which may be another process, when the transaction commits."""
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, what)


def changed(status: str) -> int:
    """Return how many rows a statement changed, by what the server answers to it."""
    return int(status.rpartition(" ")[2])


def locking_users(users: Iterable[UUID]) -> str:
    """Return the statement that serialises changes of users' purchases until the transaction ends.

    Locks are taken in order, so that two batches cannot deadlock. Advisory, because a user without a row
    must be lockable too, and because row locks on ``entitlements`` are taken after those on
    ``subscriptions`` by every other writer's trigger. The transaction fails with ``Erased`` where the data of
    one of them was erased.
    """
    return f"SELECT lock_users({_literal(users)})"


def locking_owners(invoices: Iterable[UUID]) -> str:
    """Return the statement that locks the users whose invoices these are, before the invoices."""
    return f"SELECT lock_owners({_literal(invoices)})"


def _literal(ids: Iterable[UUID]) -> str:
    """Write ids where arguments cannot stand; a ``UUID`` is written with digits and hyphens alone."""
    return f"'{{{','.join(str(UUID(int=each.int)) for each in ids)}}}'::uuid[]"
