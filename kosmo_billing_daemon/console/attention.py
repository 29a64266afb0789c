"""The queue of what needs an operator: open cases, worked off one after another, and the closed ones."""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from kosmo_billing_daemon.admin import attention, timeline
from kosmo_billing_daemon.admin.ways_out import MEANINGS, TITLES, CaseDecision, WayOut, ways_out
from kosmo_billing_daemon.console.desk import DESK
from kosmo_billing_daemon.console.places import read_place, write_place
from kosmo_billing_daemon.console.rendering import render, sentence, url, with_query
from kosmo_billing_daemon.domain.invoices import CaseKind, Effect, InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.errors import NotFound, Refused, Unavailable
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store import listings
from kosmo_billing_daemon.store.audit import AuditEntry
from kosmo_billing_daemon.store.listings import ListedCase

PAGE: Final = 50
NUMBER: Final = r"{number:\d{1,18}}"

STATUS_WORDS: Final = {
    InvoiceStatus.RESERVED: "being opened",
    InvoiceStatus.NEW: "waiting for the payment",
    InvoiceStatus.PROCESSING: "paid, not confirmed yet",
    InvoiceStatus.SETTLED: "settled",
    InvoiceStatus.EXPIRED: "expired",
    InvoiceStatus.INVALID: "invalid",
    InvoiceStatus.ABANDONED: "never opened",
}
PAYMENT_WORDS: Final = {
    Payment.NONE: "",
    Payment.PARTIAL: "paid in part",
    Payment.OVER: "paid too much",
    Payment.LATE: "paid late",
    Payment.MARKED: "marked by hand",
}
EFFECT_WORDS: Final = {
    Effect.NONE: "gave nothing",
    Effect.FULFILLED: "gave what was bought",
    Effect.REVOKED: "taken back, as BTCPay calls it invalid",
    Effect.CREDITED: "its money became credit",
    Effect.WITHDRAWN: "taken back by an operator",
    Effect.DECLINED: "closed without giving anything",
}


@record
class CaseButton:
    """How a decision about a case is shown: where it leads, its label and key, and whether it is likely."""

    to: str
    label: str
    key: str
    when: str
    is_main: bool


def _buttons(case: ListedCase, done: Sequence[AuditEntry]) -> list[CaseButton]:
    """Return what can be decided about a case; once its money is refunded, say, it is to be closed."""
    ways = [] if case.closed_at else ways_out(case)
    likely = CaseDecision.CLOSE if any(_answers(one, case) for one in done) else None
    return [
        _button(case, way, is_main=way.decision is likely or (likely is None and way is ways[0]))
        for way in ways
    ]


def _answers(done: AuditEntry, case: ListedCase) -> bool:
    """Whether an operator did what a case asks for, but for closing it."""
    if case.kind is CaseKind.PAID_TWICE and done.action == "user.grant":
        return True
    if case.kind is CaseKind.NEGATIVE_BALANCE:
        return done.action == "user.cash"
    return done.action == "invoice.refund" and (case.btcpay_invoice_id or "") in done.subject


def _button(case: ListedCase, way: WayOut, *, is_main: bool) -> CaseButton:
    at, invoice = f"/attention/{case.number}", case.invoice
    label, key = _LABELS[way.decision]
    to = f"{at}/{way.decision.replace('_', '-')}"
    if way.decision is CaseDecision.REFUND:
        to = with_query("/refunds/make", {"invoice": case.btcpay_invoice_id or "", "case": str(case.number)})
    if way.decision is CaseDecision.GIVE and case.user_id is not None:
        label, key = "Make it credit", "m"
    if way.decision is CaseDecision.SETTLE and invoice is not None and invoice.plan.is_pack:
        label = "Add the pack"
    return CaseButton(to, label, key, sentence(way.when), is_main)


_LABELS: Final = {
    CaseDecision.SETTLE: ("Give the plan", "g"),
    CaseDecision.GIVE: ("Give to a user", "g"),
    CaseDecision.GRANT: ("Give the plan again", "g"),
    CaseDecision.END_PLAN: ("End the plan", "e"),
    CaseDecision.REFUND: ("Refund", "r"),
    CaseDecision.CLOSE: ("Close the case", "c"),
}


async def _list(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    start = read_place(request.query.get("from", ""))
    found = await attention.load(desk.pool, desk.clock, PAGE, start)
    return render(
        request,
        "attention.html",
        found=found,
        titles=TITLES,
        first="/attention" if start else "",
        next=f"/attention?from={write_place(found.next)}" if found.next else "",
    )


async def _closed(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    start = read_place(request.query.get("from", ""))
    cases, onward = await attention.load_closed(desk.pool, PAGE, start)
    return render(
        request,
        "closed_cases.html",
        cases=cases,
        titles=TITLES,
        first="/attention/closed" if start else "",
        next=f"/attention/closed?from={write_place(onward)}" if onward else "",
    )


async def _show(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    found = await attention.load_case(desk.pool, case_number(request), PAGE)
    case = found.case
    seen, trouble = None, ""
    if "ask" in request.query:
        try:
            seen = await _ask(request, case)
        except (Unavailable, Refused) as error:
            trouble = error.message
    return render(
        request,
        "case.html",
        found=found,
        case=case,
        invoice=case.invoice,
        title=TITLES[case.kind],
        titles=TITLES,
        meaning=MEANINGS[case.kind],
        buttons=_buttons(case, found.done),
        done=[timeline.by_operator(one) for one in found.done],
        btcpay_words=STATUS_WORDS,
        payment_words=PAYMENT_WORDS,
        effect_words=EFFECT_WORDS,
        seen=seen,
        trouble=trouble,
    )


async def _ask(request: web.Request, case: ListedCase) -> Observation:
    """Read the invoice at BTCPay as it is now, with what of its money is confirmed."""
    btcpay = request.app[DESK].settlement.btcpay
    seen = await btcpay.fetch_invoice(case.btcpay_invoice_id or "")
    if seen is None:
        raise NotFound("BTCPay has no invoice of this id")
    return await btcpay.fetch_confirmations(seen) if seen.paid_amount else seen


async def next_case(request: web.Request, number: int) -> str:
    """Return where an action on a case leads: the next open one, or this one while it is open."""
    pool = request.app[DESK].pool
    case = await pool.read(listings.load_case, number)
    if case is None:
        return "/attention"
    if case.closed_at is None:
        return f"/attention/{number}"
    following = await attention.load_next(pool, case)
    return "/attention" if following is None else f"/attention/{following}"


def case_number(request: web.Request) -> int:
    return int(request.match_info["number"])


ROUTES = (
    web.get(url("/attention"), _list),
    web.get(url("/attention/closed"), _closed),
    web.get(url(f"/attention/{NUMBER}"), _show),
)
