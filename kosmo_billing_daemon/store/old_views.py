"""The views by which an old gateway reads and counts on: our rows under the old names and in the old types.

A row that was over when it was moved in is shown as it was. A current row is ours, as it is now; the columns
that only v0.1 knows are kept beside it. Which columns there are is known only then, so the SQL is written
here, from the names of the catalogue.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kosmo_billing_daemon.domain.adoption.guessing import seen
from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap, TableMap, lowered
from kosmo_billing_daemon.domain.adoption.old_tables import ColumnKind, OldColumn, Part
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.store.old_tables import literal, qualified, quoted

COMPAT = "kosmo_compat"
"""The schema of the views."""

MOVED = "kosmo_v01"
"""The schema to which the old tables are moved."""

_TABLES = {Part.SUBSCRIPTIONS: "subscriptions", Part.INVOICES: "btcpay_invoices"}
_CHANGING = ("status", "valid_until", "messages_used", "messages_limit", "settled_at", "expires_at")
_INDEXED = ("smallint", "integer", "bigint", "uuid", "text")


@dataclass(slots=True)
class Conventions:
    """What the rows turned out to say, beyond the map: how they write "unlimited", the greatest id, and which
    columns are times in milliseconds.
    """

    unlimited: str | None = None
    greatest_id: int = 0
    milliseconds: set[str] = field(default_factory=set)


def statements(made: AdoptionMap, told: Conventions) -> list[str]:
    """Return the statements that make the views, their triggers, and the indexes that they need."""
    writers = {
        Part.SUBSCRIPTIONS: _subscriptions,
        Part.INVOICES: _invoices,
        Part.WHITELIST: _whitelist,
    }
    views = [each for part, of in made.parts.items() for each in writers[part](made, of, told)]
    return views + _indexes(made)


def _subscriptions(made: AdoptionMap, of: TableMap, told: Conventions) -> list[str]:
    is_current = "s.status IN ('active', 'grace')"
    end = (
        "CASE s.status WHEN 'grace' THEN s.grace_until WHEN 'active' THEN s.valid_until"
        " ELSE least(s.valid_until, s.ended_at) END"
    )
    limit = "s.messages_limit::text"
    if told.unlimited is not None:
        limit = f"coalesce({limit}, {literal(told.unlimited)})"
    written: dict[str, Callable[[OldColumn], str]] = {
        "plan": lambda column: _plan(made, of, column),
        "status": lambda column: _status(made, of, column, is_current),
        "valid_from": lambda column: _time(made, column, "s.valid_from", told),
        "valid_until": lambda column: _time(made, column, end, told),
        "messages_used": lambda _: "s.messages_used",
        "messages_limit": lambda _: limit,
        "id": lambda column: _id(column, f"{told.greatest_id} + s.number"),
    }
    view = qualified(COMPAT, of.table.name)
    arguments = [
        of.columns["user_id"],
        of.columns.get("messages_used", ""),
        of.columns.get("status", ""),
        of.columns["valid_until"],
        json.dumps(made.active),
        str(of.kind("valid_until")),
        made.timezone,
        json.dumps([name for field, name in of.columns.items() if field != "messages_used"]),
    ]
    function = f"write_for_old_gateway({', '.join(map(literal, arguments))})"
    return [_view(of, Part.SUBSCRIPTIONS, written), _trigger(view, "write_for_old_gateway", function)]


def _invoices(made: AdoptionMap, of: TableMap, told: Conventions) -> list[str]:
    amount = "q.amount * 100" if made.in_cents else "q.amount"
    written: dict[str, Callable[[OldColumn], str]] = {
        "plan": lambda column: _plan(made, of, column),
        "status": lambda column: _invoice_status(made, of, column),
        "amount": lambda _: amount,
        "currency": lambda _: "q.currency",
        "btcpay_invoice_id": lambda _: "s.btcpay_invoice_id",
        "checkout_url": lambda _: "s.checkout_url",
        "created_at": lambda column: _time(made, column, "s.created_at", told),
        "expires_at": lambda column: _time(made, column, "s.expires_at", told),
        "settled_at": lambda column: _time(made, column, "s.settled_at", told),
        "id": lambda column: _id(column, "NULL"),
    }
    where = "s.btcpay_invoice_id IS NOT NULL"
    return [_view(of, Part.INVOICES, written, where), _refusing(of)]


def _whitelist(_made: AdoptionMap, of: TableMap, _told: Conventions) -> list[str]:
    number = "('x' || substr(s.node_id, 2))::bit(32)::bigint"
    columns = []
    for column in of.table.columns:
        written = {
            "user_id": _user(column),
            "node_id": number if column.kind is ColumnKind.INTEGER else "s.node_id",
            "label": "s.label",
        }
        expression = written.get(_field(of, column) or "", "NULL")
        columns.append(f"({expression})::{column.type} AS {quoted(column.name)}")
    rows = f"SELECT {', '.join(columns)} FROM whitelisted_nodes AS s{_users(of)}"
    return [f"CREATE VIEW {qualified(COMPAT, of.table.name)} AS {rows}", _refusing(of)]


def _refusing(of: TableMap) -> str:
    return _trigger(qualified(COMPAT, of.table.name), "refuse_old_write", "refuse_old_write()")


def _trigger(view: str, name: str, function: str) -> str:
    return (
        f"CREATE TRIGGER {name} INSTEAD OF INSERT OR UPDATE OR DELETE ON {view} FOR EACH ROW"
        f" EXECUTE FUNCTION {function}"
    )


def _view(
    of: TableMap, part: Part, written: Mapping[str, Callable[[OldColumn], str]], where: str = "true"
) -> str:
    """Write a view of our rows, and of those that were history when they were moved in.

    What only v0.1 knows of a row is asked for by the row, not joined: an old gateway may say FOR UPDATE.
    """
    row_type = qualified(MOVED, of.table.name)
    ours: list[str] = []
    old: list[str] = []
    text_ids: list[str] = []
    for column in of.table.columns:
        name, field = quoted(column.name), _field(of, column)
        kept = (
            f"(SELECT (jsonb_populate_record(NULL::{row_type}, a.old)).{name} FROM adopted_rows AS a"
            f" WHERE a.id = s.id)"
        )
        expression = kept
        if field == "user_id":
            expression = _user(column)
            old.append(f"{_old_user(column, 'b.')} AS {name}")
            text_ids.append(f"{_new_user(column)} AS {name}")
        else:
            if field in _CHANGING:
                expression = written[field](column)
            elif field is not None:
                expression = f"coalesce({kept}, ({written[field](column)})::{column.type})"
            old.append(f"r.{name}")
            text_ids.append(f"({expression})::{column.type} AS {name}")
        ours.append(f"({expression})::{column.type} AS {name}")
    quotes = f"{_TABLES[part]} AS s JOIN quotes AS q ON q.id = s.quote_id"
    is_ours = f"{where} AND NOT EXISTS (SELECT FROM adopted_rows AS h WHERE h.id = s.id AND h.is_history)"
    parts = [f"SELECT {', '.join(ours)} FROM {quotes}{_users(of)} WHERE {is_ours}"]
    if of.kind("user_id") is ColumnKind.TEXT:
        parts.append(
            f"SELECT {', '.join(text_ids)} FROM {quotes} WHERE {is_ours}"
            f" AND NOT EXISTS (SELECT FROM adopted_users AS u WHERE u.user_id = s.user_id)"
        )
    parts.append(
        f"SELECT {', '.join(old)} FROM adopted_rows AS b,"
        f" LATERAL jsonb_populate_record(NULL::{row_type}, b.old) AS r"
        f" WHERE b.part = '{part}' AND b.is_history"
    )
    return f"CREATE VIEW {qualified(COMPAT, of.table.name)} AS {' UNION ALL '.join(parts)}"


def _field(of: TableMap, column: OldColumn) -> str | None:
    """Return what a column says; one that says two things says the first."""
    return next((field for field, name in of.columns.items() if name == column.name), None)


def _compared(column: OldColumn, expression: str) -> str:
    """Write a user's id in its old type; texts are compared as bytes, in the views as in the indexes."""
    collation = ' COLLATE "C"' if column.kind is ColumnKind.TEXT and not column.labels else ""
    return f"(({expression})::{column.type}{collation})"


