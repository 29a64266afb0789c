"""``refund``: give credit back through BTCPay, and take back a refund that nobody claimed."""

from typing import Annotated

import typer

from kosmo_billing_daemon.admin.explaining import money
from kosmo_billing_daemon.admin.refunding import Refunding, read_amount
from kosmo_billing_daemon.cli.frame import NAMES_A_USER, AsJson, EnvFile, Reason
from kosmo_billing_daemon.cli.invoices import Name
from kosmo_billing_daemon.cli.opened import OpenedServices, by, run_opened
from kosmo_billing_daemon.cli.rendering import console, line, print_done, print_json
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.refunds import Refund


def make(
    reason: Reason,
    invoice: Annotated[
        str | None, typer.Argument(metavar="INVOICE", help="BTCPay's id of the invoice, or the order id.")
    ] = None,
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help=f"Whose credit instead. {NAMES_A_USER}")
    ] = None,
    amount: Annotated[str | None, typer.Option(help="How much; otherwise all there is.")] = None,
    another: Annotated[
        bool, typer.Option("--another", help="One more, after BTCPay has paid the last.")
    ] = False,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Refund credit by the invoice that brought it in; the customer claims it by a link.

    A repeat shows the same link. Money for an unknown order is refunded by its invoice; that closes its case.
    """
    if (invoice is None) == (user is None):
        raise typer.BadParameter("name an invoice or --user, one of both")

    asked = None if amount is None else read_amount(amount)

    async def work(at: OpenedServices) -> list[Refund]:
        of = (invoice or "") if user is None else await at.user(user)
        return await _refunding(at).refund_all(of, asked, by(reason), another=another)

    made = run_opened(env_file, work)
    if as_json:
        print_json(_json(made[0]) if user is None else [*map(_json, made)])
        return
    for one in made:
        whom = "whoever paid it" if one.user_id is None else f"user {one.user_id}"
        total = money(one.total.amount, one.total.currency)
        if one.paid_at is not None:
            line(console(), f"{total} of invoice {one.btcpay_invoice_id} were paid to {whom} by")
        else:
            line(console(), f"{total} of invoice {one.btcpay_invoice_id} can be claimed by {whom} at")
        line(console(), str(one.link))


def record(
    invoice: Name,
    pull_payment: Annotated[str, typer.Argument(metavar="PULL_PAYMENT", help="BTCPay's id of it.")],
    *,
    reason: Reason,
    amount: Annotated[
        str | None, typer.Option(help="How much a refund in bitcoin was in the invoice's currency.")
    ] = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Book a refund that was made in BTCPay's own pages, so that the ledger agrees."""
    worth = None if amount is None else read_amount(amount)
    booked = run_opened(
        env_file, lambda at: _refunding(at).record(invoice, pull_payment, by(reason), worth=worth)
    )
    total = money(booked.total.amount, booked.total.currency)
    said = f"{total} are booked as refunded to user {booked.user_id}"
    print_done(_json(booked), said, as_json=as_json)


def cancel(invoice: Name, reason: Reason, as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Take back a refund that nobody has claimed; the sum is the user's credit again."""
    taken = run_opened(env_file, lambda at: _refunding(at).cancel(invoice, by(reason)))
    total = money(taken.total.amount, taken.total.currency)
    whose = "need attention" if taken.user_id is None else f"are credit of user {taken.user_id}"
    said = f"the refund is cancelled: {total} {whose} again"
    print_done(_json(taken) | {"cancelled": True}, said, as_json=as_json)


def _refunding(at: OpenedServices) -> Refunding:
    return Refunding(pool=at.pool, btcpay=at.btcpay, clock=utc_now)


def _json(refund: Refund) -> dict[str, object]:
    return {
        "refund": refund.id,
        "user_id": None if refund.user_id is None else str(refund.user_id),
        "invoice_id": refund.btcpay_invoice_id,
        "amount": f"{refund.total.amount:f}",
        "currency": refund.total.currency,
        "link": refund.link,
        "paid": refund.paid_at is not None,
    }


app = typer.Typer(help="Refunds of credit through BTCPay.", no_args_is_help=True)
app.command()(make)
app.command()(cancel)
app.command()(record)
