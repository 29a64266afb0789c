"""What operators give back: a refund of credit through BTCPay, its end, and one that was made there."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.explaining import money
from kosmo_billing_daemon.admin.refunding import Refunding, read_amount
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, Preview, Values
from kosmo_billing_daemon.console.user import is_open, user_of
from kosmo_billing_daemon.console.user_forms import described
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict
from kosmo_billing_daemon.store import refunds
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.refunds import Refund

PREVIEW: Final = OperatorAction("console", "a preview, which is undone")


def _refunding(desk: Desk) -> Refunding:
    return Refunding(pool=desk.pool, btcpay=desk.settlement.btcpay, clock=desk.clock)


async def _paid(request: web.Request) -> list[tuple[str, str]]:
    """Return the user's invoices that brought money in which no refund names yet."""
    async with request.app[DESK].pool.connection() as connection:
        found = await refunds.load_receipts(connection, user_of(request))
    return [
        (one.btcpay_invoice_id, f"{one.btcpay_invoice_id}: {money(one.left.amount, one.left.currency)}")
        for one in found
        if one.left.amount > 0
    ]


async def _to_refund(request: web.Request) -> Sequence[FormField]:
    return (
        FormField(
            name="invoice",
            label="Of",
            kind="select",
            options=[("", "all credit, by the invoices that brought it in"), *await _paid(request)],
            is_required=False,
        ),
        FormField(
            name="amount",
            label="Amount",
            kind="number",
            hint="Without it all the credit that can be refunded.",
            is_required=False,
        ),
        FormField(name="another", label="One more, after BTCPay has paid the last", kind="checkbox"),
    )


async def _look_at_refund(desk: Desk, user_id: UserId, given: Values) -> Preview:
    found: list[Refund] = []

    async def order(pool: Pool) -> None:
        refunding = replace(_refunding(desk), pool=pool)
        amount, another = _amount(given["amount"]), bool(given["another"])
        found.extend(await refunding.order(given["invoice"] or user_id, amount, PREVIEW, another=another))

    before, after = await rehearsing.rehearse(desk.pool, user_id, order)
    sums = " and ".join(f"{_total(one)} of invoice {one.btcpay_invoice_id}" for one in found)
    effects = rehearsing.changes(before, after)
    if not effects:
        return Preview(sentence=f"A refund of {sums} is ordered already; its link is shown again.")
    return Preview(
        sentence=f"BTCPay makes a refund of {sums}, which the user claims by a link.",
        effects=effects,
        warning="Whoever has the link can claim the money: send it to nobody but the user.",
    )


async def _refund(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    name, amount, another = given["invoice"], _amount(given["amount"]), bool(given["another"])
    refunding = _refunding(desk)
    if name:
        made = [await refunding.refund(name, amount, by, another=another)]
    else:
        made = await refunding.refund_user(user_id, amount, by, another=another)
    return "; ".join(f"{_total(one)} can be claimed at {one.link}" for one in made)


def _total(refund: Refund) -> str:
    return money(refund.total.amount, refund.total.currency)


def _amount(given: str) -> Decimal | None:
    return read_amount(given) if given else None


async def _ordered(request: web.Request) -> Sequence[FormField]:
    async with request.app[DESK].pool.connection() as connection:
        found = await refunds.load_of_user(connection, user_of(request))
    options = [
        (one.btcpay_invoice_id, f"{_total(one)} of {one.btcpay_invoice_id}") for one in found if is_open(one)
    ]
    return (FormField(name="invoice", label="Refund", kind="select", options=options),)


async def _look_at_cancelling(desk: Desk, user_id: UserId, given: Values) -> Preview:
    async with desk.pool.connection() as connection:
        found = await refunds.load_of_user(connection, user_id)
    sums = [_total(one) for one in found if is_open(one) and one.btcpay_invoice_id == given["invoice"]]
    if not sums:
        raise Conflict("there is no refund to cancel")
    return Preview(sentence=f"Unless somebody claimed it, it is cancelled, and {sums[0]} are credit again.")


async def _cancel(desk: Desk, _: UserId, given: Values, by: OperatorAction) -> str:
    taken = await _refunding(desk).cancel(given["invoice"], by)
    return f"The refund is cancelled: {_total(taken)} are credit again."


async def _made(request: web.Request) -> Sequence[FormField]:
    hint = "The id of the pull payment at BTCPay."
    return (
        FormField(name="invoice", label="Invoice", kind="select", options=await _paid(request)),
        FormField(name="pull_payment", label="Pull payment", hint=hint),
    )


async def _look_at_recording(_desk: Desk, _user_id: UserId, _: Values) -> Preview:
    return Preview(
        sentence="The refund that was made in BTCPay's own pages is booked.",
        warning="The credit falls below zero by it, unless the plan that was paid was taken back before.",
    )


async def _record(desk: Desk, _: UserId, given: Values, by: OperatorAction) -> str:
    booked = await _refunding(desk).record(given["invoice"], given["pull_payment"], by)
    return f"{_total(booked)} are booked as refunded."


FORMS = (
    described(
        "refund",
        "Refund credit",
        _refund,
        verb="Refund",
        look=_look_at_refund,
        fields=_to_refund,
        is_dangerous=True,
    ),
    described(
        "refund/cancel",
        "Cancel a refund",
        _cancel,
        verb="Cancel the refund",
        look=_look_at_cancelling,
        fields=_ordered,
    ),
    described(
        "refund/record",
        "Book a refund made in BTCPay",
        _record,
        verb="Book the refund",
        look=_look_at_recording,
        fields=_made,
    ),
)