def _old_user(column: OldColumn, of: str = "") -> str:
    return _compared(column, f"{of}old ->> {literal(column.name)}")


def _new_user(column: OldColumn) -> str:
    return _compared(column, "user_id::text")


def _user(column: OldColumn) -> str:
    return "s.user_id" if column.kind is ColumnKind.UUID else "u.old_id"


def _users(of: TableMap) -> str:
    is_uuid = of.kind("user_id") is ColumnKind.UUID
    return "" if is_uuid else " JOIN adopted_users AS u ON u.user_id = s.user_id"


def _id(column: OldColumn, number: str) -> str:
    """Write the id of a row that v0.1 does not know."""
    if column.kind is ColumnKind.INTEGER:
        return number
    return "s.id" if column.kind is ColumnKind.UUID else "s.id::text"


def _time(made: AdoptionMap, column: OldColumn, at: str, told: Conventions) -> str:
    match column.kind:
        case ColumnKind.ZONED:
            return at
        case ColumnKind.INTEGER | ColumnKind.NUMBER:
            return f"extract(epoch FROM {at}){' * 1000' if column.name in told.milliseconds else ''}"
        case ColumnKind.TEXT:
            utc = f"{at} AT TIME ZONE 'UTC'"
            return f"to_char({utc}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '+00:00'"
        case _:
            return f"({at}) AT TIME ZONE {literal(made.timezone)}"


