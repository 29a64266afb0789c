"""What operators give back to a user: a refund of credit through BTCPay, and one that was made there."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.refunding import Refunding, read_amount
from kosmo_billing_daemon.btcpay.refunds import PullPayment
from kosmo_billing_daemon.console.desk import DESK, Desk
from kosmo_billing_daemon.console.forms import FormField, Preview, Values
from kosmo_billing_daemon.console.rendering import money
from kosmo_billing_daemon.console.user import user_of
from kosmo_billing_daemon.console.user_forms import user_form
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.store import refunds
from kosmo_billing_daemon.store.postgres import Pool
from kosmo_billing_daemon.store.refunds import Refund

PREVIEW: Final = OperatorAction("console", "a preview, which is undone")


def refunding(desk: Desk) -> Refunding:
    """Return the actions, as this desk carries them out."""
    return Refunding(pool=desk.pool, btcpay=desk.settlement.btcpay, clock=desk.clock)


async def _paid(request: web.Request) -> list[tuple[str, str]]:
    """Return the user's invoices that brought money in which no refund names yet."""
    found = await request.app[DESK].pool.read(refunds.load_receipts, user_of(request))
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
        actions = replace(refunding(desk), pool=pool)
        amount, another = amount_of(given), bool(given["another"])
        found[:], _ = await actions.order(given["invoice"] or user_id, amount, PREVIEW, another=another)

    before, after = await rehearsing.rehearse(desk.pool, user_id, order)
    sums = " and ".join(f"{total(one)} of invoice {one.btcpay_invoice_id}" for one in found)
    effects = rehearsing.changes(before, after)
    if not effects:
        return Preview(sentence=f"A refund of {sums} is ordered already; its link is shown again.")
    return Preview(
        sentence=f"BTCPay makes a refund of {sums}, which the user claims by a link.",
        effects=effects,
        warning="Whoever has the link can claim the money: send it to nobody but the user.",
    )


async def _refund(desk: Desk, user_id: UserId, given: Values, by: OperatorAction) -> str:
    of, amount, another = given["invoice"] or user_id, amount_of(given), bool(given["another"])
    made = await refunding(desk).refund_all(of, amount, by, another=another)
    return "; ".join(f"{total(one)} can be claimed at {one.link}" for one in made)


def total(refund: Refund | PullPayment) -> str:
    """Write the sum of a refund."""
    return money(refund.total.amount, refund.total.currency)


def amount_of(given: Values) -> Decimal | None:
    """Read the amount that was typed, if any was."""
    return read_amount(given["amount"]) if given["amount"] else None


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
    booked = await refunding(desk).record(given["invoice"], given["pull_payment"], by)
    return f"{total(booked)} are booked as refunded."


FORMS = (
    user_form(
        "refund",
        "Refund credit",
        _refund,
        verb="Refund",
        will=_look_at_refund,
        fields=_to_refund,
        is_dangerous=True,
    ),
    user_form(
        "refund/record",
        "Book a refund made in BTCPay",
        _record,
        verb="Book the refund",
        will=_look_at_recording,
        fields=_made,
    ),
)
