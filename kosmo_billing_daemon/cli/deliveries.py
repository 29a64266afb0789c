"""``deliveries``: which webhooks of BTCPay arrived, and which of them are about no order of ours."""

from typing import Annotated

import typer

from kosmo_billing_daemon.admin.explaining import when
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile
from kosmo_billing_daemon.cli.opened import run_opened
from kosmo_billing_daemon.cli.rendering import print_rows
from kosmo_billing_daemon.store import deliveries


def list_(
    not_ours: Annotated[
        bool, typer.Option("--not-ours", help="Only those about invoices that are no order of ours.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """List webhook deliveries, newest first.

    Those that are not ours come from other uses of the store, or from a database that lost orders.
    """
    found = run_opened(env_file, lambda at: at.pool.read(deliveries.load_newest, limit, not_ours=not_ours))
    rows = [
        (
            when(one.received_at),
            one.type,
            one.btcpay_invoice_id or "-",
            one.order_id or "-",
            one.store_id or "-",
            one.outcome,
        )
        for one in found
    ]
    columns = ("RECEIVED", "TYPE", "INVOICE", "ORDER", "STORE", "OUTCOME")
    print_rows(found, columns, rows, as_json=as_json)


app = typer.Typer(help="Webhooks that BTCPay delivered.", no_args_is_help=True)
app.command("list")(list_)
