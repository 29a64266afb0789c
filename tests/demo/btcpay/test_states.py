"""Every row of BTCPay's table of states, with exactly the events a webhook sees."""

from decimal import Decimal

import pytest

from kosmo_billing_daemon.demo.btcpay import GreenfieldRefused, SimulatedInvoice, Simulator
from tests.demo.btcpay.conftest import Api, HandClock, Receiver

CREATED = "InvoiceCreated"
RECEIVED = "InvoiceReceivedPayment"
CONFIRMED = "InvoicePaymentSettled"
PROCESSING = "InvoiceProcessing"
SETTLED = "InvoiceSettled"
EXPIRED = "InvoiceExpired"
EXPIRED_PARTIAL = "InvoiceExpiredPaidPartial"
PAID_LATE = "InvoicePaidAfterExpiration"
INVALID = "InvoiceInvalid"

pytestmark = pytest.mark.usefixtures("hook")

JOURNEYS: list[tuple[str, list[str], str, list[str]]] = [
    ("create", [], "New/None", []),
    ("part payment", ["pay_partial"], "New/PaidPartial", [RECEIVED]),
    ("full payment", ["pay"], "Processing/None", [RECEIVED, PROCESSING]),
    ("over-payment", ["pay_over"], "Processing/PaidOver", [RECEIVED, PROCESSING]),
    ("confirmed", ["pay", "confirm"], "Settled/None", [RECEIVED, PROCESSING, CONFIRMED, SETTLED]),
    (
        "over, confirmed",
        ["pay_over", "confirm"],
        "Settled/PaidOver",
        [RECEIVED, PROCESSING, CONFIRMED, SETTLED],
    ),
    ("lightning", ["pay BTC-LN"], "Settled/None", [CONFIRMED, RECEIVED, PROCESSING, SETTLED]),
    (
        "two part payments",
        ["pay_partial", "pay", "confirm"],
        "Settled/None",
        [RECEIVED, RECEIVED, PROCESSING, CONFIRMED, CONFIRMED, SETTLED],
    ),
    ("replaced", ["pay", "replace_payment"], "New/None", [RECEIVED, PROCESSING]),
    (
        "one of two replaced",
        ["pay_partial", "pay", "replace_payment"],
        "New/PaidPartial",
        [RECEIVED, RECEIVED, PROCESSING],
    ),
    (
        "paid again after replacement",
        ["pay", "replace_payment", "pay", "confirm"],
        "Settled/None",
        [RECEIVED, PROCESSING, RECEIVED, PROCESSING, CONFIRMED, SETTLED],
    ),
    ("expired", ["expire"], "Expired/None", [EXPIRED]),
    (
        "expired partly paid",
        ["pay_partial", "expire"],
        "Expired/PaidPartial",
        [RECEIVED, EXPIRED, EXPIRED_PARTIAL],
    ),
    ("late", ["pay_late"], "Expired/PaidLate", [EXPIRED, RECEIVED, PAID_LATE]),
    (
        "late, confirmed",
        ["pay_late", "confirm"],
        "Expired/PaidLate",
        [EXPIRED, RECEIVED, PAID_LATE, CONFIRMED],
    ),
    (
        "late by lightning",
        ["expire", "pay_late BTC-LN"],
        "Expired/PaidLate",
        [EXPIRED, CONFIRMED, RECEIVED, PAID_LATE],
    ),
    ("late and short", ["expire", "pay_partial"], "Expired/PaidPartial", [EXPIRED, RECEIVED]),
    (
        "late completes a part payment",
        ["pay_partial", "expire", "pay_late"],
        "Expired/PaidLate",
        [RECEIVED, EXPIRED, EXPIRED_PARTIAL, RECEIVED, PAID_LATE],
    ),
    ("new marked settled", ["mark_settled"], "Settled/Marked", [SETTLED]),
    ("new marked invalid", ["mark_invalid"], "Invalid/Marked", [INVALID]),
    ("processing marked settled", ["pay", "mark_settled"], "Settled/Marked", [RECEIVED, PROCESSING, SETTLED]),
    ("processing marked invalid", ["pay", "mark_invalid"], "Invalid/Marked", [RECEIVED, PROCESSING, INVALID]),
    (
        "late marked settled",
        ["pay_late", "mark_settled"],
        "Settled/Marked",
        [EXPIRED, RECEIVED, PAID_LATE, SETTLED],
    ),
    ("expired marked invalid", ["expire", "mark_invalid"], "Invalid/Marked", [EXPIRED, INVALID]),
    (
        "marked to and fro",
        ["mark_settled", "mark_invalid", "mark_settled", "mark_invalid"],
        "Invalid/Marked",
        [SETTLED, INVALID, SETTLED, INVALID],
    ),
    (
        "confirmed after marked invalid",
        ["pay", "mark_invalid", "confirm"],
        "Invalid/Marked",
        [RECEIVED, PROCESSING, INVALID, CONFIRMED],
    ),
]


