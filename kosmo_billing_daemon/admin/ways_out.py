"""What each kind of case means, and what an operator can do about one, in plain words.

The command line writes each way out as a command, the console as a button.
"""

from enum import StrEnum
from typing import Final

from kosmo_billing_daemon.domain import ledger as books
from kosmo_billing_daemon.domain.invoices import CaseKind, Invoice
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.listings import ListedCase


class CaseDecision(StrEnum):
    """What can be decided about a case."""

    SETTLE = "settle"
    GIVE = "give"
    GRANT = "grant"
    END_PLAN = "end_plan"
    REFUND = "refund"
    CLOSE = "close"


@record
class WayOut:
    """One decision, and when or why to choose it, as half a sentence."""

    decision: CaseDecision
    when: str


TITLES: Final = {
    CaseKind.LATE_PAYMENT: "Paid too late",
    CaseKind.PARTIAL_PAYMENT: "Paid in part",
    CaseKind.OVERPAID: "Paid too much",
    CaseKind.MISMATCH: "Not what was quoted",
    CaseKind.PAID_INVALID: "Paid, but invalid",
    CaseKind.PAID_TWICE: "Paid twice",
    CaseKind.NOT_FULFILLED: "Could not take effect",
    CaseKind.UNKNOWN_ORDER: "Unknown order",
    CaseKind.NEGATIVE_BALANCE: "Credit below zero",
}

MEANINGS: Final = {
    CaseKind.LATE_PAYMENT: "The payment came too late, so it gave nothing by itself.",
    CaseKind.PARTIAL_PAYMENT: "Less than the price arrived before the invoice expired, so it gave nothing.",
    CaseKind.OVERPAID: "More than the price arrived. What was bought was given; the excess is open.",
    CaseKind.MISMATCH: "BTCPay's invoice differs from what was quoted, so its money gave nothing by itself.",
    CaseKind.PAID_INVALID: "Money arrived, but BTCPay calls the invoice invalid, so it gave nothing.",
    CaseKind.PAID_TWICE: "A further invoice of BTCPay for the same order was paid too, and gave nothing.",
    CaseKind.NOT_FULFILLED: "It was paid, but what was bought could not be given.",
    CaseKind.UNKNOWN_ORDER: "BTCPay received money for an order that this database does not know.",
    CaseKind.NEGATIVE_BALANCE: "Money was taken back after the user had spent it.",
}

_SETTLED_BY_INVOICE: Final = frozenset(
    {
        CaseKind.LATE_PAYMENT,
        CaseKind.PARTIAL_PAYMENT,
        CaseKind.MISMATCH,
        CaseKind.PAID_INVALID,
        CaseKind.NOT_FULFILLED,
    }
)


def ways_out(case: ListedCase) -> list[WayOut]:
    """Return what an operator can do about a case, the most likely first; closing it comes last."""
    invoice = case.invoice
    if case.kind is CaseKind.NEGATIVE_BALANCE:
        return [
            WayOut(CaseDecision.END_PLAN, "end the plan, so that what is left of it is set against this"),
            WayOut(
                CaseDecision.CLOSE,
                "if nobody is to pay it (otherwise it is closed once it is paid back)",
            ),
        ]
    if invoice is None:
        return [
            WayOut(
                CaseDecision.GIVE,
                f"give {case.undecided:f} {case.currency} to the user who paid it, as credit",
            ),
            WayOut(CaseDecision.REFUND, "refund it by a link, by which the payer claims it"),
            WayOut(CaseDecision.CLOSE, "after refunding it in BTCPay's own pages"),
        ]
    ways: list[WayOut] = []
    if case.kind in _SETTLED_BY_INVOICE:
        ways.append(WayOut(CaseDecision.SETTLE, _given(invoice)))
    elif case.kind is CaseKind.PAID_TWICE:
        sum_ = f"{case.undecided:f} {case.currency}"
        ways += [
            WayOut(CaseDecision.GRANT, "give the plan a second time (and close the case)"),
            WayOut(CaseDecision.GIVE, f"make {sum_} the user's credit, which can be refunded"),
        ]
    if is_refundable(invoice):
        ways.append(
            WayOut(
                CaseDecision.REFUND, "refund it by a link, by which the payer claims it (and close the case)"
            )
        )
    if case.kind is CaseKind.NOT_FULFILLED:
        ways.reverse()  # what could not be given then can seldom be given now
    after = "after paying the money back" if case.kind in _SETTLED_BY_INVOICE else _AFTER_EXCESS
    return [*ways, WayOut(CaseDecision.CLOSE, after)]


_AFTER_EXCESS: Final = "after paying the excess back, or if you keep it"


def is_refundable(invoice: Invoice) -> bool:
    """Whether what an invoice brought in, and did not buy anything, is in the books, and so in the credit."""
    return books.unused(invoice) > 0


def _given(invoice: Invoice) -> str:
    if invoice.plan.is_pack:
        return f"add the {invoice.plan.plan_type} pack to the current plan"
    return f"give the {invoice.plan.plan_type} plan, from now on"


def invoice_name(invoice: Invoice) -> str:
    """Return the name operators know: BTCPay's id, or ours where there is none."""
    return invoice.btcpay_invoice_id or str(invoice.id)
