"""Which rights our role lacks, each with the statement that gives it."""

from collections.abc import Sequence

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection


@record
class Lack:
    """What our role may not do, and what an owner or a superuser runs to allow it."""

    fact: str
    statement: str


# Identity columns need no right on their sequence, triggers none on their function.
_TO_RUN = """
WITH ours AS (
    SELECT oid, nspname, quote_ident(current_user) AS role FROM pg_namespace WHERE nspname = $1),
relations AS (
    SELECT c.oid, c.relkind, c.relname, format('%I.%I', o.nspname, c.relname) AS name
    FROM pg_class AS c JOIN ours AS o ON c.relnamespace = o.oid
    WHERE c.relkind IN ('r', 'p', 'S') AND (c.relname = ANY ($2::text[]) OR EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_class AS t ON t.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
            AND t.relnamespace = o.oid AND t.relname = ANY ($2::text[]))))
SELECT 1 AS place, 'use schema ' || nspname AS what,
    format('GRANT USAGE ON SCHEMA %I TO %s', nspname, role) AS statement
FROM ours WHERE NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 2, 'read and write ' || string_agg(relname, ', ' ORDER BY relname),
    'GRANT SELECT, INSERT, UPDATE, DELETE ON ' || string_agg(r.name, ', ' ORDER BY relname) || ' TO ' || role
FROM relations AS r, ours WHERE relkind <> 'S' AND NOT (
    has_table_privilege(r.oid, 'SELECT') AND has_table_privilege(r.oid, 'INSERT')
    AND has_table_privilege(r.oid, 'UPDATE') AND has_table_privilege(r.oid, 'DELETE'))
GROUP BY role
UNION ALL
SELECT 3, 'use the sequences ' || string_agg(relname, ', ' ORDER BY relname),
    'GRANT USAGE, SELECT, UPDATE ON SEQUENCE ' || string_agg(r.name, ', ' ORDER BY relname) || ' TO ' || role
FROM relations AS r, ours WHERE relkind = 'S' AND NOT (
    has_sequence_privilege(r.oid, 'USAGE') AND has_sequence_privilege(r.oid, 'SELECT')
    AND has_sequence_privilege(r.oid, 'UPDATE'))
GROUP BY role
UNION ALL
SELECT 4, 'call the functions ' || string_agg(p.proname, ', ' ORDER BY p.proname),
    'GRANT EXECUTE ON FUNCTION ' || string_agg(
        format('%I.%I(%s)', o.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), ', '
        ORDER BY p.proname) || ' TO ' || role
FROM pg_proc AS p JOIN ours AS o ON p.pronamespace = o.oid
WHERE p.proname = ANY ($2::text[]) AND p.prorettype <> 'trigger'::regtype
    AND NOT has_function_privilege(p.oid, 'EXECUTE')
GROUP BY role
UNION ALL
SELECT 5, 'see every row of ' || string_agg(relname, ', ' ORDER BY relname),
    string_agg(format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', r.name), '; ' ORDER BY relname)
FROM relations AS r WHERE relkind <> 'S' AND row_security_active(r.oid) HAVING count(*) > 0
ORDER BY place
"""

_TO_MIGRATE = """
WITH ours AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = $1),
owned AS (
    SELECT c.relname AS name, c.relowner AS owner, format('%s %I.%I',
        CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, o.nspname, c.relname) AS thing
    FROM pg_class AS c JOIN ours AS o ON c.relnamespace = o.oid
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relname = ANY ($2::text[])
    UNION ALL
    SELECT p.proname, p.proowner, format('FUNCTION %I.%I(%s)',
        o.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
    FROM pg_proc AS p JOIN ours AS o ON p.pronamespace = o.oid WHERE p.proname = ANY ($2::text[]))
SELECT 1 AS place, 'make schema ' || $1 AS what,
    format('CREATE SCHEMA %I AUTHORIZATION %I', $1, current_user) AS statement
WHERE NOT EXISTS (SELECT FROM ours) AND NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT 2, 'make tables in ' || nspname,
    format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', nspname, current_user)
FROM ours WHERE NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE'))
UNION ALL
SELECT 3, 'alter ' || string_agg(name, ', ' ORDER BY name),
    string_agg(format('ALTER %s OWNER TO %I', thing, current_user), '; ' ORDER BY thing)
FROM owned WHERE NOT pg_has_role(owner, 'USAGE') HAVING count(*) > 0
ORDER BY place
"""


async def load_lacking(
    connection: Connection, schema: str, objects: Sequence[str], *, to_migrate: bool
) -> list[Lack]:
    """Return what our role lacks to run, on those of ``objects`` that are there.

    Or what it lacks ``to_migrate``: to alter those and make the others.
    """
    rows = await connection.fetch(_TO_MIGRATE if to_migrate else _TO_RUN, schema, list(objects))
    role = await connection.fetchval("SELECT current_user::text") if rows else ""
    return [Lack(f"role {role} may not {row['what']}", row["statement"]) for row in rows]
