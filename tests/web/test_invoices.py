"""Opening and showing invoices."""

import asyncio
import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.web.rendering import encode
from tests.web.conftest import Answer, Service

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


def without_id(answer: Answer) -> Any:
    return {name: value for name, value in answer.body.items() if name != "request_id"}


async def test_a_new_invoice_is_answered_with_all_that_a_checkout_needs(service: Service, user: UUID) -> None:
    answer = await service.buy(user, "wanderer", redirect_url="https://kosmoconnect.local/thank-you")
    assert answer.status == 201
    invoice = answer.body
    assert answer.headers["Location"] == f"{API}/invoices/{invoice['invoice_id']}"
    assert set(invoice) == {
        "invoice_id", "order_id", "checkout_url", "amount", "amount_due", "credit_used", "currency",
        "plan_type", "pack", "status", "payment", "paid_amount", "redirect_url", "created_at",
        "expires_at",
    }  # fmt: skip
    assert invoice["invoice_id"] in service.simulator.invoices
    assert invoice["checkout_url"].startswith(service.simulator.url)
    assert b'"amount":5.0,' in answer.raw
    assert (invoice["currency"], invoice["plan_type"]) == ("USD", "wanderer")
    assert (invoice["status"], invoice["payment"], invoice["paid_amount"]) == ("new", "none", 0)
    assert invoice["redirect_url"] == "https://kosmoconnect.local/thank-you"
    assert re.fullmatch(TIME, invoice["expires_at"])
    assert re.fullmatch(TIME, invoice["created_at"])
    UUID(invoice["order_id"])


async def test_curl_without_a_content_type_is_understood(service: Service, user: UUID) -> None:
    answer = await service.ask(
        "POST",
        "/invoices",
        user=user,
        data=b'{"plan_type": "sanctuary"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 201
    assert answer.body["amount"] == 50


async def test_a_second_request_returns_the_open_invoice(service: Service, user: UUID) -> None:
    first = await service.buy(user, "wanderer")
    again = await service.buy(user, "wanderer")
    assert (first.status, again.status) == (201, 200)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]


async def test_a_double_click_makes_one_invoice_at_btcpay(service: Service, user: UUID) -> None:
    answers = await asyncio.gather(*(service.buy(user, "guardian") for _ in range(2)))
    assert sorted(answer.status for answer in answers) == [200, 201]
    assert answers[0].body == answers[1].body
    assert len(service.simulator.invoices) == 1


async def test_other_users_and_other_plans_get_their_own_invoice(service: Service, user: UUID) -> None:
    answers = [
        await service.buy(*wanted)
        for wanted in ((user, "wanderer"), (user, "guardian"), (uuid4(), "wanderer"))
    ]
    assert [answer.status for answer in answers] == [201] * 3
    assert len(service.simulator.invoices) == 3


async def test_an_unknown_plan_is_refused_with_those_for_sale(service: Service, user: UUID) -> None:
    answer = await service.buy(user, "pilgrim")
    assert (answer.status, answer.code, answer.fields) == (422, "unknown_plan", ["plan_type"])
    assert "wanderer, guardian, sanctuary" in answer.body["detail"]


async def test_the_free_plan_is_not_for_sale(service: Service, user: UUID) -> None:
    assert (await service.buy(user, "free")).code == "unknown_plan"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid"),
        (b"{}", 422, "invalid"),
        (b"not json", 400, "malformed_body"),
        (b"[]", 400, "malformed_body"),
        (b'"wanderer"', 400, "malformed_body"),
        (b'{"plan_type": NaN}', 400, "malformed_body"),
        (b'{"plan_type": "wand\xe9rer"}', 400, "malformed_body"),
        (b"[" * 60_000, 400, "malformed_body"),
        (b'{"plan_type": ' + b"9" * 5000 + b"}", 400, "malformed_body"),
        (b'{"plan_type": 5}', 422, "invalid"),
        (b'{"plan_type": null}', 422, "invalid"),
        (b'{"plan_type": ""}', 422, "invalid"),
        (b'{"plan_type": "' + b"w" * 65 + b'"}', 422, "invalid"),
        (b'{"plan_type": "\\ud800"}', 422, "unknown_plan"),
        (b'{"plan_type": "wanderer\\u0000"}', 422, "unknown_plan"),
        (b'{"plan_type": "wanderer", "redirect_url": 5}', 422, "invalid"),
        (b'{"plan_type": "wanderer", "amount": 0.01}', 422, "invalid"),
        (b'{"plan_type": "wanderer", "\\ud800": 1}', 422, "invalid"),
        (b'{"plan_type": "wanderer", "plan_type": "guardian"}', 422, "invalid"),
    ],
)
async def test_a_body_that_is_not_understood_opens_nothing(
    service: Service, user: UUID, body: bytes, status: int, code: str
) -> None:
    answer = await service.ask("POST", "/invoices", user=user, data=body)
    assert (answer.status, answer.code) == (status, code)
    assert not service.simulator.invoices
    assert await service.rows("SELECT id FROM btcpay_invoices") == []