def _among(column: OldColumn, expression: str) -> str:
    """Keep a value to what the column's type can hold: the labels of an enum, or a number."""
    if column.labels:
        labels = ", ".join(map(literal, column.labels))
        return f"CASE WHEN {expression} IN ({labels}) THEN {expression} END"
    if column.kind is ColumnKind.INTEGER:
        return f"CASE WHEN {expression} ~ '^[0-9]{{1,9}}$' THEN {expression} END"
    return expression


def _spelled(expression: str, spellings: Mapping[str, str]) -> str:
    if not spellings:
        return expression
    cases = " ".join(f"WHEN {literal(ours)} THEN {literal(old)}" for ours, old in spellings.items())
    return f"(CASE {expression} {cases} ELSE {expression} END)"


def _plan(made: AdoptionMap, of: TableMap, column: OldColumn) -> str:
    spellings: dict[str, str] = {}
    for value in seen(of, "plan"):
        plan = made.plans.get(lowered(value))
        if plan is not None:
            spellings.setdefault(plan, value)
    return _among(column, _spelled("q.plan_type", spellings))


def _status(made: AdoptionMap, of: TableMap, column: OldColumn, is_current: str) -> str:
    if column.kind is ColumnKind.BOOLEAN:
        return is_current
    values = seen(of, "status")
    active = _first(values, made.active) or _first(column.labels, made.active) or "active"
    ended = _first(values, made.ended) or _first(column.labels, made.ended) or "expired"
    return _among(column, f"(CASE WHEN {is_current} THEN {literal(active)} ELSE {literal(ended)} END)")


def _invoice_status(made: AdoptionMap, of: TableMap, column: OldColumn) -> str:
    spellings: dict[str, str] = {}
    for status in InvoiceStatus:
        words = [word for word, meant in made.statuses.items() if meant is status]
        spelled = _first(seen(of, "status"), words) or _first(column.labels, words)
        if spelled is not None:
            spellings[status] = spelled
    return _among(column, _spelled("s.status", spellings))


def _first(values: Sequence[str], words: Sequence[str]) -> str | None:
    return next((value for value in values if lowered(value) in words), None)


def _indexes(made: AdoptionMap) -> list[str]:
    """Let a gateway's WHERE user_id = … find one user's rows, and not read all."""
    found: list[str] = []
    for part in (Part.SUBSCRIPTIONS, Part.INVOICES):
        of = made.parts.get(part)
        user = None if of is None else of.column("user_id")
        if user is None or user.type.partition("(")[0] not in (*_INDEXED, "character varying"):
            continue
        where = f"WHERE part = '{part}' AND is_history"
        found.append(f"CREATE INDEX ON adopted_rows ({_old_user(user)}) {where}")
        if user.kind is not ColumnKind.UUID:
            found.append(f"CREATE INDEX ON adopted_users ({_compared(user, 'old_id')})")
        if user.kind is ColumnKind.TEXT:
            found.append(f"CREATE INDEX ON {_TABLES[part]} ({_new_user(user)})")
    return found
