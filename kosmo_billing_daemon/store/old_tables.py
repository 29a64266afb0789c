"""Reads the tables of KosmoConnect v0.1, whatever their columns are called.

The rule it keeps: names come from the catalogue and are always quoted, and values come as texts, so that no
name and no value of theirs is taken for SQL, or ends the reading.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap
from kosmo_billing_daemon.domain.adoption.old_tables import ColumnKind, OldColumn, OldTable, Part
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection
from kosmo_billing_daemon.store.rights import Lack

MOST_VALUES = 100
"""Different values of a column that are shown; one with more says something else than a status or a plan."""

AT_ONCE = 2000
"""Rows of one fetch."""

ALIAS = '"kosmo-billing old"'  # no column of theirs is called so, and to_jsonb must not find one


def quoted(name: str) -> str:
    """Write a name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text as SQL."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def qualified(schema: str, name: str) -> str:
    """Write the name of a table as SQL."""
    return f"{quoted(schema)}.{quoted(name)}"


_FIND = """
SELECT n.nspname AS schema, c.relname AS name, c.oid::bigint AS oid FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid = to_regclass($1)
"""

_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, b.typname AS base,
    b.typtype::text AS typtype,
    b.typnamespace = 'pg_catalog'::regnamespace AS is_built_in,
    ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = b.oid ORDER BY enumsortorder) AS labels
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_KINDS: Mapping[str, ColumnKind] = {
    "timestamptz": ColumnKind.ZONED,
    "timestamp": ColumnKind.NAIVE,
    "date": ColumnKind.DATE,
    "int2": ColumnKind.INTEGER,
    "int4": ColumnKind.INTEGER,
    "int8": ColumnKind.INTEGER,
    "numeric": ColumnKind.NUMBER,
    "float4": ColumnKind.NUMBER,
    "float8": ColumnKind.NUMBER,
    "money": ColumnKind.NUMBER,
    "text": ColumnKind.TEXT,
    "varchar": ColumnKind.TEXT,
    "bpchar": ColumnKind.TEXT,
    "citext": ColumnKind.TEXT,
    "uuid": ColumnKind.UUID,
    "bool": ColumnKind.BOOLEAN,
}


def _column(row: Any) -> OldColumn:
    kind = ColumnKind.OTHER
    if row["typtype"] == "e":
        kind = ColumnKind.TEXT
    elif row["is_built_in"] or row["base"] == "citext":
        kind = _KINDS.get(row["base"], kind)
    return OldColumn(name=row["name"], type=row["type"], kind=kind, labels=tuple(row["labels"]))


async def find(connection: Connection, name: str, schemas: Sequence[str]) -> OldTable | None:
    """Return the table of a name, which may be qualified; else the first in these schemas."""
    names = [qualified(schema, name) for schema in schemas]
    if "." in name:
        schema, _, table = name.partition(".")
        names.insert(0, qualified(schema, table))
    for each in names:
        row = await connection.fetchrow(_FIND, each)
        if row is not None:
            columns = tuple(map(_column, await connection.fetch(_COLUMNS, row["oid"])))
            return OldTable(schema=row["schema"], name=row["name"], columns=columns)
    return None


