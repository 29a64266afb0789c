"""What BTCPay may deliver, and what anybody else may not."""

import asyncio
import gzip
import json
import logging
from typing import Any
from uuid import UUID, uuid4

import pytest
from multidict import CIMultiDict

from kosmo_billing_daemon.btcpay.signature import sign
from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.settings import WebhookTrust
from tests.web.conftest import HOOK, OLD_SECRET, SECRET, Service, Starter

ALL = """
SELECT delivery_id, type, btcpay_invoice_id, order_id, store_id, outcome
FROM webhook_deliveries ORDER BY received_at
"""


def event(**changes: Any) -> dict[str, Any]:
    return {
        "deliveryId": "Delivery1",
        "webhookId": "Hook1",
        "type": "InvoiceSettled",
        "timestamp": 1_770_000_000,
        "storeId": "StoreOne",
        "invoiceId": "Invoice1",
        "metadata": {"orderId": "11111111-1111-1111-1111-111111111111"},
        **changes,
    }


async def recorded(service: Service) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await service.rows(ALL)]


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
async def test_a_signed_delivery_is_recorded_as_a_hint(service: Service, secret: str) -> None:
    answer = await service.hook(event(status="Settled"), secret=secret)
    assert (answer.status, answer.body) == (200, {"recorded": True})
    assert await recorded(service) == [
        (
            "Delivery1",
            "InvoiceSettled",
            "Invoice1",
            "11111111-1111-1111-1111-111111111111",
            "StoreOne",
            "not ours",
        )
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"BTCPay-Sig": ""},
        {"BTCPay-Sig": "sha256="},
        {"BTCPay-Sig": "sha256=" + "0" * 64},
        {"BTCPay-Sig": sign(json.dumps(event()).encode(), b"another secret")},
        {"BTCPay-Sig": sign(json.dumps(event()).encode(), b"")},
        {"BTCPay-Sig": sign(json.dumps(event(invoiceId="Other")).encode(), SECRET.encode())},
        {"BTCPay-Sig": sign(json.dumps(event()).encode(), SECRET.encode()).removeprefix("sha256=")},
        {"BTCPay-Sig": sign(json.dumps(event()).encode(), SECRET.encode()).upper()},
        {"X-BTCPay-Sig": sign(json.dumps(event()).encode(), SECRET.encode())},
    ],
)
async def test_a_missing_or_wrong_signature_is_refused_and_nothing_recorded(
    service: Service, headers: dict[str, str]
) -> None:
    answer = await service.hook(event(), secret=None, headers=headers)
    assert (answer.status, answer.code) == (403, "bad_signature")
    assert "WEBHOOK_SECRET" in answer.body["detail"]
    assert await recorded(service) == []


async def test_two_signatures_are_refused(service: Service) -> None:
    raw = json.dumps(event()).encode()
    headers = CIMultiDict([("BTCPay-Sig", sign(raw, SECRET.encode()))] * 2)
    async with service.session.post(service.url + API + HOOK, data=raw, headers=headers) as answer:
        assert answer.status == 403
    assert await recorded(service) == []


async def test_a_secret_that_was_rotated_out_is_refused(start: Starter) -> None:
    service = await start(secrets=("new secret",))
    assert (await service.hook(event(), secret=OLD_SECRET)).status == 403
    assert (await service.hook(event(), secret="new secret")).status == 200


async def test_refusals_are_logged_once_a_minute_without_the_payload(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="kosmo_billing_daemon.web"):
        for number in range(5):
            await service.hook(event(deliveryId=f"D{number}"), secret="wrong")
    lines = [record.getMessage() for record in caplog.records if "webhook refused" in record.getMessage()]
    assert len(lines) == 1
    assert "WEBHOOK_SECRET" in lines[0]
    assert "Invoice1" not in caplog.text


