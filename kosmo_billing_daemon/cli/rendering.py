"""How results look: times in UTC, money exact, commands on a line of their own that can be copied whole.

The rule it keeps: what is for machines is one JSON document on standard output; what is for people never
breaks a command over two lines, whatever the terminal's width.
"""

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never
from uuid import UUID

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from kosmo_billing_daemon.admin import explaining
from kosmo_billing_daemon.admin import ways_out as decisions
from kosmo_billing_daemon.admin.explaining import money, when
from kosmo_billing_daemon.admin.ways_out import CaseDecision, invoice_name
from kosmo_billing_daemon.contract.encoding import rfc3339
from kosmo_billing_daemon.domain.invoices import CaseKind, Invoice
from kosmo_billing_daemon.domain.subscriptions import Subscription
from kosmo_billing_daemon.store.listings import ListedCase
from kosmo_billing_daemon.store.lookups import SetAside

PROGRAM = "kosmo-billing"
_PIPE_WIDTH = 160  # where there is no terminal whose width counts


def console() -> Console:
    """Return the console for results; a pipe gets plain lines, wide enough for ids."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def aside() -> Console:
    """Return the console for progress, which never mixes with results."""
    return Console(stderr=True, highlight=False)


def print_json(document: object) -> None:
    """Print one JSON document, dataclasses and times included."""
    sys.stdout.write(json.dumps(plain(document), indent=2) + "\n")
    sys.stdout.flush()


def print_done(document: object, *said: str, as_json: bool) -> None:
    """Print what a command has done: for machines, or in these lines for people."""
    if as_json:
        print_json(document)
        return
    for text in said:
        line(console(), text)


def print_rows(
    document: object, columns: Sequence[str], rows: Iterable[Sequence[str]], *, as_json: bool
) -> None:
    """Print what a command has found: for machines, or as a table for people."""
    if as_json:
        print_json(document)
    else:
        table(console(), columns, rows)


async def print_parts(parts: AsyncGenerator[str]) -> None:
    """Print a document part by part, so that none of it is kept."""
    async with contextlib.aclosing(parts):
        async for part in parts:
            sys.stdout.write(part)


def plain(value: Any) -> Any:
    """Reduce a value to what JSON knows; money becomes text, as exact as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case str():
            return str(value)
        case datetime():
            return rfc3339(value)
        case timedelta():
            return value.total_seconds()
        case Decimal() | UUID() | date():
            return str(value)
        case Iterable():
            return [plain(item) for item in value]
        case _:
            return value


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings, each on one line; cells are never cut, whatever the width.

    Not with rich's ``Table``, which shortens cells without a sign until they fit.
    """
    cells = [tuple(columns), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        padded = (set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True))
        out.print(Text("  ".join(padded).rstrip(), style="bold" if number == 0 else ""), soft_wrap=True)


def heading(out: Console, text: str) -> None:
    out.print()
    out.print(Text(printable(text), style="bold"))


def line(out: Console, text: str) -> None:
    """Print one line: nothing in it is markup or steers the terminal."""
    out.print(Text(printable(text)), soft_wrap=True)


def printable(text: str) -> str:
    """Keep what others sent from steering the terminal (rich lets ESC through)."""
    return "".join(character if character.isprintable() else "?" for character in text)


def command(*words: str) -> str:
    """Write a command of ours as it can be typed."""
    return shlex.join([PROGRAM, *words])


def ways_out(case: ListedCase) -> list[tuple[str, str]]:
    """Return what an operator can do about a case: in words, and the command."""
    return [(way.when, _command_of(way.decision, case)) for way in decisions.ways_out(case)]


def _command_of(decision: CaseDecision, case: ListedCase) -> str:
    number, invoice, user = str(case.number), case.invoice, str(case.user_id)
    why = ("--reason", "TICKET")
    match decision:
        case CaseDecision.SETTLE:
            return command("invoices", "settle", invoice_name(_of(invoice)), *why)
        case CaseDecision.REFUND:
            return command("refund", "make", case.btcpay_invoice_id or str(_of(invoice).id), *why)
        case CaseDecision.GRANT:
            twice = ("--reason", "paid twice: TICKET")
            return command("user", "grant", user, _of(invoice).plan.plan_type, *twice)
        case CaseDecision.GIVE:
            whose = "USER" if case.user_id is None else user
            return command("attention", "give", number, "--user", whose, *why)
        case CaseDecision.END_PLAN:
            return command("user", "revoke", user, "--credit", *why)
        case CaseDecision.CLOSE:
            if case.kind is not CaseKind.NEGATIVE_BALANCE:
                why = ("--reason", "refunded: REFERENCE")
            return command("attention", "close", number, *why)
        case _:
            assert_never(decision)


def _of(invoice: Invoice | None) -> Invoice:
    assert invoice is not None  # noqa: S101 - such a decision is about an invoice
    return invoice


INVOICE_HEADINGS = ("INVOICE", "CREATED", "PLAN", "PRICE", "PAID", "STATUS", "PAYMENT", "EFFECT")


def invoice_row(invoice: Invoice) -> tuple[str, ...]:
    """Return the cells of one invoice under ``INVOICE_HEADINGS``."""
    price = invoice.plan.price
    return (
        invoice_name(invoice),
        when(invoice.created_at),
        invoice.plan.plan_type,
        money(price.amount, price.currency),
        money(invoice.paid_amount, price.currency),
        invoice.status,
        invoice.payment,
        invoice.effect,
    )


def print_needed(
    out: Console,
    title: str,
    said: Iterable[str],
    ways: Iterable[tuple[str, str]],
    style: str = "bold yellow",
) -> None:
    """Print what needs an operator: what it is, and what can be done, in words and as a command."""
    out.print(Text(printable(title), style=style))
    for text in said:
        line(out, f"  {text}")
    for what, how in ways:
        line(out, f"  {what}:")
        line(out, f"    {how}")


def print_case(out: Console, case: ListedCase) -> None:
    """Print one case with the ways out of it."""
    title = f"case {case.number}  {case.kind}"
    said = [case.detail, f"{_about(case)}, since {when(case.opened_at)}"]
    if case.closed_at is None:
        print_needed(out, title, said, ways_out(case))
    else:
        said.append(f"closed {when(case.closed_at)}: {case.resolution}")
        print_needed(out, title, said, (), "dim")


def _about(case: ListedCase) -> str:
    whose = "" if case.user_id is None else f" of user {case.user_id}"
    if case.kind is CaseKind.NEGATIVE_BALANCE:
        return f"credit of {money(-case.undecided, case.currency)}{whose}"
    if case.invoice is None:
        return f"invoice {case.btcpay_invoice_id}{whose}"
    plan, status = case.invoice.plan, case.invoice.status
    price = f"{plan.price.amount} {plan.price.currency}"
    return f"invoice {invoice_name(case.invoice)} ({plan.plan_type}, {price}, {status}){whose}"


_SET_ASIDE = (
    ("if rows are locked, end the session that is named", "SELECT pg_terminate_backend(PID)"),
    ("else see the reason in full", "journalctl -u kosmo-billing"),
)


def print_set_aside(out: Console, one: SetAside) -> None:
    """Print an invoice that could not be looked up or settled, and what to do."""
    about = printable(one.btcpay_invoice_id or str(one.order_id))
    said = (one.why, f"since {when(one.due_since)}, tried {when(one.tried_at)}")
    ways = (*_SET_ASIDE, ("see the invoice", command("invoices", "show", about)))
    print_needed(out, f"set aside  invoice {about}", said, ways)


def set_aside_json(one: SetAside) -> dict[str, Any]:
    """Describe an invoice that could not be looked up or settled, for machines."""
    return {
        "kind": "set_aside",
        "invoice_id": one.btcpay_invoice_id,
        "order_id": one.order_id,
        "detail": one.why,
        "opened_at": one.due_since,
        "tried_at": one.tried_at,
        "commands": [],
    }


def case_json(case: ListedCase) -> dict[str, Any]:
    """Describe a case for machines."""
    return {
        "case": case.number,
        "kind": case.kind,
        "detail": case.detail,
        "amount": case.amount,
        "currency": case.currency,
        "opened_at": case.opened_at,
        "closed_at": case.closed_at,
        "resolution": case.resolution,
        "user_id": case.user_id,
        "invoice_id": case.btcpay_invoice_id,
        "order_id": None if case.invoice is None else case.invoice.id,
        "commands": []
        if case.closed_at
        else [{"when": what, "command": how} for what, how in ways_out(case)],
    }


def invoice_json(invoice: Invoice) -> dict[str, Any]:
    """Describe an invoice for machines."""
    return {
        "invoice_id": invoice.btcpay_invoice_id,
        "order_id": invoice.id,
        "user_id": invoice.user_id,
        "plan_type": None if invoice.plan.is_pack else invoice.plan.plan_type,
        "pack": invoice.plan.plan_type if invoice.plan.is_pack else None,
        "amount": invoice.plan.price.amount,
        "currency": invoice.plan.price.currency,
        "status": invoice.status,
        "payment": invoice.payment,
        "effect": invoice.effect,
        "paid_amount": invoice.paid_amount,
        "created_at": invoice.created_at,
        "expires_at": invoice.expires_at,
        "settled_at": invoice.settled_at,
        "checkout_url": invoice.checkout_url,
    }


def purchase_json(row: Subscription) -> dict[str, Any]:
    """Describe a purchase under the names that the API has for it."""
    told: dict[str, Any] = plain(row)
    names = ("status", "valid_from", "valid_until", "grace_until", "ended_at", "revoked_at")
    return {
        "subscription_id": row.id,
        "order_id": row.invoice_id,
        "source": row.source,
        "plan_type": row.plan.plan_type,
        "price": {"amount": row.plan.price.amount, "currency": row.plan.price.currency},
        **{name: told[name] for name in (*names, "messages_limit", "messages_used")},
        "carried": {
            "rule": row.carried.rule,
            "from_subscription_id": row.carried.from_id,
            "seconds": int(row.carried.time.total_seconds()),
            "messages": row.carried.messages,
        },
        "explanation": explaining.purchase(row),
    }
