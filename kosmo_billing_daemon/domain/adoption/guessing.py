"""Guesses what the columns of the old tables mean, by their names and types, and says why."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from kosmo_billing_daemon.domain.adoption.mapping import AdoptionMap, TableMap, lowered
from kosmo_billing_daemon.domain.adoption.old_tables import FIELDS, ColumnKind, OldTable, Part, bare, words
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.plans import FREE, Catalogue

ACTIVE = words("active trialing trial current valid enabled grace true 1 t yes")
ENDED = words("""
    expired inactive cancelled canceled revoked replaced ended suspended disabled pending new unpaid
    superseded deleted false 0 f no
""")
_STATUSES: Mapping[InvoiceStatus, tuple[str, ...]] = {
    InvoiceStatus.NEW: ("new", "pending", "open", "unpaid", "created", "waiting"),
    InvoiceStatus.PROCESSING: ("processing", "confirming", "unconfirmed"),
    InvoiceStatus.SETTLED: ("settled", "paid", "complete", "completed", "confirmed", "success"),
    InvoiceStatus.EXPIRED: ("expired", "timeout"),
    InvoiceStatus.INVALID: ("invalid", "failed", "cancelled", "canceled", "error"),
}
STATUSES = {word: status for status, words in _STATUSES.items() for word in words}
"""What statuses of invoices usually mean."""


def guess(tables: Mapping[Part, OldTable], catalogue: Catalogue) -> tuple[AdoptionMap, list[str]]:
    """Return the likeliest map and, for each column, why; what is not found is missing in it."""
    why: list[str] = []
    parts: dict[Part, TableMap] = {}
    for part, table in tables.items():
        columns, reasons = _columns(part, table)
        parts[part] = TableMap(table=table, columns=columns)
        why += reasons
    made = AdoptionMap(
        parts=parts,
        active=ACTIVE,
        ended=ENDED,
        statuses=STATUSES,
        plans=_plans(parts, catalogue),
        currency=catalogue.plans[0].price.currency,
    )
    if Part.INVOICES in parts and _is_in_cents(parts[Part.INVOICES], catalogue):
        why.append(f"invoices: {parts[Part.INVOICES].columns['amount']} holds cents")
        made = replace(made, in_cents=True)
    return made, why


def _columns(part: Part, table: OldTable) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    why: list[str] = []
    by_name = {bare(column.name): column for column in reversed(table.columns)}
    for field, each in FIELDS[part].items():
        for name in each.names:
            column = by_name.get(bare(name))
            if column is None or (column.name in found.values() and field != "btcpay_invoice_id"):
                continue
            if column.kind not in each.kinds:
                why.append(f"{part}: {column.name} is no {field}, since its type is {column.type}")
                continue
            found[field] = column.name
            is_first = name == each.names[0]
            why.append(
                f"{part}: {column.name} ({column.type}) is {field}"
                + ("" if is_first else f", since there is no column {each.names[0]}")
            )
            break
    if found.get("id") == found.get("btcpay_invoice_id"):
        found.pop("id", None)
    return found, why


def _plans(parts: Mapping[Part, TableMap], catalogue: Catalogue) -> dict[str, str]:
    """Map the names that the rows have and that are the catalogue's but for case and space."""
    known = {str(plan.plan_type) for plan in catalogue.plans} | {str(FREE)}
    values = [value for of in parts.values() for value in seen(of, "plan")]
    return {lowered(value): lowered(value) for value in values if lowered(value) in known}


def telling(part: Part, table: OldTable, document: Mapping[str, Any]) -> list[str]:
    """Return the columns whose values tell what they mean: what may be a status, a plan or an amount."""
    said = [each for each in ("status", "plan", "amount") if each in FIELDS[part]]
    names = {bare(name) for each in said for name in FIELDS[part][each].names}
    named = {document[each] for each in said if isinstance(document.get(each), str)}
    kinds = (ColumnKind.TEXT, ColumnKind.INTEGER, ColumnKind.NUMBER, ColumnKind.BOOLEAN)
    return [
        column.name
        for column in table.columns
        if (bare(column.name) in names or column.name in named) and column.kind in kinds
    ]


def seen(of: TableMap, name: str) -> tuple[str, ...]:
    """Return the different values of the column that says something, if they are few."""
    return of.table.values.get(of.columns.get(name, ""), ())


def unknown_values(made: AdoptionMap) -> list[str]:
    """Say which values of the rows the map does not explain, and where it could."""
    found: list[str] = []
    for part, of in made.parts.items():
        found += [
            f'{part}: plan {value!r} is not in the catalogue; say under [plans] which it is, or "free"'
            for value in seen(of, "plan")
            if lowered(value) not in made.plans
        ]
    found += [
        f"subscriptions: status {value!r} is neither in active nor in ended"
        for value in seen(made.subscriptions, "status")
        if lowered(value) not in (*made.active, *made.ended)
    ]
    if Part.INVOICES in made.parts:
        found += [
            f"invoices: status {value!r} is unknown; say under [invoices.statuses] what it means"
            for value in seen(made.parts[Part.INVOICES], "status")
            if lowered(value) not in made.statuses
        ]
    return found


def _is_in_cents(of: TableMap, catalogue: Catalogue) -> bool:
    """Say whether whole amounts are cents: by the name, or since all are a hundred times a price."""
    column = of.column("amount")
    if column is None or column.kind is not ColumnKind.INTEGER:
        return False
    if "cent" in column.name.lower():
        return True
    prices = {plan.price.amount for plan in catalogue.plans}
    amounts = {Decimal(value) for value in seen(of, "amount")}
    return bool(amounts) and amounts.isdisjoint(prices) and amounts <= {price * 100 for price in prices}