def _state(invoice: SimulatedInvoice) -> str:
    return f"{invoice.status}/{invoice.additional_status}"


async def _do(simulator: Simulator, invoice_id: str, *steps: str) -> SimulatedInvoice:
    for step in steps:
        action, _, method = step.partition(" ")
        await simulator.act(invoice_id, action, method=method or None)
    return simulator.invoices[invoice_id]


@pytest.mark.parametrize("journey", [rest for _, *rest in JOURNEYS], ids=[name for name, *_ in JOURNEYS])
async def test_journey_ends_in_the_state_and_sends_the_events_of_the_table(
    api: Api, simulator: Simulator, receiver: Receiver, journey: tuple[list[str], str, list[str]]
) -> None:
    steps, state, events = journey
    invoice_id = (await api.create())["id"]
    invoice = await _do(simulator, invoice_id, *steps)
    assert _state(invoice) == state
    await simulator.drained()
    assert receiver.types == [CREATED, *events]
    shown = await api.invoice(invoice_id)
    assert f"{shown['status']}/{shown['additionalStatus']}" == state


async def test_invoice_expires_by_the_clock_one_second_after_its_expiry(
    api: Api, simulator: Simulator, receiver: Receiver, clock: HandClock
) -> None:
    invoice_id = (await api.create(checkout={"expirationMinutes": 10}))["id"]
    clock.move(minutes=10)
    assert (await api.invoice(invoice_id))["status"] == "New"
    clock.move(seconds=1)
    assert (await api.invoice(invoice_id))["status"] == "Expired"
    await simulator.drained()
    assert receiver.types == [CREATED, EXPIRED]
    assert receiver.requests[-1].body["partiallyPaid"] is False


async def test_timer_expires_an_invoice_nobody_asks_for(
    api: Api, receiver: Receiver, clock: HandClock
) -> None:
    await api.create()
    clock.move(minutes=16)
    await receiver.wait_for(2)
    assert receiver.types == [CREATED, EXPIRED]


async def test_unconfirmed_payment_makes_the_invoice_invalid_at_the_monitoring_deadline(
    api: Api, simulator: Simulator, receiver: Receiver, clock: HandClock
) -> None:
    invoice_id = (await api.create(checkout={"expirationMinutes": 10, "monitoringMinutes": 60}))["id"]
    await _do(simulator, invoice_id, "pay")
    clock.move(minutes=11)
    assert (await api.invoice(invoice_id))["status"] == "Processing"
    clock.move(minutes=60)
    assert _state(simulator.invoices[invoice_id]) == "Invalid/None"
    await _do(simulator, invoice_id, "confirm")
    assert _state(simulator.invoices[invoice_id]) == "Invalid/None"
    await simulator.drained()
    assert receiver.types == [CREATED, RECEIVED, PROCESSING, INVALID, CONFIRMED]
    assert receiver.requests[3].body["manuallyMarked"] is False
    assert receiver.requests[4].body["afterExpiration"] is True


async def test_payment_replaced_after_expiry_leaves_the_invoice_new_until_the_next_look(
    api: Api, simulator: Simulator, receiver: Receiver, clock: HandClock
) -> None:
    invoice_id = (await api.create(checkout={"expirationMinutes": 10, "monitoringMinutes": 60}))["id"]
    await _do(simulator, invoice_id, "pay")
    clock.move(minutes=11)
    assert (await api.invoice(invoice_id))["status"] == "Processing"
    assert _state(await _do(simulator, invoice_id, "replace_payment")) == "New/None"
    clock.move(minutes=60)
    assert (await api.invoice(invoice_id))["status"] == "Expired"
    await simulator.drained()
    assert receiver.types == [CREATED, RECEIVED, PROCESSING, EXPIRED]


