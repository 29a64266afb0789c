"""Webhooks by who has no secret, who overheard a delivery, and who stole the secret."""

import ast
import asyncio
import inspect
import json
import logging
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.btcpay import signature
from tests.web.conftest import HOOK, SECRET, STORE, Answer, Service


def settled(invoice_id: object, **changes: Any) -> dict[str, Any]:
    return {
        "deliveryId": str(uuid4()),
        "type": "InvoiceSettled",
        "storeId": STORE,
        "invoiceId": invoice_id,
        "status": "Settled",
        **changes,
    }


async def settle_all(service: Service) -> None:
    for _ in range(1000):
        if not await service.reconciliation.run_once():
            return
    pytest.fail("the deliveries never end")


async def document(service: Service, user: UUID) -> dict[str, Any]:
    answer = await service.ask("GET", "/subscription", user=user)
    assert answer.status == 200
    told: dict[str, Any] = answer.body
    return {name: value for name, value in told.items() if name != "issued_at"}


async def test_an_overheard_delivery_can_be_played_again_for_ever_and_gives_nothing(
    service: Service, user: UUID
) -> None:
    """The signature stays good, so what protects is R1 and that BTCPay is asked again."""
    invoice = (await service.buy(user, "wanderer")).body["invoice_id"]
    overheard = json.dumps(settled(invoice)).encode()
    assert (await service.hook(overheard)).status == 200
    await settle_all(service)
    assert (await document(service, user))["status"] == "none"  # played before the payment
    await service.simulator.act(invoice, "mark_settled")  # unlike a payment it can be taken back
    assert (await service.hook(settled(invoice))).status == 200
    await settle_all(service)
    bought = await document(service, user)
    assert bought["status"] == "active"
    for _ in range(3):
        answers = await asyncio.gather(*(service.hook(overheard) for _ in range(30)))
        assert {answer.status for answer in answers} == {200}
        await settle_all(service)
    assert await document(service, user) == bought
    await service.simulator.act(invoice, "mark_invalid")
    assert (await service.hook(settled(invoice, type="InvoiceInvalid"))).status == 200
    await settle_all(service)
    assert (await document(service, user))["status"] == "revoked"
    assert (await service.hook(overheard)).status == 200
    await settle_all(service)
    assert (await document(service, user))["status"] == "revoked"
    assert len(await service.rows("SELECT id FROM subscriptions")) == 1


async def test_a_stolen_secret_buys_nothing(service: Service, user: UUID) -> None:
    """Perfectly signed lies: about an unpaid invoice, another store, another's invoice, and nonsense."""
    unpaid = (await service.buy(user, "sanctuary")).body
    other = uuid4()
    await service.subscribe(other, "wanderer")
    [[paid]] = await service.rows("SELECT btcpay_invoice_id FROM btcpay_invoices WHERE user_id = $1", other)
    before = await document(service, other)
    mine = {"orderId": unpaid["order_id"]}
    lies = [
        settled(unpaid["invoice_id"], metadata=mine),
        settled(unpaid["invoice_id"], storeId="AnotherStore", metadata=mine),
        settled(paid, metadata=mine),  # his payment, my order
        settled(unpaid["invoice_id"], metadata={"orderId": paid}),
        settled(unpaid["invoice_id"], overPaid=True, manuallyMarked=True, additionalStatus="Marked"),
        settled(unpaid["invoice_id"], metadata={**mine, "userId": str(user)}, amount="0", price=0),
        settled("../../../api-keys/current", metadata=mine),
        settled(f"{paid}/status", metadata=mine),
        settled(f"{paid}?orderId={unpaid['order_id']}", metadata=mine),
        settled("*", metadata={"orderId": "*"}),
        settled("' OR 1=1 --", metadata={"orderId": "' OR 1=1 --"}),
        settled([unpaid["invoice_id"]], metadata=[mine]),
    ]
    answers = await asyncio.gather(*(service.hook(lie) for lie in lies))
    assert {answer.status for answer in answers} == {200}
    await settle_all(service)
    assert (await document(service, user))["status"] == "none"
    assert await document(service, other) == before
    assert len(await service.rows("SELECT id FROM subscriptions")) == 1


