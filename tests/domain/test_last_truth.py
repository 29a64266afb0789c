"""What BTCPay shows last decides about money, whichever states were seen before, and how often (R12-R14)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from kosmo_billing_daemon.btcpay import payloads
from kosmo_billing_daemon.demo.btcpay import state
from kosmo_billing_daemon.demo.btcpay.creation import build_invoice
from kosmo_billing_daemon.demo.btcpay.invoices import (
    PaymentMethod,
    PaymentStatus,
    SimulatedInvoice,
    SimulatedPayment,
    SimulatedStatus,
    new_transaction_id,
)
from kosmo_billing_daemon.demo.btcpay.rendering import in_bitcoin, invoice_json, payment_methods_json
from kosmo_billing_daemon.demo.btcpay.stores import SimulatedStore
from kosmo_billing_daemon.domain import verdicts as rules
from kosmo_billing_daemon.domain.invoices import CaseKind, InvoiceStatus, Observation, needs_confirmation
from kosmo_billing_daemon.domain.ledger import EntryKind, of_invoice
from kosmo_billing_daemon.domain.subscriptions import Refusal
from kosmo_billing_daemon.domain.verdicts import Action
from tests.domain.builders import HOUR, START, STORE, invoice

MINUTE = timedelta(minutes=1)
CENT = Decimal("0.01")


@dataclass(frozen=True)
class Act:
    """One thing that happens to an invoice at BTCPay; ``cents`` are of a payment."""

    kind: str
    cents: int
    method: PaymentMethod


ACTS = st.builds(
    Act,
    st.sampled_from(
        ["pay", "pay", "pay", "confirm", "replace", "lose", "expire", "deadline", "settled", "invalid"]
    ),
    st.sampled_from([1, 50, 250, 410, 500, 700]),
    st.sampled_from(list(PaymentMethod)),
)
LIVES = st.lists(ACTS, min_size=1, max_size=9)


def opened() -> SimulatedInvoice:
    body = {"amount": "5.00", "currency": "USD", "metadata": {"orderId": str(UUID(int=77))}}
    made = build_invoice(body, "{}", SimulatedStore(store_id=STORE, api_key=""), START)
    made.id = "btc-1"
    return made


def happen(at_btcpay: SimulatedInvoice, act: Act, now: datetime) -> None:
    """Let it happen as far as BTCPay's states allow."""
    waiting = [each for each in at_btcpay.payments if each.status is PaymentStatus.PROCESSING]
    final = [each for each in at_btcpay.payments if each.status is PaymentStatus.SETTLED]
    match act.kind:
        case "pay":
            amount, is_final = Decimal(act.cents).scaleb(-2), act.method is PaymentMethod.LIGHTNING
            payment = SimulatedPayment(
                id=new_transaction_id(),
                method=act.method,
                amount=amount,
                value=in_bitcoin(at_btcpay, amount, act.method),
                received=now,
                status=PaymentStatus.SETTLED if is_final else PaymentStatus.PROCESSING,
                destination="",
            )
            state.receive(at_btcpay, payment, now)
        case "confirm":
            state.confirm(at_btcpay, waiting, now)
        case "replace" if waiting:
            state.drop_payment(waiting[-1])
        case "lose" if final:  # to a double spend, where BTCPay accepts what no block has
            state.drop_payment(final[-1])
        case "expire":
            at_btcpay.expires = min(at_btcpay.expires, now)
        case "deadline":
            at_btcpay.monitored_until = min(at_btcpay.monitored_until, now - MINUTE)
        case "settled" | "invalid":
            state.mark(at_btcpay, SimulatedStatus(act.kind.title()))
    state.watch(at_btcpay, now)


def shown(at_btcpay: SimulatedInvoice, now: datetime) -> Observation:
    seen = payloads.observation(invoice_json(at_btcpay, "https://pay.example"))
    if needs_confirmation(seen):
        seen = payloads.confirmed(seen, payment_methods_json(at_btcpay), now)
    return seen


@dataclass(frozen=True)
class End:
    """Sums of the ledger without zeros, and the open cases."""

    sums: dict[EntryKind, Decimal]
    cases: set[tuple[CaseKind, Decimal | None]]


def end_of(truths: Sequence[Observation], *, credit: bool, has_room: bool) -> End:
    """Observe one after the other, and book and list what follows, as settling does."""
    known = invoice()
    sums: dict[EntryKind, Decimal] = {}
    cases: dict[CaseKind, Decimal | None] = {}
    for seen in truths:
        verdict = rules.observe(known, seen, START + HOUR, store_id=STORE)
        if verdict.action is Action.FULFIL and not has_room:
            verdict = rules.refused(verdict, Refusal.PREPAID_CAP)
        if credit:
            verdict = rules.as_credit(verdict)
        for posting in of_invoice(known, verdict.invoice):
            sums[posting.kind] = sums.get(posting.kind, Decimal(0)) + posting.amount
        cases |= {case.kind: case.amount for case in verdict.cases}
        cases = {kind: amount for kind, amount in cases.items() if kind not in verdict.closes}
        known = verdict.invoice
    return End({kind: amount for kind, amount in sums.items() if amount}, set(cases.items()))


@settings(max_examples=500)
@given(LIVES, st.lists(st.integers(0, 2), min_size=9, max_size=9), st.booleans(), st.booleans())
def test_the_last_truth_of_an_invoice_decides_about_its_money(
    life: list[Act], times: list[int], credit: bool, has_room: bool
) -> None:
    """Each state before the last was seen not at all, once or twice."""
    at_btcpay, truths = opened(), []
    for act in life:
        happen(at_btcpay, act, START + MINUTE)
        truths.append(shown(at_btcpay, START + MINUTE))
    path = [seen for seen, count in zip(truths[:-1], times, strict=False) for _ in range(count)]
    last = truths[-1]
    straight = end_of([last], credit=credit, has_room=has_room)
    along = end_of([*path, last], credit=credit, has_room=has_room)
    if last.status is InvoiceStatus.INVALID:
        confirmed = at_btcpay.confirmed
        listed: set[tuple[CaseKind, Decimal | None]] = set()
        if confirmed:
            listed.add((CaseKind.PAID_INVALID, confirmed))
        assert straight == End({}, listed)
        kept = along.sums.get(EntryKind.RECEIVED, Decimal(0))  # which bought nothing before
        assert along.sums == ({EntryKind.RECEIVED: kept} if kept else {})
        assert along.cases == (set() if credit and kept and confirmed - kept < CENT else listed)
        return
    happened = {act.kind for act in life}
    if "lose" not in happened:  # what was given for money that is lost since is not taken back
        assert along.sums == straight.sums
    if at_btcpay.paid == at_btcpay.confirmed and not {"lose", "replace"} & happened:
        # What is still to be confirmed is listed for the time being.
        assert {kind for kind, _ in along.cases} == {kind for kind, _ in straight.cases}
