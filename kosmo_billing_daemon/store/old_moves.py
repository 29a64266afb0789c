"""Moves the old tables away and back in the caller's transaction, and gives views their rights.

Which tables there are is known only then, so statements are written here, from names of the catalogue.
"""

from collections.abc import Sequence
from typing import TypeAlias

from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.store.old_tables import load_dependents, qualified, quoted
from kosmo_billing_daemon.store.old_views import COMPAT, MOVED
from kosmo_billing_daemon.store.postgres import Connection

Name: TypeAlias = tuple[str, str]
"""A schema and a table in it."""


async def prepare(connection: Connection) -> None:
    """Let a long transaction read whole tables, and wait for whoever still uses the old ones."""
    await connection.execute(
        "SET LOCAL lock_timeout = '25s'; SET LOCAL idle_in_transaction_session_timeout = 0;"
        " SET LOCAL enable_seqscan = on; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL extra_float_digits = 1;"
        " SET LOCAL IntervalStyle = 'iso_8601'"
    )


async def move_away(connection: Connection, tables: Sequence[Name]) -> None:
    """Move the old tables to a schema of their own, once nobody uses them any more."""
    for schema, name in tables:
        await connection.execute(f"LOCK TABLE {qualified(schema, name)} IN ACCESS EXCLUSIVE MODE")
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {MOVED}; CREATE SCHEMA {COMPAT}")
    for schema, name in tables:
        await connection.execute(f"ALTER TABLE {qualified(schema, name)} SET SCHEMA {MOVED}")


_PRIVILEGES = """
SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END AS grantee,
    a.privilege_type AS privilege, NULL::text AS of_column
FROM pg_class AS c CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
    LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE c.oid = to_regclass($1) AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    AND (a.grantee = 0 OR r.rolname <> current_user)
UNION
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END, a.privilege_type, t.attname::text
FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS a
    LEFT JOIN pg_roles AS r ON r.oid = a.grantee
WHERE t.attrelid = to_regclass($1) AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE')
    AND (a.grantee = 0 OR r.rolname <> current_user)
ORDER BY grantee, privilege, of_column
"""


async def grant_views(connection: Connection, names: Sequence[str]) -> list[str]:
    """Give on the views what was given on the old tables; returns the roles, as SQL writes them."""
    roles: dict[str, None] = {}
    for name in names:
        view = qualified(COMPAT, name)
        for row in await connection.fetch(_PRIVILEGES, qualified(MOVED, name)):
            column = "" if row["of_column"] is None else f" ({quoted(row['of_column'])})"
            await connection.execute(f"GRANT {row['privilege']}{column} ON {view} TO {row['grantee']}")
            if row["grantee"] not in roles:
                roles[row["grantee"]] = None
                await connection.execute(f"GRANT USAGE ON SCHEMA {COMPAT} TO {row['grantee']}")
    return [role for role in roles if role != "PUBLIC"]


async def show_as_it_was(connection: Connection, name: str) -> None:
    """Make a view of a table that moved only because its name is one of ours."""
    await connection.execute(
        f"CREATE VIEW {qualified(COMPAT, name)} AS SELECT * FROM {qualified(MOVED, name)}"
    )


_OURS = """
SELECT c.relname, c.relkind FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND c.relkind IN ('r', 'S') ORDER BY c.relkind DESC
"""

_FUNCTIONS = """
SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = ANY ($2::text[])
"""


async def lock_ours(connection: Connection) -> None:
    """Keep everybody from writing until the transaction ends."""
    await connection.execute(
        "LOCK TABLE subscriptions, btcpay_invoices, usage_events, ledger, audit_log, whitelisted_nodes"
        " IN ACCESS EXCLUSIVE MODE"
    )


async def remove_ours(connection: Connection, schema: str, objects: Sequence[str]) -> None:
    """Drop our tables, sequences and functions, and the views; nothing of others may depend on them.

    They depend on each other both ways, so each takes along what is left of the others.
    """
    await connection.execute(f"DROP SCHEMA {COMPAT} CASCADE")
    found = await connection.fetch(_OURS, schema, list(objects))
    dependents = await load_dependents(connection, [(schema, row["relname"]) for row in found])
    if dependents:
        raise Conflict(f"drop first what depends on our tables: {'; '.join(dependents)}")
    for row in found:
        kind = "SEQUENCE" if row["relkind"] == b"S" else "TABLE"
        await connection.execute(f"DROP {kind} {qualified(schema, row['relname'])} CASCADE")
    functions = await connection.fetchval(_FUNCTIONS, schema, list(objects))
    if functions is not None:
        await connection.execute(f"DROP FUNCTION {functions} CASCADE")


async def move_back(connection: Connection, moved: Sequence[Name]) -> None:
    """Put the old tables where they were."""
    for schema, name in moved:
        await connection.execute(f"ALTER TABLE {qualified(MOVED, name)} SET SCHEMA {quoted(schema)}")
    if not await connection.fetchval(
        "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)", MOVED
    ):
        await connection.execute(f"DROP SCHEMA {MOVED}")