async def test_every_unknown_field_is_named(service: Service, user: UUID) -> None:
    answer = await service.buy(user, "wanderer", price=1, currency="EUR")
    assert answer.fields == ["price", "currency"]
    assert "plan_type, pack, redirect_url" in answer.body["errors"][0]["message"]


async def test_a_form_is_refused(service: Service, user: UUID) -> None:
    answer = await service.ask(
        "POST",
        "/invoices",
        user=user,
        data=b"--x--",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def test_more_than_400_days_ahead_cannot_be_paid(service: Service, user: UUID) -> None:
    await service.subscribe(user, "sanctuary")
    await service.rows("UPDATE subscriptions SET valid_until = valid_until + interval '350 days'")
    answer = await service.buy(user, "sanctuary")
    assert (answer.status, answer.code) == (409, "prepaid_cap")


async def test_without_btcpay_no_invoice_can_be_opened_but_the_request_may_be_repeated(
    service: Service, user: UUID
) -> None:
    await service.simulator.go_away()
    answer = await service.buy(user, "wanderer")
    assert (answer.status, answer.code) == (503, "btcpay_away")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "127.0.0.1" not in answer.raw.decode()
    await service.simulator.come_back()
    repeated = await service.buy(user, "wanderer")
    assert repeated.status in (200, 201)
    assert len(service.simulator.invoices) == 1


async def test_a_key_that_btcpay_does_not_accept_is_our_trouble(service: Service, user: UUID) -> None:
    service.simulator.set_faults(unauthorized=True)
    answer = await service.buy(user, "wanderer")
    assert answer.status == 503
    assert answer.code.startswith("btcpay_")
    assert "Retry-After" in answer.headers


async def test_an_open_invoice_is_shown_as_btcpay_sees_it_now(service: Service, user: UUID) -> None:
    invoice_id = (await service.buy(user, "wanderer")).body["invoice_id"]
    await service.rows("UPDATE btcpay_invoices SET observed_at = observed_at - interval '1 minute'")
    await service.simulator.act(invoice_id, "pay")
    await service.simulator.act(invoice_id, "confirm")
    answer = await service.ask("GET", f"/invoices/{invoice_id}", user=user)
    assert answer.status == 200
    assert answer.body["status"] == "settled"
    assert b'"paid_amount":5.0,' in answer.raw
    assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_without_btcpay_an_invoice_is_shown_as_last_seen(service: Service, user: UUID) -> None:
    opened = (await service.buy(user, "wanderer")).body
    await service.rows("UPDATE btcpay_invoices SET observed_at = observed_at - interval '1 minute'")
    await service.simulator.go_away()
    answer = await service.ask("GET", f"/invoices/{opened['invoice_id']}", user=user)
    assert (answer.status, answer.body) == (200, opened)


async def test_foreign_unknown_and_impossible_invoices_are_answered_alike(
    service: Service, user: UUID
) -> None:
    foreign = (await service.buy(uuid4(), "wanderer")).body
    wanted = [
        foreign["invoice_id"],
        foreign["order_id"],
        "x" * 22,
        "x" * 4000,
        "%00",
        "a%2Fb",
        "%F0%9F%92%B8",
        "{x}",
        "a'b",
    ]
    answers = [await service.ask("GET", f"/invoices/{name}", user=user) for name in wanted]
    assert {answer.status for answer in answers} == {404}
    assert {answer.code for answer in answers} == {"invoice_not_found"}
    assert all(without_id(answer) == without_id(answers[0]) for answer in answers)


@pytest.mark.parametrize(
    ("amount", "written"),
    [("5.00", "5.0"), ("12", "12.0"), ("0.00000001", "0.00000001"), ("1E+2", "100.0"),
     ("123456789.12345678", "123456789.12345678"), ("0.10", "0.1")],
)  # fmt: skip
def test_amounts_are_numbers_with_exactly_their_digits(amount: str, written: str) -> None:
    assert encode({"amount": Decimal(amount)}) == f'{{"amount":{written}}}'
    assert json.loads(written, parse_float=Decimal) == Decimal(amount)


def test_a_float_has_no_place_in_an_answer() -> None:
    with pytest.raises(TypeError):
        encode({"amount": 5.0})
