"""Opens a session on the first of a database's servers that takes it.

Each server has its own time to answer, so that one that is silent (switched off, cut away) keeps nobody from
the next. The next opening begins where the last one succeeded, and passes over the server that was being
tried when the caller lost patience.
"""

import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from kosmo_billing_daemon.settings import postgres_url
from kosmo_billing_daemon.settings.postgres_url import PostgresAddress
from kosmo_billing_daemon.store.sessions import Session

_REMEDIES: Mapping[type[asyncpg.PostgresError], str] = {
    asyncpg.InsufficientPrivilegeError: "GRANT CONNECT ON DATABASE {database} TO {user}",
    asyncpg.InvalidPasswordError: "correct the password in DATABASE_URL, or set it:"
    " ALTER ROLE {user} PASSWORD '…'",
    asyncpg.InvalidAuthorizationSpecificationError: "let the role log in (CREATE ROLE {user} LOGIN, or"
    " ALTER ROLE {user} LOGIN), and let pg_hba.conf accept it from this host",
    asyncpg.InvalidCatalogNameError: "correct the name in DATABASE_URL, or create it:"
    " createdb --encoding=UTF8 --template=template0 --owner={user} {database}",
    asyncpg.TooManyConnectionsError: "end other sessions, or raise a limit:"
    " max_connections in postgresql.conf, ALTER ROLE {user} CONNECTION LIMIT,"
    " or ALTER DATABASE {database} CONNECTION LIMIT",
    asyncpg.ObjectNotInPrerequisiteStateError: "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
}
"""What to do when a server refuses the session, by what it answers; its words may be in any language."""

_FAILURES = (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class NoServer(ConnectionError):
    """No server took the session; says why for each. ``said`` is what the only one said."""

    def __init__(self, why: str, said: Exception | None = None) -> None:
        super().__init__(why)
        self.said = said


def remedy(url: str, said: Exception | None) -> str | None:
    """Return what an operator should do so that the server takes the session."""
    advice = next((text for kind, text in _REMEDIES.items() if isinstance(said, kind)), None)
    if advice is None:
        return None
    address = postgres_url.read(url, os.environ)
    user, database = ('"' + name.replace('"', '""') + '"' for name in (address.user, address.database))
    return advice.format(user=user, database=database)


class Opener:
    """Remembers which server to begin with."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._begin = 0

    async def open(self, *, within: float, statement_within: float, settings: Mapping[str, str]) -> Session:
        """Open a session with these settings of the server; raises ``NoServer``, whatever the reason.

        ``within`` is for each server, where the URL has no ``connect_timeout``; both are in seconds.
        """
        try:
            address = postgres_url.read(self._url, os.environ)
            by_tcp = address.tls.attempts() if address.has_tcp else ()
        except (postgres_url.BadUrl, OSError) as error:
            raise NoServer(str(error)) from error
        options = {} if address.options is None else {"options": address.options}
        arguments = _arguments(address) | {
            "timeout": address.connect_timeout or within,
            "command_timeout": statement_within,
            "server_settings": {**options, **settings},
        }
        failures: list[str] = []
        cause: Exception | None = None
        for number in self._order(len(address.hosts)):
            host, port = address.hosts[number]
            is_unix = host.startswith("/")
            self._begin = number + 1
            try:
                session = await _open_on(host, port, (None,) if is_unix else by_tcp, arguments)
            except _FAILURES as error:
                where = f"{host}/.s.PGSQL.{port}" if is_unix else f"{host} port {port}"
                failures.append(f"{where}: {_why(error)}")
                cause = error
            else:
                self._begin = number
                return session
        has_said = len(failures) == 1 and not isinstance(cause, OSError)
        raise NoServer("; ".join(failures), cause if has_said else None) from cause

    def _order(self, count: int) -> list[int]:
        return [(self._begin + number) % count for number in range(count)]


async def _open_on(
    host: str, port: int, attempts: Sequence[ssl.SSLContext | None], arguments: Mapping[str, Any]
) -> Session:
    """Try one server with and without TLS, in the order given; raises what the first attempt met."""
    first: Exception | None = None
    for tls in attempts:
        more = {"ssl": tls} if tls is not None else {"ssl": False, "direct_tls": False}
        try:
            session: Session = await asyncpg.connect(host=host, port=port, **{**arguments, **more})
        except TimeoutError:
            raise
        except _FAILURES as error:
            # A server without TLS says so first; what it says to the second attempt is then the reason.
            first = error if first is None or "rejected SSL upgrade" in str(first) else first
        else:
            return session
    assert first is not None  # noqa: S101  there is always an attempt
    raise first


def _arguments(address: PostgresAddress) -> dict[str, Any]:
    return {
        "user": address.user,
        "password": address.password,
        "passfile": None if address.passfile is None else str(address.passfile),
        "database": address.database,
        "direct_tls": address.direct_tls,
        "target_session_attrs": SessionAttribute(address.target),
        "krbsrvname": address.krbsrvname,
        "gsslib": address.gsslib,
    }


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "it takes no writes (a standby, or read-only)"
    return str(error).strip() or type(error).__name__
