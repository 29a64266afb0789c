"""The driver's errors as ours: what a caller can do about each, and what an operator can."""

import contextlib
from collections.abc import Iterator

import asyncpg

from kosmo_billing_daemon.errors import Erased, Locked, Unavailable
from kosmo_billing_daemon.store.opening import NoServer
from kosmo_billing_daemon.store.session_settings import POOLER, POOLER_ADVICE


class DatabaseAway(Unavailable):
    """The database cannot be reached, does not answer, or is no use as it is; wait and try again.

    ``advice`` is for the operator, who may have to do something about it.
    """

    code = "database_unavailable"

    def __init__(self, message: str, *, advice: str = "start PostgreSQL, or fix DATABASE_URL") -> None:
        super().__init__(message)
        self.advice = advice


class ReadOnly(DatabaseAway):
    """The database answers and takes no writes."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"database: nothing can be written: {reason}",
            advice="name the primary in DATABASE_URL, or see why it was made read-only (a full disk?), and"
            " ALTER DATABASE or ALTER ROLE … RESET default_transaction_read_only",
        )


class DatabaseUnfit(DatabaseAway):
    """The database answers, but rights, schema or encoding are not what we need; an operator must act."""

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}; {advice}", advice=advice)
        self.fact = fact


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
WRITES_REFUSED = (
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
UNFIT = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedTableError,
)
"""Our statements are tested: what they lack, the database lacks. It may get it back while we run."""
REFUSED = (*WRITES_REFUSED, asyncpg.InsufficientPrivilegeError)
"""What the server may go on refusing while it answers every question of readiness."""
_LOST = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,  # another daemon brought the schema forward meanwhile
)
_STATEMENT_OF_ANOTHER = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""Prepared in another session than ours: several clients share this one."""


USER_ERASED = "KB410"
"""What ``lock_users`` raises for a user who was erased."""


def translate(error: BaseException) -> Unavailable | Erased | None:
    """Return what the driver's error means to us, if it is not the statement that is wrong."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == USER_ERASED:
        return Erased("the data of this user was erased")
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Locked("another session of the database holds a lock on what must be written")
    if isinstance(error, _LOST):
        return RetryTransaction(f"database: {error}")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        advice = "its owner or a superuser must allow it; kosmo-billing check says how"
        return DatabaseUnfit(f"database: {_first_line(error)}", advice)
    if isinstance(error, UNFIT):
        # What a role may not see is not there for it, so what is missing may be a right too.
        return DatabaseUnfit(f"database: {_first_line(error)}", "kosmo-billing check says what to do")
    if isinstance(error, NoServer):
        return DatabaseAway(f"database: {error}")
    is_refused_setting = isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(
        error
    )
    if is_refused_setting or isinstance(error, _STATEMENT_OF_ANOTHER):
        return DatabaseAway(f"database: {POOLER} ({error})", advice=POOLER_ADVICE)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched):
        return ReadOnly(str(error))
    if isinstance(error, _AWAY):
        return DatabaseAway(f"database: {_first_line(error) or type(error).__name__}")
    return None


def _first_line(error: BaseException) -> str:
    """Return what the server said without its hint, which is for whoever wrote the statement."""
    return str(error).partition("\n")[0]


def described(error: BaseException) -> str | None:
    """Return what PostgreSQL or its driver refused, in one line; ``None`` for what is no error of theirs."""
    if not isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    return f"the database refused it: {' '.join(str(error).split())} ({type(error).__name__})"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise our errors for the driver's."""
    try:
        yield
    except Exception as error:
        if (ours := translate(error)) is None:
            raise
        raise ours from error
