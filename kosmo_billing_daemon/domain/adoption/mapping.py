"""What the columns of the old tables mean: guessed, and corrected by ``adopt.toml``.

The rule it keeps: everything that decides how a row is read is in the map, so that what ``adopt plan`` prints
is all that ``adopt run`` goes by.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kosmo_billing_daemon.domain.adoption.old_tables import (
    FIELDS,
    OLD_NAMES,
    ColumnKind,
    OldColumn,
    OldTable,
    Part,
)
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.plans import FREE
from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class TableMap:
    """One table: which of its columns says what."""

    table: OldTable
    columns: Mapping[str, str] = field(hash=False)

    def column(self, name: str) -> OldColumn | None:
        """Return the column that says something, if one does."""
        return self.table.column(self.columns[name]) if name in self.columns else None

    def kind(self, name: str) -> ColumnKind | None:
        column = self.column(name)
        return None if column is None else column.kind


@record(kw_only=True)
class AdoptionMap:
    """All that decides how rows are read. Texts to compare with are in lower case."""

    parts: Mapping[Part, TableMap] = field(hash=False)
    timezone: str = "UTC"
    without_end: datetime | None = None
    active: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    statuses: Mapping[str, InvoiceStatus] = field(default_factory=dict, hash=False)
    plans: Mapping[str, str] = field(default_factory=dict, hash=False)
    in_cents: bool = False
    currency: str = "USD"

    @property
    def subscriptions(self) -> TableMap:
        return self.parts[Part.SUBSCRIPTIONS]


_SETTINGS = {
    Part.SUBSCRIPTIONS: {"active", "ended", "without_end"},
    Part.INVOICES: {"amount_in", "currency_of_all", "statuses"},
    Part.WHITELIST: set[str](),
}
_READABLE = [InvoiceStatus.NEW, InvoiceStatus.PROCESSING, InvoiceStatus.SETTLED, InvoiceStatus.EXPIRED]
_STATUSES = {str(status): status for status in (*_READABLE, InvoiceStatus.INVALID)}


def table_names(document: Mapping[str, Any]) -> dict[Part, str | None]:
    """Return which table the map names for each part; raises ``Misconfigured`` for what is no map."""
    named = dict(OLD_NAMES)
    problems = [
        f"{key}: unknown; a map has timezone, [subscriptions], [invoices], [whitelist] and [plans]"
        for key in document
        if key not in (*Part, "timezone", "plans")
    ]
    for part in Part:
        table = document.get(part, {})
        if not isinstance(table, Mapping):
            problems.append(f"{part}: must be a table [{part}]")
            continue
        name = table.get("table", named[part])
        if name is not None and (not isinstance(name, str) or not name):
            problems.append(f'{part}.table: a name such as "public.{OLD_NAMES[part] or "whitelist"}"')
        elif part is Part.WHITELIST and table and name is None:
            problems.append('whitelist.table: which table it is, such as "public.whitelist"')
        else:
            named[part] = name
    if problems:
        raise Misconfigured(problems)
    return named


def corrected(guess: AdoptionMap, document: Mapping[str, Any]) -> AdoptionMap:
    """Apply what an operator wrote; raises ``Misconfigured`` with every problem in it."""
    problems: list[str] = []
    parts = {}
    for part, known in guess.parts.items():
        columns, wrong = _columns(part, known, document.get(part, {}))
        problems += wrong
        parts[part] = replace(known, columns=columns)
    problems += [
        f"{part}.{name}: name the column that says it (there are {_listed(of.table)})"
        for part, of in parts.items()
        for name, each in FIELDS[part].items()
        if each.is_needed
        and name not in of.columns
        and not any(p.startswith(f"{part}.{name}:") for p in problems)
    ]
    made = replace(guess, parts=parts)
    subscriptions, invoices = document.get(Part.SUBSCRIPTIONS, {}), document.get(Part.INVOICES, {})
    made = _words(made, subscriptions, problems)
    if "without_end" in subscriptions:
        end = subscriptions["without_end"]
        if not isinstance(end, datetime) or end.tzinfo is None:
            problems.append("subscriptions.without_end: a time with its zone, such as 2027-12-31T00:00:00Z")
        else:
            made = replace(made, without_end=end)
    made = _timezone(made, document.get("timezone", made.timezone), problems)
    made = _plans(made, document.get("plans", {}), problems)
    made = _money(made, invoices, problems)
    if problems:
        raise Misconfigured(problems)
    return made


def _columns(part: Part, of: TableMap, table: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    columns, wrong = dict(of.columns), []
    fields = FIELDS[part]
    for key, name in table.items():
        if key == "table" or key in _SETTINGS[part]:
            continue
        if key not in fields:
            known = ", ".join(["table", *fields, *sorted(_SETTINGS[part])])
            wrong.append(f"{part}.{key}: unknown; known are {known}")
        elif name == "":
            columns.pop(key, None)
        elif not isinstance(name, str) or (column := of.table.column(name)) is None:
            wrong.append(
                f"{part}.{key}: {of.table.shown} has no column {name!r}; it has {_listed(of.table)}"
                ' (if none says it: "")'
            )
        elif column.kind not in fields[key].kinds:
            kinds = ", ".join(sorted(fields[key].kinds))
            wrong.append(f"{part}.{key}: column {name} is of type {column.type}; it must be one of {kinds}")
        else:
            columns[key] = name
    return columns, wrong


def _words(made: AdoptionMap, table: Mapping[str, Any], problems: list[str]) -> AdoptionMap:
    """Read which values of status are those of a plan that runs; what is written wins over the guess."""
    written: dict[str, tuple[str, ...]] = {}
    for key in ("active", "ended"):
        words = table.get(key, [])
        if not isinstance(words, list) or not all(isinstance(word, str | int | bool) for word in words):
            problems.append(f'subscriptions.{key}: a list of values of its status, such as ["{key}"]')
        elif key in table:
            written[key] = tuple(lowered(word) for word in words)
    active, ended = written.get("active", made.active), written.get("ended", made.ended)
    if "ended" in written and "active" in written:
        if both := ", ".join(sorted(set(active) & set(ended))):
            problems.append(f"subscriptions.active: {both} is in ended too")
    elif "ended" in written:
        active = tuple(word for word in active if word not in ended)
    else:
        ended = tuple(word for word in ended if word not in active)
    return replace(made, active=active, ended=ended)


def _timezone(made: AdoptionMap, name: Any, problems: list[str]) -> AdoptionMap:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        problems.append('timezone: the name of a time zone, such as "UTC" or "Europe/Vienna"')
        return made
    return replace(made, timezone=name)


def _plans(made: AdoptionMap, plans: Any, problems: list[str]) -> AdoptionMap:
    if not isinstance(plans, Mapping) or not all(isinstance(name, str) for name in plans.values()):
        problems.append('plans: must be a table [plans] of lines such as "Premium" = "sanctuary"')
        return made
    return replace(made, plans={**made.plans, **{lowered(old): new for old, new in plans.items()}})


def _money(made: AdoptionMap, table: Mapping[str, Any], problems: list[str]) -> AdoptionMap:
    if "amount_in" in table:
        if table["amount_in"] not in ("units", "cents"):
            problems.append('invoices.amount_in: "units" or "cents"')
        made = replace(made, in_cents=table["amount_in"] == "cents")
    if "currency_of_all" in table:
        if not isinstance(table["currency_of_all"], str) or not re.fullmatch(
            "[A-Z]{3,5}", table["currency_of_all"]
        ):
            problems.append('invoices.currency_of_all: an ISO 4217 code such as "USD"')
        else:
            made = replace(made, currency=table["currency_of_all"])
    statuses = table.get("statuses", {})
    if not isinstance(statuses, Mapping) or not all(each in _STATUSES for each in statuses.values()):
        known = ", ".join(_STATUSES)
        problems.append(f'invoices.statuses: lines such as "OK" = "settled"; known are {known}')
        return made
    return replace(
        made,
        statuses={**made.statuses, **{lowered(old): _STATUSES[new] for old, new in statuses.items()}},
    )


def lowered(word: object) -> str:
    """Return a value as it is compared: as text in lower case, booleans as PostgreSQL writes them."""
    return str(word).strip().lower()


def unknown_plans(made: AdoptionMap, for_sale: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of plans in a map."""
    return [
        f"plans.{json.dumps(old)}: there is no plan {new!r}; for sale are {', '.join(for_sale)} (or {FREE})"
        for old, new in made.plans.items()
        if new not in for_sale and new != FREE
    ]


