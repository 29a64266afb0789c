"""Refunds of the simulator are those of BTCPay: variants, refusals, claims, events and rights."""

from typing import Any

import pytest

from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.demo.btcpay.refunds import PayoutState
from kosmo_billing_daemon.demo.btcpay.stores import Permission
from tests.demo.btcpay.conftest import KEY, STORE, Api, Receiver


async def paid(api: Api, amount: str | None = None) -> str:
    invoice = await api.create()
    await api.simulator.act(invoice["id"], "pay", amount, "BTC-LN")
    return str(invoice["id"])


async def refund(api: Api, invoice_id: str, **body: Any) -> tuple[int, Any]:
    return await api.call("POST", f"/api/v1/stores/{STORE}/invoices/{invoice_id}/refund", body)


@pytest.mark.parametrize(
    ("body", "amount", "currency"),
    [
        ({"refundVariant": "Fiat"}, "5.00", "USD"),
        ({"refundVariant": "RateThen"}, "0.00005000", "BTC"),
        ({"refundVariant": "Fiat", "subtractPercentage": "10"}, "4.50", "USD"),
        ({"refundVariant": "Custom", "customAmount": "1.25", "customCurrency": "USD"}, "1.25", "USD"),
    ],
)
async def test_a_refund_is_a_pull_payment_with_a_link(
    api: Api, body: dict[str, Any], amount: str, currency: str
) -> None:
    invoice_id = await paid(api)
    status, made = await refund(api, invoice_id, **body)
    assert status == 200
    assert (made["amount"], made["currency"], made["archived"]) == (amount, currency, False)
    assert made["name"] == f"Refund {invoice_id}"
    assert made["viewLink"] == f"{api.simulator.url}/pull-payments/{made['id']}"
    assert await api.call("GET", f"/api/v1/pull-payments/{made['id']}", key=None) == (200, made)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "RefundVariant"),
        ({"refundVariant": "Custom", "customCurrency": "USD"}, "CustomAmount"),
        ({"refundVariant": "Custom", "customAmount": "1", "customCurrency": "XYZ"}, "CustomCurrency"),
        ({"refundVariant": "Custom", "customAmount": "x", "customCurrency": "USD"}, "CustomAmount"),
        ({"refundVariant": "Fiat", "customAmount": "1"}, "CustomAmount"),
        ({"refundVariant": "Fiat", "subtractPercentage": "101"}, "SubtractPercentage"),
        ({"refundVariant": "OverpaidAmount"}, "RefundVariant"),
    ],
)
async def test_a_wrong_refund_is_refused_by_field(api: Api, body: dict[str, Any], path: str) -> None:
    status, problems = await refund(api, await paid(api), **body)
    assert status == 422
    assert path in [problem["path"] for problem in problems]


async def test_an_unpaid_invoice_is_not_refundable(api: Api) -> None:
    status, problem = await refund(api, (await api.create())["id"], refundVariant="Fiat")
    assert (status, problem["code"]) == (400, "non-refundable")


async def test_a_late_payment_is_refundable(api: Api) -> None:
    invoice = await api.create()
    await api.simulator.act(invoice["id"], "pay_late", method="BTC-LN")
    assert (await refund(api, invoice["id"], refundVariant="Fiat"))[0] == 200


async def test_a_claim_waits_for_approval_and_the_rest_can_be_claimed(api: Api, simulator: Simulator) -> None:
    _, made = await refund(api, await paid(api), refundVariant="Fiat")
    path = f"/api/v1/pull-payments/{made['id']}/payouts"
    claim = {"payoutMethodId": "BTC-CHAIN", "destination": "bc1q", "amount": "3.00"}
    status, payout = await api.call("POST", path, claim, key=None)
    assert (status, payout["state"], payout["originalAmount"]) == (200, "AwaitingApproval", "3.00")
    status, problem = await api.call("POST", path, claim, key=None)
    assert (status, problem["code"]) == (400, "overdraft")
    simulator.pay_out(simulator.pull_payments[made["id"]].payouts[0])
    assert [each["state"] for each in (await api.call("GET", path, key=None))[1]] == ["Completed"]


async def test_archiving_cancels_claims_that_are_not_being_paid(api: Api, simulator: Simulator) -> None:
    _, made = await refund(api, await paid(api), refundVariant="Fiat")
    simulator.claim(made["id"])
    where = f"/api/v1/stores/{STORE}/pull-payments"
    assert await api.call("DELETE", f"{where}/{made['id']}") == (200, None)
    assert simulator.pull_payments[made["id"]].payouts[0].state is PayoutState.CANCELLED
    assert (await api.call("GET", where))[1] == []
    assert [each["id"] for each in (await api.call("GET", f"{where}?includeArchived=true"))[1]] == [
        made["id"]
    ]
    status, problem = await api.call(
        "POST",
        f"/api/v1/pull-payments/{made['id']}/payouts",
        {"payoutMethodId": "BTC-CHAIN", "destination": "bc1q"},
    )
    assert (status, problem["code"]) == (400, "archived")


async def test_a_refund_and_its_claims_are_told_by_webhook(
    api: Api, simulator: Simulator, receiver: Receiver, hook: str
) -> None:
    assert hook
    invoice_id = await paid(api)
    await simulator.drained()
    known = len(receiver.requests)
    made = simulator.refund(invoice_id)
    simulator.pay_out(simulator.claim(made.id))
    await simulator.drained()
    told = [request.body for request in receiver.requests[known:]]
    assert [each["type"] for each in told] == [
        "InvoiceRefund",
        "PayoutCreated",
        "PayoutApproved",
        "PayoutUpdated",
    ]
    assert (told[0]["invoiceId"], told[0]["pullPaymentId"]) == (invoice_id, made.id)
    assert (told[-1]["pullPaymentId"], told[-1]["payoutState"]) == (made.id, "Completed")


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "invoices/{invoice}/refund", Permission.CREATE_PULL_PAYMENT),
        ("GET", "pull-payments", Permission.VIEW_PULL_PAYMENTS),
        ("DELETE", "pull-payments/{pull_payment}", Permission.ARCHIVE_PULL_PAYMENT),
    ],
)
async def test_each_call_needs_its_permission(
    api: Api, method: str, path: str, permission: Permission
) -> None:
    invoice_id = await paid(api)
    made = api.simulator.refund(invoice_id)
    api.simulator.add_key(KEY, (Permission.MODIFY_INVOICES,))
    where = path.format(invoice=invoice_id, pull_payment=made.id)
    status, problem = await api.call(method, f"/api/v1/stores/{STORE}/{where}", {"refundVariant": "Fiat"})
    assert (status, problem["missingPermission"]) == (403, permission)
    api.simulator.add_key(KEY, (permission,))
    assert (await api.call(method, f"/api/v1/stores/{STORE}/{where}", {"refundVariant": "Fiat"}))[0] == 200