async def load_values(
    connection: Connection, table: OldTable, columns: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """Return the values of these columns as far as they are few, the frequent first."""
    values = {}
    for name in columns:
        column = quoted(name)
        rows = await connection.fetch(
            f"SELECT {column}::text FROM {qualified(table.schema, table.name)} WHERE {column} IS NOT NULL"
            f" GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MOST_VALUES + 1}"
        )
        if len(rows) <= MOST_VALUES:
            values[name] = tuple(row[0] for row in rows)
    return values


_RIGHTS = """
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS reads,
    pg_has_role(c.relowner, 'USAGE') AS owns, pg_get_userbyid(c.relowner)::text AS owner,
    current_user::text AS role, current_database()::text AS database,
    has_database_privilege(current_database(), 'CREATE') AS creates
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)
"""


async def load_lacking(
    connection: Connection, tables: Sequence[tuple[str, str]], schemas: Sequence[str] = ()
) -> list[Lack]:
    """Return what our role lacks to read these tables and move them into ``schemas``, and what gives it."""
    lacking: dict[str, str] = {}  # by what gives it
    for schema, name in tables:
        row = await connection.fetchrow(_RIGHTS, qualified(schema, name))
        if row is None:
            continue
        role = quoted(row["role"])
        if not row["reads"]:
            fact = f"role {row['role']} may not read {schema}.{name}"
            select = f"GRANT SELECT ON {qualified(schema, name)} TO {role}"
            lacking.setdefault(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role}; {select}", fact)
        if schemas and not row["owns"]:
            fact = f"role {row['role']} may not move {schema}.{name}, which {row['owner']} owns"
            lacking.setdefault(f"GRANT {quoted(row['owner'])} TO {role}", fact)
        missing = [
            each
            for each in schemas
            if not row["creates"]
            and await connection.fetchval("SELECT to_regnamespace($1) IS NULL", quoted(each))
        ]
        if missing:
            fact = f"role {row['role']} may not make the schemas {', '.join(missing)}"
            lacking.setdefault(f"GRANT CREATE ON DATABASE {quoted(row['database'])} TO {role}", fact)
    return [Lack(fact, statement) for statement, fact in lacking.items()]


_DEPENDENTS = """
SELECT format('%s refers to %s (%s)', c.conrelid::regclass, c.confrelid::regclass, c.conname) AS fact
FROM pg_constraint AS c WHERE c.contype = 'f' AND c.confrelid = ANY ($1::text[]::regclass[])
    AND c.conrelid <> ALL ($1::text[]::regclass[])
UNION
SELECT format('view %s reads %s', r.ev_class::regclass, d.refobjid::regclass)
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = ANY ($1::text[]::regclass[])
    AND r.ev_class <> ALL ($1::text[]::regclass[])
ORDER BY fact
"""


async def load_dependents(connection: Connection, tables: Sequence[tuple[str, str]]) -> list[str]:
    """Say which foreign keys and views go on naming the old tables when these have moved."""
    names = [qualified(schema, name) for schema, name in tables]
    return [row["fact"] for row in await connection.fetch(_DEPENDENTS, names)]


async def count_rows(connection: Connection, made: AdoptionMap) -> int:
    """Return how many subscriptions and invoices there are to read."""
    total = 0
    for part in (Part.SUBSCRIPTIONS, Part.INVOICES):
        if (of := made.parts.get(part)) is not None:
            table = qualified(of.table.schema, of.table.name)
            total += await connection.fetchval(f"SELECT count(*) FROM {table}")
    return total


@record
class OldRow:
    """One row: its place in the reading, what it says of each field, and all of it as JSON."""

    place: int
    said: Mapping[str, str | None] = field(hash=False)
    old: str | None = None


_UUID = "'^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'"


async def stream(
    connection: Connection, table: OldTable, columns: Mapping[str, str], *, whole: bool
) -> AsyncIterator[tuple[str, list[OldRow]]]:
    """Yield all rows, those of one user together, in the order of the users' ids; without a user is ''."""
    said = [f"{_as_text(table, name)} AS {quoted(each)}" for each, name in columns.items()]
    user = _as_text(table, columns["user_id"])
    # Two spellings of one UUID are one user.
    key = f"CASE WHEN {user} ~ {_UUID} THEN lower({user}) ELSE coalesce({user}, '') END"
    old = f"to_jsonb({ALIAS}.*)::text" if whole else "NULL::text"
    query = (
        f'SELECT {key} COLLATE "C" AS "0", {old} AS "1", {", ".join(said)}'
        f" FROM {qualified(table.schema, table.name)} AS {ALIAS} ORDER BY 1"
    )
    group: list[OldRow] = []
    of: str | None = None
    place = 0
    async for row in connection.cursor(query, prefetch=AT_ONCE):
        if row[0] != of:
            if of is not None:
                yield of, group
            of, group = row[0], []
        group.append(OldRow(place, dict(zip(columns, row[2:], strict=True)), row[1]))
        place += 1
    if of is not None:
        yield of, group


def _as_text(table: OldTable, name: str) -> str:
    """Write a column as text; sums of money without the sign of a currency."""
    column = table.column(name)
    is_money = column is not None and column.type == "money"
    return f"{ALIAS}.{quoted(name)}{'::numeric' if is_money else ''}::text"