TWOFOLD = [
    b'{"type": "InvoiceSettled", "invoiceId": "x", "invoiceId": "UNPAID"}',
    b'{"type": "InvoiceSettled", "invoiceId": "UNPAID", "invoiceId": "x"}',
    b'{"type": "InvoiceSettled", "type": "InvoiceExpired", "invoiceId": "UNPAID"}',
    b'{"type": "InvoiceSettled", "metadata": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    b'{"type": "InvoiceSettled", "metadata": ' + b"[" * 900 + b"]" * 900 + b', "invoiceId": "UNPAID"}',
    b'{"type": "InvoiceSettled", "timestamp": ' + b"9" * 100_000 + b', "invoiceId": "UNPAID"}',
    b'{"type": "InvoiceSettled", "timestamp": 1e999999, "invoiceId": "UNPAID"}',
    '{"type": "InvoiceSettled", "invoiceId": "UNPAID"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"type": "InvoiceSettled", "invoiceId": "UNPAID"}',
    b'{"type": "Invoice\\ud800Settled", "invoiceId": "UNPAID"}',
]


async def test_a_signed_body_that_can_be_read_in_two_ways_stops_nothing_and_gives_nothing(
    service: Service, user: UUID
) -> None:
    unpaid = (await service.buy(user, "wanderer")).body["invoice_id"].encode()
    said = {"Content-Type": "application/json; charset=utf-16"}
    for body in TWOFOLD:
        answer = await service.hook(body.replace(b"UNPAID", unpaid), headers=said)
        assert answer.status == 200, body[:80]
        await settle_all(service)
    assert (await document(service, user))["status"] == "none"
    await service.subscribe(user, "wanderer")  # whoever comes next is served


async def test_a_flood_of_forged_deliveries_leaves_no_row_and_holds_up_no_honest_one(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async def forge(at: int) -> Answer:
        return await service.hook(settled(f"Forged{at}"), secret=f"guess {at}")

    with caplog.at_level(logging.INFO, logger="kosmo_billing_daemon"):
        forged = asyncio.gather(*(forge(at) for at in range(400)))
        async with asyncio.timeout(10):
            honest = await asyncio.gather(*(service.hook(settled(f"Honest{at}")) for at in range(20)))
        answers = await forged
    assert {answer.status for answer in honest} == {200}
    assert {answer.status for answer in answers} == {403}
    rows = await service.rows("SELECT btcpay_invoice_id FROM webhook_deliveries")
    assert {row[0] for row in rows} == {f"Honest{at}" for at in range(20)}
    assert len([record for record in caplog.records if "webhook refused" in record.getMessage()]) == 1


async def test_only_a_post_with_the_header_by_its_name_is_a_delivery(service: Service) -> None:
    """A signature elsewhere than in its header is none; another method is none of BTCPay's."""
    body = json.dumps(settled("Invoice1")).encode()
    signed = signature.sign(body, SECRET.encode())
    ways: list[dict[str, Any]] = [
        {"params": {"BTCPay-Sig": signed}},
        {"cookies": {"BTCPay-Sig": signed}},
        {"headers": {"BTCPay_Sig": signed}},
        {"headers": {"Authorization": f"Bearer {signed}"}},
        {"headers": {"BTCPay-Sig": f"{signed}, {signed}"}},
        {"headers": {"BTCPay-Sig": f"{signed};{signed}"}},
        {"headers": {"BTCPay-Sig": signed.replace("sha256", "sha1")}},
    ]
    for way in ways:
        assert (await service.ask("POST", HOOK, data=body, **way)).status == 403
    for method in ("PUT", "PATCH", "DELETE", "GET"):
        answer = await service.ask(method, HOOK, data=body, headers={"BTCPay-Sig": signed})
        assert answer.status == 405
    assert await service.rows("SELECT 1 FROM webhook_deliveries") == []


def test_signatures_are_compared_in_constant_time() -> None:
    """By the source, since a measurement of nanoseconds would fail by chance.

    Nothing is compared but by ``compare_digest``, and no secret is left out because another one matched.
    """
    tree = ast.parse(inspect.getsource(signature.verify))
    comparing = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert comparing == ["found is None"]  # the form, before any secret is looked at
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 1
    [loop] = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    assert not [node for node in ast.walk(loop) if isinstance(node, ast.Break | ast.Return | ast.If)]
    assert isinstance(loop.body[-1], ast.AugAssign)  # matches |= ..., so that and/or skips no digest
    [both] = [node for node in ast.walk(loop) if isinstance(node, ast.BoolOp)]
    assert "compare_digest" in ast.unparse(both.values[0])
