"""``ledger``: the books, for the accountant (R13)."""

import contextlib
import json
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Annotated

import typer

from kosmo_billing_daemon.admin import entries
from kosmo_billing_daemon.admin.books import Difference, compare
from kosmo_billing_daemon.admin.times import read_period
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile
from kosmo_billing_daemon.cli.opened import OpenedServices, run_opened
from kosmo_billing_daemon.cli.progress import long_work
from kosmo_billing_daemon.cli.rendering import console, line, print_json, print_parts
from kosmo_billing_daemon.store.entries import EntryFilter
from kosmo_billing_daemon.store.postgres import Pool

First = Annotated[str, typer.Option("--from", metavar="DAY", help="The first day (UTC), as 2026-03-01.")]
Last = Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, included.")]


class BookFormat(StrEnum):
    """How entries are written."""

    CSV = "csv"
    JSON = "json"


def export(
    first: First,
    last: Last,
    format_: Annotated[
        BookFormat, typer.Option("--format", help="One line or object per entry.")
    ] = BookFormat.CSV,
    env_file: EnvFile = None,
) -> None:
    """Write every entry from one day to another, oldest first; amount is what it did to the credit."""
    begin, end = read_period(first, last)
    write = _json if format_ is BookFormat.JSON else entries.load_csv
    run_opened(env_file, lambda at: print_parts(write(at.pool, EntryFilter(since=begin, before=end))))


async def _json(pool: Pool, wanted: EntryFilter) -> AsyncGenerator[str]:
    """Give one list, batch after batch, with a line for each entry."""
    before = "["
    async with contextlib.aclosing(entries.load_every(pool, wanted)) as batches:
        async for batch in batches:
            for entry in batch:
                row = dict(zip(entries.HEADINGS, entries.cells(entry), strict=True))
                yield f"{before}\n{json.dumps(row)}"
                before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def check(
    first: First,
    last: Last,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Compare the ledger with BTCPay's list of invoices created in a period; exits with 1 if they differ."""
    begin, end = read_period(first, last)

    async def work(at: OpenedServices) -> list[Difference]:
        with long_work(again="nothing was changed") as shown:
            shown.begin("reading BTCPay's invoices")
            return await compare(at.pool, at.btcpay, begin, end, shown.done)

    found = run_opened(env_file, work)
    if as_json:
        print_json(
            [
                {
                    "invoice_id": each.invoice_id,
                    "order_id": each.order_id,
                    "fact": each.fact,
                    "amount": None if each.amount is None else f"{each.amount:f}",
                    "currency": each.currency,
                }
                for each in found
            ]
        )
    else:
        for each in found:
            line(console(), f"{each.invoice_id or each.order_id}: {each.fact} {each.currency or ''}".rstrip())
        line(console(), f"{len(found)} differences" if found else "the ledger and BTCPay agree")
    if found:
        raise typer.Exit(1)


app = typer.Typer(help="The ledger: what came in, what it bought, and what is left.", no_args_is_help=True)
app.command()(export)
app.command()(check)