def written(made: AdoptionMap) -> str:
    """Write a map as ``adopt.toml``, for an operator to correct."""
    lines = [f"timezone = {_text(made.timezone)}  # of times that have none"]
    for part, of in made.parts.items():
        lines += ["", f"[{part}]", f"table = {_text(of.table.shown)}"]
        for name in FIELDS[part]:
            lines.append(f"{name} = {_text(of.columns.get(name, ''))}")
        if part is Part.SUBSCRIPTIONS:
            lines.append(f"active = [{', '.join(map(_text, made.active))}]  # values of status")
            lines.append(f"ended = [{', '.join(map(_text, made.ended))}]")
            end = made.without_end
            lines.append(
                "# without_end = 2027-12-31T00:00:00Z  # the end of rows that have none"
                if end is None
                else f"without_end = {end.isoformat()}"
            )
        if part is Part.INVOICES:
            lines.append(f"amount_in = {_text('cents' if made.in_cents else 'units')}")
            lines.append(f"currency_of_all = {_text(made.currency)}  # where no column says it")
            if made.statuses:
                lines.append("[invoices.statuses]")
                lines += [f"{_text(old)} = {_text(new)}" for old, new in made.statuses.items()]
    lines += ["", "[plans]  # old name = ours"]
    lines += [f"{_text(old)} = {_text(new)}" for old, new in made.plans.items()]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """Write a TOML string: its escapes are those of JSON, but DEL must be one too."""
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed(table: OldTable) -> str:
    return ", ".join(column.name for column in table.columns)