async def test_a_delivery_repeated_or_in_parallel_is_recorded_once(service: Service) -> None:
    answers = await asyncio.gather(*(service.hook(event()) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len(await recorded(service)) == 1


@pytest.mark.parametrize(
    "body",
    [
        event(type="InvoiceInventedLater"),
        event(storeId="AnotherStore"),
        event(invoiceId="Unknown"),
        event(type="PaymentRequestCompleted", invoiceId=None, metadata=None),
        event(invoiceId=5, metadata=[], storeId={}),
        event(invoiceId="a\u0000b"),
        event(manualRedelivery=True, originalDeliveryId="Delivery0", afterExpiration=True),
    ],
)
async def test_everything_authentic_is_recorded(service: Service, body: dict[str, Any]) -> None:
    assert (await service.hook(body)).status == 200
    assert [row[:2] for row in await recorded(service)] == [("Delivery1", body["type"])]
    assert await service.reconciliation.run_once() == 0, "it hints at nothing of ours"


MALFORMED = [
    b"",
    b"null",
    b"[]",
    b"not json",
    b"{}",
    b'{"type": 5}',
    b'{"type": ""}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", MALFORMED)
async def test_an_authentic_body_that_says_nothing_is_recorded_once(service: Service, body: bytes) -> None:
    assert [(await service.hook(body)).status for _ in range(2)] == [200, 200]
    [row] = await recorded(service)
    assert row[0].startswith("malformed-")
    assert row[1:] == ("malformed", None, None, None, "not ours")


@pytest.mark.parametrize("body", MALFORMED)
async def test_without_a_secret_a_body_that_says_nothing_is_refused(start: Starter, body: bytes) -> None:
    service = await start(secrets=())
    answer = await service.hook(body, secret=None)
    assert (answer.status, answer.code) == (400, "malformed")
    assert await recorded(service) == []


async def test_without_a_secret_hints_are_taken_unsigned(start: Starter) -> None:
    service = await start(secrets=())
    classic = {"type": "InvoiceSettled", "invoiceId": "Invoice1", "status": "Settled"}
    for _ in range(2):
        assert (await service.hook(classic, secret=None)).status == 200
    rows = await recorded(service)
    assert len({row[0] for row in rows}) == 2
    assert all(row[0].startswith("unsigned-") and row[5] == "not ours" for row in rows)


async def test_the_classic_curl_changes_nothing_because_btcpay_says_new(start: Starter, user: UUID) -> None:
    service = await start(secrets=())
    invoice = (await service.buy(user, "wanderer")).body
    claim = {"type": "InvoiceSettled", "invoiceId": invoice["invoice_id"], "status": "Settled"}
    assert (await service.hook(claim, secret=None)).status == 200
    assert await service.reconciliation.run_once() == 1
    assert (await service.ask("GET", "/subscription", user=user)).body["status"] == "none"


async def test_the_classic_curl_activates_where_the_body_is_trusted(start: Starter, user: UUID) -> None:
    service = await start(secrets=(), trust=WebhookTrust.BODY)
    invoice = (await service.buy(user, "wanderer")).body
    claim = {"type": "InvoiceSettled", "invoiceId": invoice["invoice_id"], "status": "Settled"}
    answer = await service.ask(
        "POST",
        HOOK,
        data=json.dumps(claim).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200
    assert await service.reconciliation.run_once() == 1
    document = (await service.ask("GET", "/subscription", user=user)).body
    assert (document["status"], document["plan_type"]) == ("active", "wanderer")


async def test_a_payment_at_btcpay_arrives_by_its_own_webhook(service: Service, user: UUID) -> None:
    service.simulator.add_webhook(service.url + API + HOOK, SECRET)
    invoice = (await service.buy(user, "wanderer")).body
    await service.simulator.act(invoice["invoice_id"], "pay")
    await service.simulator.act(invoice["invoice_id"], "confirm")
    await service.simulator.drained()
    types = {row[1] for row in await recorded(service)}
    assert {"InvoiceCreated", "InvoiceSettled"} <= types
    while await service.reconciliation.run_once():
        pass
    assert (await service.ask("GET", "/subscription", user=user)).body["status"] == "active"


async def test_the_largest_body_is_taken_and_one_byte_more_is_not(service: Service) -> None:
    largest = json.dumps(event()).encode()
    largest += b" " * (256 * 1024 - len(largest))
    assert (await service.hook(largest)).status == 200
    answer = await service.hook(largest + b" ")
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert len(await recorded(service)) == 1


async def test_a_body_of_untold_length_is_bounded_too(service: Service) -> None:
    async def endless() -> Any:
        for _ in range(5):
            yield b" " * 65_536

    answer = await service.ask("POST", HOOK, data=endless())
    assert (answer.status, answer.code) == (413, "body_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
async def test_a_compressed_body_is_refused(service: Service, encoding: str) -> None:
    raw = gzip.compress(json.dumps(event()).encode())
    answer = await service.hook(raw, headers={"Content-Encoding": encoding})
    assert (answer.status, answer.code) == (415, "unsupported_encoding")
    assert await recorded(service) == []


async def test_a_bomb_stays_packed(service: Service) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    answer = await service.hook(bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status == 415


async def test_only_what_could_not_be_recorded_is_a_503(start: Starter) -> None:
    service = await start(database_url="postgresql://nobody@127.0.0.1:1/none")
    answer = await service.hook(event())
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "nobody" not in answer.raw.decode()


async def test_a_user_header_means_nothing_here(service: Service) -> None:
    answer = await service.hook(event(deliveryId=str(uuid4())), headers={"X-User-ID": "nonsense"})
    assert answer.status == 200