async def test_settled_is_final_for_an_extra_payment(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    invoice_id = (await api.create())["id"]
    await _do(simulator, invoice_id, "pay", "confirm")
    await simulator.act(invoice_id, "pay", amount="2.50")
    shown = await api.invoice(invoice_id)
    assert (shown["status"], shown["additionalStatus"], shown["paidAmount"]) == ("Settled", "None", "7.50")
    await simulator.drained()
    assert receiver.types[-1] == RECEIVED
    assert receiver.requests[-1].body["afterExpiration"] is False


async def test_replacement_that_pays_less_falls_back_to_paid_partial(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    await _do(simulator, invoice_id, "pay")
    invoice = await simulator.act(invoice_id, "replace_payment", amount="1.00")
    assert _state(invoice) == "New/PaidPartial"
    assert invoice.paid == Decimal("1.00")


async def test_payment_within_the_tolerance_is_paid_in_full(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create("100", checkout={"paymentTolerance": 5}))["id"]
    assert _state(await simulator.act(invoice_id, "pay", amount="94.99")) == "New/PaidPartial"
    assert _state(await simulator.act(invoice_id, "pay", amount="0.01")) == "Processing/None"


async def test_paid_amount_counts_unconfirmed_payments(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    await simulator.act(invoice_id, "pay", amount="2.00")
    assert (await api.invoice(invoice_id))["paidAmount"] == "2.00"


async def test_free_invoice_settles_at_once_without_payment_methods(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    created = await api.create("0")
    assert created["status"] == "New"
    shown = await api.invoice(created["id"])
    assert shown["status"] == "Settled"
    assert shown["checkout"]["paymentMethods"] == []
    await simulator.drained()
    assert receiver.types == [CREATED, PROCESSING, SETTLED]


async def test_any_payment_settles_a_top_up_and_becomes_its_price(api: Api, simulator: Simulator) -> None:
    created = await api.create(None)
    assert (created["type"], created["amount"]) == ("TopUp", "0")
    await simulator.act(created["id"], "pay", amount="3.00")
    await simulator.act(created["id"], "confirm")
    shown = await api.invoice(created["id"])
    assert (shown["amount"], shown["status"], shown["additionalStatus"]) == ("3.00", "Settled", "None")


async def test_top_up_paid_late_keeps_no_price(api: Api, simulator: Simulator) -> None:
    created = await api.create(None)
    await _do(simulator, created["id"], "pay_late", "confirm")
    shown = await api.invoice(created["id"])
    assert (shown["amount"], shown["additionalStatus"]) == ("0", "PaidLate")


async def test_flags_of_the_settled_event_tell_marked_and_overpaid(
    api: Api, simulator: Simulator, receiver: Receiver
) -> None:
    await _do(simulator, (await api.create())["id"], "pay_over", "confirm")
    await _do(simulator, (await api.create())["id"], "pay_over", "mark_settled")
    await simulator.drained()
    settled = [received.body for received in receiver.requests if received.type == SETTLED]
    assert [(body["manuallyMarked"], body["overPaid"]) for body in settled] == [(False, True), (True, False)]


async def test_naturally_settled_invoice_can_not_be_marked(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create())["id"]
    await _do(simulator, invoice_id, "pay", "confirm")
    assert (await api.invoice(invoice_id))["availableStatusesForManualMarking"] == []
    for wanted in ("Invalid", "Settled"):
        status, body = await api.call("POST", f"/api/v1/invoices/{invoice_id}/status", {"status": wanted})
        message = "Status can only be marked to invalid or settled within certain conditions."
        assert (status, body) == (422, [{"path": "Status", "message": message}])


async def test_marking_through_the_api_returns_the_invoice(api: Api) -> None:
    invoice_id = (await api.create())["id"]
    status, body = await api.call(
        "POST", f"/api/v1/stores/StoreOne/invoices/{invoice_id}/status", {"status": "Settled"}
    )
    assert (status, body["status"], body["additionalStatus"]) == (200, "Settled", "Marked")
    assert body["availableStatusesForManualMarking"] == ["Invalid"]


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ([], "confirm"),
        ([], "replace_payment"),
        (["pay"], "expire"),
        (["pay"], "pay"),
        (["expire"], "pay"),
        (["pay", "confirm"], "mark_invalid"),
        (["pay", "confirm"], "pay_late"),
        (["mark_settled"], "mark_settled"),
    ],
)
async def test_impossible_action_is_refused_and_tells_what_is_possible(
    api: Api, simulator: Simulator, before: list[str], action: str
) -> None:
    invoice_id = (await api.create())["id"]
    state = _state(await _do(simulator, invoice_id, *before))
    status, body = await api.call("POST", f"/simulate/invoices/{invoice_id}", {"action": action}, key=None)
    assert (status, body["code"]) == (409, "action-impossible")
    assert "possible now:" in body["message"]
    with pytest.raises(GreenfieldRefused):
        await simulator.act(invoice_id, action)
    assert _state(simulator.invoices[invoice_id]) == state
