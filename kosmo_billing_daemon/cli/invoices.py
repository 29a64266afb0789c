"""``invoices``: look at them, and settle one manually (R6)."""

from typing import Annotated

import typer

from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.admin.ways_out import invoice_name
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.listing import find
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import (
    INVOICE_HEADINGS,
    case_json,
    console,
    heading,
    invoice_json,
    invoice_row,
    line,
    print_case,
    print_done,
    print_json,
    print_rows,
    table,
)
from kosmo_billing_daemon.domain.invoices import Effect, Invoice, InvoiceStatus
from kosmo_billing_daemon.errors import NotFound
from kosmo_billing_daemon.store import deliveries, listings
from kosmo_billing_daemon.store.deliveries import LoggedDelivery
from kosmo_billing_daemon.store.invoices import find_invoice

Name = Annotated[str, typer.Argument(metavar="INVOICE", help="BTCPay's invoice id, or our order id.")]


def list_(
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's.")] = None,
    status: Annotated[InvoiceStatus | None, typer.Option(help="Only those of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List invoices, newest first."""

    async def work(at: OpenedServices) -> list[Invoice]:
        user_id = None if user is None else await at.user(user)
        return await at.pool.read(listings.load_invoices, user_id, status, limit)

    found = run_opened(env_file, work)
    rows = [(*invoice_row(invoice), str(invoice.user_id)) for invoice in found]
    print_rows(map(invoice_json, found), (*INVOICE_HEADINGS, "USER"), rows, as_json=as_json)


def show(invoice: Name, as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Show one invoice, the deliveries about it, and the cases it raised."""

    async def work(at: OpenedServices) -> tuple[Invoice, list[LoggedDelivery], list[listings.ListedCase]]:
        async with at.pool.connection() as connection:
            found = await find_invoice(connection, invoice)
            if found is None:
                raise NotFound(f"there is no invoice {invoice!r}")
            return (
                found,
                await deliveries.load_of_invoice(connection, found, 50),
                await listings.load_cases_of_invoice(connection, found.id),
            )

    found, logged, cases = run_opened(env_file, work)
    if as_json:
        told = [
            {
                "delivery_id": entry.delivery_id,
                "type": entry.type,
                "received_at": entry.received_at,
                "outcome": entry.outcome,
            }
            for entry in logged
        ]
        cases_told = [case_json(case) for case in cases]
        print_json({**invoice_json(found), "deliveries": told, "cases": cases_told})
        return
    out = console()
    table(out, INVOICE_HEADINGS, [invoice_row(found)])
    line(out, f"order {found.id} of user {found.user_id}, expires {when(found.expires_at)}")
    line(out, f"settled {when(found.settled_at)}, checkout {found.checkout_url or '-'}")
    heading(out, "Deliveries")
    rows = [(when(entry.received_at), entry.type, entry.outcome) for entry in logged]
    table(out, ("RECEIVED", "TYPE", "OUTCOME"), rows)
    for case in cases:
        out.print()
        print_case(out, case)


def settle(
    invoice: Name,
    reason: Reason,
    unpaid: Annotated[bool, typer.Option("--unpaid", help="Even if no money was ever seen on it.")] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Give what an invoice was for, from now on, and close its cases. A repeat changes nothing."""
    settled, changed = run_opened(
        env_file, lambda at: at.operations.settle(invoice, by(reason), unpaid=unpaid)
    )
    done = "fulfilled now" if changed and settled.effect is Effect.FULFILLED else "had been fulfilled before"
    said = f"invoice {invoice_name(settled)} ({settled.plan.plan_type}) of user {settled.user_id} {done}"
    print_done({**invoice_json(settled), "changed": changed}, said, as_json=as_json)


app = typer.Typer(help="Invoices: look at them, settle one manually.", no_args_is_help=True)
app.command("list")(list_)
app.command()(find)
app.command()(show)
app.command()(settle)
