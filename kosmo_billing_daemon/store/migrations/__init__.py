"""Brings the schema forward: ``NNNN_what.sql`` beside this file, in order, once, under a lock.

An own runner of one page rather than yoyo or alembic: both are synchronous and want a second
PostgreSQL driver, and neither refuses tables that it did not make. Forward only, each file in one
transaction together with its line in ``kosmo_billing_migrations``.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from importlib import resources

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import rights
from kosmo_billing_daemon.store.errors import DatabaseUnfit, translated
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.rights import Lack

LEDGER = "kosmo_billing_migrations"
LOCK = 0x6B6F736D  # "kosm"; its second key below tells migrations from leadership

OURS = (
    "attachments",
    "attention_cases",
    "btcpay_invoices",
    "entitlements",
    "events",
    "installation",
    "lookups",
    "quotes",
    "subscriptions",
    "webhook_deliveries",
    "whitelisted_nodes",
)
"""The tables of the first migration: finding one without our ledger means that it is not ours."""


@record
class Migration:
    """One file: its number, its name, its text and the text's SHA-256."""

    number: int
    name: str
    sql: str
    checksum: str


def available() -> tuple[Migration, ...]:
    """Return the migrations that this version brings, in order."""
    found = []
    for file in resources.files(__name__).iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            sql = file.read_text(encoding="utf-8")
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            found.append(Migration(int(match[1]), match[2], sql, checksum))
    return tuple(sorted(found, key=lambda migration: migration.number))


def objects(kinds: str = "TABLE|SEQUENCE|FUNCTION") -> tuple[str, ...]:
    """Return the names of all tables, sequences and functions that the migrations make, or of some kinds."""
    text = "\n".join(migration.sql for migration in available())
    made = re.findall(rf"^CREATE (?:OR REPLACE )?(?:{kinds}) (\w+)", text, re.MULTILINE)
    return (LEDGER, *dict.fromkeys(made))


async def load_lacking(connection: Connection, schema: str, *, to_migrate: bool = False) -> list[Lack]:
    """Return the rights that our role lacks, to run or to migrate."""
    return await rights.load_lacking(connection, schema, objects(), to_migrate=to_migrate)


async def migrate(
    connection: Connection, schema: str = "public", begun: Callable[[str], None] = lambda _: None
) -> tuple[str, ...]:
    """Apply what is missing and return the names applied; a second call applies nothing.

    ``begun`` is told what is done next: waiting, or a migration and which of how many it is.

    Waits for another daemon that is migrating. Raises ``Misconfigured`` and changes nothing when the
    schema holds tables of our names that are not ours, or migrations that this version does not know;
    ``DatabaseUnfit`` when a right is missing; ``Unavailable`` when the database went away.
    """
    lock = LOCK, f"migrations of {schema}"
    with translated():
        begun("waiting for the database")
        await connection.execute("SET lock_timeout = '25s'")  # a migration may wait for those who use a table
        await connection.execute("SELECT pg_advisory_lock($1, hashtext($2))", *lock)
        try:
            return await _migrate(connection, schema, begun)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1, hashtext($2))", *lock)


async def migrate_within(connection: Connection, schema: str) -> tuple[str, ...]:
    """Do the same within the caller's transaction, which undoes it if it fails."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK, f"migrations of {schema}"
    )
    return await _migrate(connection, schema, lambda _: None)


async def is_migrated(connection: Connection, schema: str) -> bool:
    """Say whether our tables stand in a schema."""
    with translated():
        return await _applied(connection, schema) is not None


async def pending(connection: Connection, schema: str = "public") -> tuple[str, ...]:
    """Return the names of migrations not yet applied, changing nothing.

    Raises ``Misconfigured`` for a schema that this version must not touch.
    """
    with translated():
        applied = await _applied(connection, schema)
    return tuple(migration.name for migration in _missing(applied or {}))


async def _migrate(connection: Connection, schema: str, begun: Callable[[str], None]) -> tuple[str, ...]:
    applied = await _applied(connection, schema)
    if applied is None:
        await _refuse_foreign_tables(connection, schema)
    missing = _missing(applied or {})
    if missing:
        await _require_rights(connection, schema, to_migrate=True)
    for place, migration in enumerate(missing, 1):
        begun(f"applying {migration.name} ({place} of {len(missing)})")
        async with connection.transaction():
            await _enter(connection, schema)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS kosmo_billing_migrations (number int PRIMARY KEY,"
                " name text NOT NULL, checksum text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now())"
            )
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO kosmo_billing_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
    return tuple(migration.name for migration in missing)


async def _require_rights(connection: Connection, schema: str, *, to_migrate: bool = False) -> None:
    lacking = await load_lacking(connection, schema, to_migrate=to_migrate)
    if lacking:
        facts = ", ".join(lack.fact for lack in lacking)
        raise DatabaseUnfit(facts, "; ".join(lack.statement for lack in lacking))


def _missing(applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    """Return what is not applied yet; raises ``Misconfigured`` where something else was."""
    known = {migration.number: migration for migration in available()}
    problems = []
    for number, (name, checksum) in applied.items():
        if number not in known:
            problems.append(
                f"the database has migration {number:04} {name}, which this version does not know"
            )
        elif known[number].checksum != checksum:
            problems.append(f"migration {number:04} {name} was applied with another text")
    if problems:
        raise Misconfigured(problems, "install the version that migrated this database, or a newer one")
    return [migration for number, migration in known.items() if number not in applied]


async def _enter(connection: Connection, schema: str) -> None:
    """Make ``schema`` the place of unqualified names until the transaction ends."""
    quoted = '"' + schema.replace('"', '""') + '"'
    if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", quoted):
        await connection.execute(f"CREATE SCHEMA {quoted}")
    await connection.execute("SELECT set_config('search_path', $1, true)", quoted)


async def _applied(connection: Connection, schema: str) -> dict[int, tuple[str, str]] | None:
    exists = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2)",
        schema,
        LEDGER,
    )
    if not exists:
        return None
    await _require_rights(connection, schema)
    async with connection.transaction():
        await _enter(connection, schema)
        rows = await connection.fetch(
            "SELECT number, name, checksum FROM kosmo_billing_migrations ORDER BY number"
        )
    return {row["number"]: (row["name"], row["checksum"]) for row in rows}


async def _refuse_foreign_tables(connection: Connection, schema: str) -> None:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f') AND relname = ANY ($2) ORDER BY relname",
        schema,
        list(OURS),
    )
    if rows:
        names = ", ".join(row["relname"] for row in rows)
        problem = f"schema {schema} already has {names}, not made by kosmo-billing; nothing was changed."
        if any(row["relname"] == "subscriptions" for row in rows):
            problem += " If they are those of KosmoConnect v0.1, move in: kosmo-billing adopt plan. Else move"
            raise Misconfigured([f"{problem} them away or set DATABASE_SCHEMA to a schema of its own"])
        raise Misconfigured([f"{problem} Move them away or set DATABASE_SCHEMA to a schema of its own"])
