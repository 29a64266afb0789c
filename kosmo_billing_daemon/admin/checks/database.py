"""PostgreSQL as an operator should know it: version, rights, schema, clock, and what waits in it."""

from collections.abc import AsyncIterator
from datetime import timedelta

from kosmo_billing_daemon.admin.checks import Finding
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.services.backlog import TOO_OLD, read_backlog
from kosmo_billing_daemon.store import adoptions, inspection, leader_lock, migrations
from kosmo_billing_daemon.store.adoptions import CountedTwice
from kosmo_billing_daemon.store.errors import DatabaseAway, DatabaseUnfit
from kosmo_billing_daemon.store.postgres import Pool

PART = "database"
OLDEST_VERSION = 140000  # functions with a SQL body and their dependencies
COUNTED_WITHIN = timedelta(days=1)
CLOCKS_DIFFER = 2.0  # seconds; periods begin by our clock and are compared in SQL with it, never the server's


async def inspect(pool: Pool, clock: Clock) -> AsyncIterator[Finding]:
    """Look at the server and our tables; ends early where nothing further can be seen."""
    schema = pool.database.schema
    try:
        async with pool.connection() as connection:
            before = clock()
            server = await inspection.load_server(connection)
            after = clock()
            lacking = await migrations.load_lacking(connection, schema)
    except DatabaseUnfit as error:
        yield Finding(PART, False, error.fact, error.advice)
        return
    except DatabaseAway as error:
        yield Finding(PART, False, error.message, error.advice)
        return
    yield _version(server)
    if server.is_standby:
        advice = "name the primary in DATABASE_URL"
        yield Finding(PART, False, "this server is a standby: nothing can be written", advice)
    elif server.is_read_only:
        fact = "default_transaction_read_only is on: nothing can be written"
        advice = (
            "see why (a full disk?), then ALTER DATABASE or ALTER ROLE … RESET default_transaction_read_only"
        )
        yield Finding(PART, False, fact, advice)
    apart = max((before - server.now).total_seconds(), (server.now - after).total_seconds(), 0.0)
    yield Finding(
        "clock",
        apart <= CLOCKS_DIFFER,
        f"our clock and the database's differ by {apart:.1f} s",
        "" if apart <= CLOCKS_DIFFER else "have both hosts set by NTP (timedatectl)",
    )
    for lack in lacking:
        yield Finding(PART, False, lack.fact, lack.statement)
    if lacking:
        return
    try:
        async with pool.connection() as connection:
            pending = await migrations.pending(connection, schema)
            known = migrations.available()
            newest = await inspection.load_newest_migration(connection) if len(pending) < len(known) else 0
            lacking = await migrations.load_lacking(connection, schema, to_migrate=True) if pending else []
    except DatabaseUnfit as error:
        yield Finding(PART, False, error.fact, error.advice)
        return
    except Misconfigured as error:
        yield Finding(PART, False, "; ".join(error.problems), error.advice)
        return
    for lack in lacking:
        yield Finding(PART, False, lack.fact, f"{lack.statement}; then: kosmo-billing migrate")
    if pending and not lacking:
        yield Finding(PART, False, f"to be migrated: {', '.join(pending)}", "run: kosmo-billing migrate")
    elif not pending:
        yield Finding(PART, True, f"the schema is up to date ({newest:04}), role {server.role} may use it")
        async for finding in _backlog(pool, clock, told=server.is_standby or server.is_read_only):
            yield finding
        twice = await pool.read(adoptions.load_counted_twice, clock() - COUNTED_WITHIN)
        for one in twice:
            yield _counted_twice(one)


def _counted_twice(one: CountedTwice) -> Finding:
    fact = (
        f"role {one.role} counts by SQL what {one.reporter} reports over MQTT too: messages of {one.users}"
        f" user{'s' if one.users > 1 else ''} counted twice in the last day"
    )
    advice = (
        "let the gateway do one of both; what was too much:"
        f" kosmo-billing usage void --reporter 'sql:{one.role}' --since TIME --reason TICKET"
    )
    return Finding(PART, False, fact, advice)


def _version(server: inspection.DatabaseServer) -> Finding:
    if server.version < OLDEST_VERSION:
        fact = f"PostgreSQL {server.shown_version} is too old"
        return Finding(PART, False, fact, "version 14 or newer is needed")
    return Finding(PART, True, f"PostgreSQL {server.shown_version} answers")


async def _backlog(pool: Pool, clock: Clock, *, told: bool) -> AsyncIterator[Finding]:
    """Say what waits; `told` where that nothing can be written has been said already."""
    backlog = await read_backlog(pool, clock)
    if backlog.error is not None and not told:
        yield Finding(
            PART, False, backlog.error, "a lock ends with its session: SELECT pg_terminate_backend(pid)"
        )
    if backlog.aside is not None:
        advice = "it is tried again by itself; kosmo-billing attention lists what waits and what to do"
        yield Finding(PART, False, backlog.aside, advice)
    waiting = {
        "webhook delivery": backlog.deliveries,
        "change of rights": backlog.entitlements,
        "event": backlog.events,
    }
    for what, age in waiting.items():
        if age > TOO_OLD:
            advice = "is a daemon running and connected? systemctl status kosmo-billing"
            yield Finding(PART, False, f"the oldest {what} waits for {age:.0f} s", advice)


async def is_led(pool: Pool) -> bool:
    """Say whether a daemon leads now."""
    return (await pool.read(leader_lock.look, pool.database.schema)).is_held
