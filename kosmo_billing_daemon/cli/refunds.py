"""``refund``: give credit back through BTCPay, and take back a refund that nobody claimed."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.cli.frame import AsJson, EnvFile, Reason, run
from kosmo_billing_daemon.cli.invoices import Name
from kosmo_billing_daemon.cli.opened import by, opened
from kosmo_billing_daemon.cli.rendering import console, line, money, print_json
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.store.refunds import Refund


def make(
    invoice: Name,
    reason: Reason,
    amount: Annotated[
        str | None, typer.Option(help="How much; otherwise all the credit that the invoice brought in.")
    ] = None,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Refund credit that an invoice brought in; the customer claims it by a link. A repeat shows it again."""

    async def work() -> Refund:
        async with opened(env_file) as at:
            refunding = Refunding(pool=at.pool, btcpay=at.btcpay, clock=utc_now)
            return await refunding.refund(invoice, _amount(amount), by(reason))

    made = run(work())
    if as_json:
        print_json(_json(made))
        return
    line(
        console(), f"{money(made.total.amount, made.total.currency)} can be claimed by user {made.user_id} at"
    )
    line(console(), str(made.link))


def record(
    invoice: Name,
    pull_payment: Annotated[str, typer.Argument(metavar="PULL_PAYMENT", help="BTCPay's id of it.")],
    *,
    reason: Reason,
    as_json: AsJson = False,
    env_file: EnvFile = None,
) -> None:
    """Book a refund that was made in BTCPay's own pages, so that the ledger agrees."""

    async def work() -> Refund:
        async with opened(env_file) as at:
            refunding = Refunding(pool=at.pool, btcpay=at.btcpay, clock=utc_now)
            return await refunding.record(invoice, pull_payment, by(reason))

    booked = run(work())
    if as_json:
        print_json(_json(booked))
        return
    total = money(booked.total.amount, booked.total.currency)
    line(console(), f"{total} are booked as refunded to user {booked.user_id}")


def cancel(invoice: Name, reason: Reason, as_json: AsJson = False, env_file: EnvFile = None) -> None:
    """Take back a refund that nobody has claimed; the sum is the user's credit again."""

    async def work() -> Refund:
        async with opened(env_file) as at:
            refunding = Refunding(pool=at.pool, btcpay=at.btcpay, clock=utc_now)
            return await refunding.cancel(invoice, by(reason))

    taken = run(work())
    if as_json:
        print_json(_json(taken) | {"cancelled": True})
        return
    total = money(taken.total.amount, taken.total.currency)
    line(console(), f"the refund is cancelled: {total} are credit of user {taken.user_id} again")


def _amount(given: str | None) -> Decimal | None:
    if given is None:
        return None
    try:
        amount = Decimal(given)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise Invalid("an amount such as 4.10 is needed", field="amount")
    return amount


def _json(refund: Refund) -> dict[str, object]:
    return {
        "refund": refund.id,
        "user_id": str(refund.user_id),
        "invoice_id": refund.btcpay_invoice_id,
        "amount": f"{refund.total.amount:f}",
        "currency": refund.total.currency,
        "link": refund.link,
    }


app = typer.Typer(help="Refunds of credit through BTCPay.", no_args_is_help=True)
app.command()(make)
app.command()(cancel)
app.command()(record)
