"""Refunds: which are open, claimed or cancelled; making, cancelling and recording one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from aiohttp import web

from kosmo_billing_daemon.admin import refund_list, rehearsing
from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.btcpay import refunds as at_btcpay
from kosmo_billing_daemon.btcpay.refunds import Claim, ClaimState
from kosmo_billing_daemon.console.attention import NUMBER, next_case
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.forms import FormField, OperatorForm, Preview, Values
from kosmo_billing_daemon.console.refund_actions import PREVIEW, amount_of, refunding, total
from kosmo_billing_daemon.console.rendering import render, url
from kosmo_billing_daemon.errors import Invalid, NotFound, Refused, Unavailable
from kosmo_billing_daemon.store import refunds
from kosmo_billing_daemon.store.postgres import Connection, Pool, Rehearsal
from kosmo_billing_daemon.store.refunds import Refund

PER_PAGE: Final = 25

_CLAIM_WORDS: Final = {
    ClaimState.AWAITING_APPROVAL: ("claimed, approve it in BTCPay", "warn"),
    ClaimState.AWAITING_PAYMENT: ("claimed, being paid", "warn"),
    ClaimState.IN_PROGRESS: ("claimed, being paid", "warn"),
    ClaimState.COMPLETED: ("paid out", "good"),
    ClaimState.CANCELLED: ("claim cancelled", "quiet"),
}


async def _show(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    before = request.query.get("before", "")
    if before and not (before.isascii() and before.isdecimal() and len(before) < 19):
        raise Invalid("The address is none of ours: start with the first page.")
    page = await refund_list.load_page(desk.pool, int(before) if before else None, PER_PAGE)
    claims: dict[int, list[Claim]] = {}
    trouble = ""
    is_asked = "ask" in request.query
    if is_asked:
        try:
            claims = await refund_list.fetch_claims(desk.settlement.btcpay, page.refunds)
        except (Refused, Unavailable) as error:
            trouble = error.message
    return render(
        request,
        "refunds.html",
        rows=[(one, _state(one, claims.get(one.id), is_asked=is_asked)) for one in page.refunds],
        trouble=trouble,
        ask=f"/refunds?ask=yes&before={before}" if before else "/refunds?ask=yes",
        first="/refunds" if before else "",
        next=f"/refunds?before={page.next}" if page.next else "",
    )


def _state(one: Refund, claims: list[Claim] | None, *, is_asked: bool) -> tuple[str, str]:
    """Say in a word and a tone where a refund stands; whether it is claimed, only BTCPay knows."""
    if one.cancelled_at is not None:
        return "cancelled", "quiet"
    if one.paid_at is not None:
        return "paid out", "good"
    if one.pull_payment_id is None:
        return "not known at BTCPay: make it again", "bad"
    if claims:
        return _CLAIM_WORDS[claims[-1].state]
    if one.is_recorded:
        return "recorded", "good"
    return ("open, not claimed", "warn") if is_asked and claims is not None else ("open", "warn")


def _case(request: web.Request) -> str:
    """Return the case from which a refund is made, if one is named."""
    number = request.query.get("case", "")
    return number if number.isascii() and number.isdecimal() and len(number) < 19 else ""


def _back(request: web.Request) -> str:
    """Return the page from which an operator came: a case, a user, or the list."""
    if _case(request):
        return f"/attention/{_case(request)}"
    try:
        return f"/users/{UUID(request.query['user'])}"
    except (KeyError, ValueError):
        return "/refunds"


async def _after_making(request: web.Request) -> str:
    """Go back to the case, or on to the next if the refund has closed it."""
    return await next_case(request, int(_case(request))) if _case(request) else _back(request)


async def _what(_: web.Request) -> Sequence[FormField]:
    return (
        FormField(name="invoice", label="Invoice", hint="BTCPay's id of it, or our order id.", longest=200),
        FormField(
            name="amount",
            label="Amount",
            kind="number",
            hint="Empty: all the credit that the invoice brought in.",
            is_required=False,
            longest=50,
        ),
        FormField(
            name="another",
            label="One more, after BTCPay has paid the last",
            kind="checkbox",
            hint="Otherwise a repeat changes nothing, so that nobody is paid twice.",
            is_required=False,
        ),
    )


async def _preview_making(request: web.Request, given: Values) -> Preview:
    desk = request.app[DESK]
    found: list[Refund] = []

    async def order(pool: Pool) -> None:
        actions = replace(refunding(desk), pool=pool)
        amount, another = amount_of(given), bool(given["another"])
        found[:], _ = await actions.order(given["invoice"], amount, PREVIEW, another=another)

    await order(Rehearsal(desk.pool, _look_at_nothing))
    (one,) = found
    effects = [("Invoice", one.btcpay_invoice_id)]
    if one.pull_payment_id is not None:
        return Preview(sentence="It is ordered already; its link is shown again.", effects=effects)
    if one.user_id is None:
        effects.append(("Its case", "is closed"))
    else:
        before, after = await rehearsing.rehearse(desk.pool, one.user_id, order)
        effects += rehearsing.changes(before, after)
    sum_ = total(one)
    whom = "whoever paid it" if one.user_id is None else f"user {one.user_id}"
    return Preview(
        sentence=f"BTCPay makes a link by which {whom} can claim {sum_}.",
        effects=effects,
        warning="Whoever has the link can claim the money: give it to nobody but the payer.",
    )


async def _look_at_nothing(_: Connection) -> None:
    """What is ordered is returned."""


async def _make(request: web.Request, given: Values, by: OperatorAction) -> str:
    made = await refunding(request.app[DESK]).refund(
        given["invoice"], amount_of(given), by, another=bool(given["another"])
    )
    sum_ = total(made)
    if made.paid_at is not None:
        return f"{sum_} of this invoice were refunded before; nothing was changed."
    onward = f" Now close case {_case(request)}." if _case(request) and made.user_id is not None else ""
    return f"{sum_} can be claimed at {made.link}; the list of refunds keeps the link.{onward}"


async def _chosen(request: web.Request) -> Refund:
    number = int(request.match_info["number"])
    found = await request.app[DESK].pool.read(refunds.load, number)
    if found is None:
        raise NotFound(f"there is no refund {number}")
    return found


async def _about(request: web.Request) -> str:
    refund = await _chosen(request)
    return f"{total(refund)} {_to(refund)}"


def _to(refund: Refund) -> str:
    return f"of invoice {refund.btcpay_invoice_id}" if refund.user_id is None else f"to user {refund.user_id}"


async def _preview_cancelling(request: web.Request, _: Values) -> Preview:
    refund = await _chosen(request)
    sum_ = total(refund)
    return Preview(
        sentence=f"The link ends, and {sum_} need attention again."
        if refund.user_id is None
        else f"The link ends, and {sum_} are credit of user {refund.user_id} again.",
        effects=[] if refund.user_id is None else [("Credit", f"+{sum_}")],
        warning="This is refused if somebody has claimed it meanwhile.",
    )


async def _cancel(request: web.Request, _: Values, by: OperatorAction) -> str:
    refund = await _chosen(request)
    taken = await refunding(request.app[DESK]).cancel(refund.btcpay_invoice_id, by)
    return f"The refund of {total(taken)} is cancelled."


async def _which(_: web.Request) -> Sequence[FormField]:
    return (
        FormField(name="invoice", label="Invoice", hint="BTCPay's id of it, or our order id.", longest=200),
        FormField(name="pull_payment", label="Pull payment", hint="BTCPay's id of it.", longest=200),
    )


async def _preview_recording(request: web.Request, given: Values) -> Preview:
    made = await at_btcpay.fetch(request.app[DESK].settlement.btcpay, given["pull_payment"])
    if made is None:
        raise NotFound(f"BTCPay has no pull payment {given['pull_payment']!r}")
    sum_ = total(made)
    return Preview(
        sentence=f"{sum_} are booked as refunded, as BTCPay made it: {made.name or 'without a name'}.",
        effects=[("Credit", f"-{sum_}"), ("At BTCPay", "archived" if made.is_archived else "can be claimed")],
        warning="If the plan that this money paid for stands, the credit falls below zero, which is a case.",
    )


async def _record(request: web.Request, given: Values, by: OperatorAction) -> str:
    booked = await refunding(request.app[DESK]).record(given["invoice"], given["pull_payment"], by)
    sum_ = total(booked)
    return f"{sum_} are booked as refunded: {_to(booked)}."


FORMS = (
    OperatorForm(
        path="/refunds/make",
        title="Refund through BTCPay",
        verb="Make the refund",
        intro="What a user has in credit goes back: BTCPay makes a link, by which the payer claims it.",
        fields=_what,
        preview=_preview_making,
        run=_make,
        back=_back,
        then=_after_making,
    ),
    OperatorForm(
        path="/refunds/record",
        title="Record a refund",
        verb="Record it",
        intro="One that was made in BTCPay's own pages, so that the ledger agrees.",
        fields=_which,
        preview=_preview_recording,
        run=_record,
        back=lambda _: "/refunds",
    ),
    OperatorForm(
        path=f"/refunds/{NUMBER}/cancel",
        title="Cancel the refund",
        verb="Cancel the refund",
        intro="Only what nobody has claimed can be taken back.",
        preview=_preview_cancelling,
        run=_cancel,
        back=_back,
        about=_about,
        is_dangerous=True,
    ),
)

ROUTES = (web.get(url("/refunds"), _show),)
