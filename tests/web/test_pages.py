"""Listing invoices page by page."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.store import invoices, quotes
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.invoices import Observed
from tests.web.conftest import Service

BEGIN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


async def put(
    service: Service, user: UUID, times: Sequence[int], status: InvoiceStatus = InvoiceStatus.EXPIRED
) -> None:
    """Leave invoices of these seconds, named by them, in the database."""
    async with service.pool.transaction() as connection:
        for second in times:
            created = BEGIN + timedelta(seconds=second)
            reserved = Invoice(
                id=InvoiceId(uuid4()),
                user_id=UserId(user),
                plan=BUILT_IN.plans[0],
                status=InvoiceStatus.RESERVED,
                created_at=created,
            )
            await combine(
                connection,
                [quotes.save_statement([reserved.plan]), invoices.reserve_statement([reserved], created)],
            )
            if status is not InvoiceStatus.RESERVED:
                attached = replace(
                    reserved, status=status, btcpay_invoice_id=f"{user.hex[:6]}-{second}-{reserved.id}"
                )
                await combine(connection, [invoices.save_statement([Observed(attached, None, 0)], created)])


async def page(service: Service, user: UUID, **query: Any) -> tuple[list[str], str | None]:
    answer = await service.ask("GET", "/invoices", user=user, params=query)
    assert answer.status == 200, answer.raw
    items = [item["invoice_id"].split("-")[1] for item in answer.body["items"]]
    return items, answer.body["next_cursor"]


async def all_pages(service: Service, user: UUID, **query: Any) -> list[list[str]]:
    items, cursor = await page(service, user, **query)
    pages = [items]
    while cursor is not None:
        items, cursor = await page(service, user, cursor=cursor, **query)
        pages.append(items)
    return pages


async def test_a_user_without_invoices_has_an_empty_page(service: Service, user: UUID) -> None:
    assert await page(service, user) == ([], None)


async def test_invoices_come_newest_first_each_once(service: Service, user: UUID) -> None:
    await put(service, user, range(5))
    await put(service, uuid4(), range(5))
    assert await all_pages(service, user, limit=2) == [["4", "3"], ["2", "1"], ["0"]]
    assert await all_pages(service, user, limit=5) == [["4", "3", "2", "1", "0"]]
    assert await all_pages(service, user, limit=1) == [["4"], ["3"], ["2"], ["1"], ["0"]]


async def test_twenty_are_shown_unless_more_are_wanted(service: Service, user: UUID) -> None:
    await put(service, user, range(21))
    assert [len(items) for items in await all_pages(service, user)] == [20, 1]
    assert [len(items) for items in await all_pages(service, user, limit=100)] == [21]


async def test_invoices_of_the_same_moment_are_not_lost_between_pages(service: Service, user: UUID) -> None:
    await put(service, user, [7] * 5)
    pages = await all_pages(service, user, limit=2)
    assert [len(items) for items in pages] == [2, 2, 1]


async def test_new_invoices_do_not_shift_the_pages(service: Service, user: UUID) -> None:
    await put(service, user, range(4))
    first, cursor = await page(service, user, limit=2)
    await put(service, user, range(10, 15))
    second, last = await page(service, user, limit=2, cursor=cursor)
    assert (first, second, last) == (["3", "2"], ["1", "0"], None)


async def test_a_status_selects(service: Service, user: UUID) -> None:
    await put(service, user, range(3), InvoiceStatus.EXPIRED)
    await put(service, user, range(3, 5), InvoiceStatus.SETTLED)
    assert await all_pages(service, user, status="settled", limit=1) == [["4"], ["3"]]
    assert await all_pages(service, user, status="expired") == [["2", "1", "0"]]
    assert await all_pages(service, user, status="processing") == [[]]


async def test_reservations_are_never_shown(service: Service, user: UUID) -> None:
    await put(service, user, [1], InvoiceStatus.RESERVED)
    await put(service, user, [2], InvoiceStatus.ABANDONED)
    assert await page(service, user) == ([], None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=open", "status"),
        ("status=reserved", "status"),
        ("status=abandoned", "status"),
        ("status=", "status"),
        ("status=NEW", "status"),
    ],
)
async def test_a_wrong_parameter_is_named(service: Service, user: UUID, query: str, field: str) -> None:
    answer = await service.ask("GET", f"/invoices?{query}", user=user)
    assert (answer.status, answer.fields) == (422, [field])


async def test_a_cursor_that_was_not_given_out_is_refused(service: Service, user: UUID) -> None:
    await put(service, user, range(3))
    _, cursor = await page(service, user, limit=1)
    assert cursor is not None
    flipped = ("B" if cursor[3] == "A" else "A").join((cursor[:3], cursor[4:]))
    forged = [
        "",
        "x",
        flipped,
        cursor[:-1],
        cursor + "A",
        cursor + "==",
        cursor.swapcase(),
        " " + cursor,
        base64.urlsafe_b64encode(b"\xff" * 28).decode(),
        base64.urlsafe_b64encode(b"\x00" * 28).decode(),
        "\u0661" * 38,
        "A" * 7000,
    ]
    for wrong in forged:
        answer = await service.ask("GET", "/invoices", user=user, params={"cursor": wrong})
        assert (answer.status, answer.code, answer.fields) == (422, "invalid_cursor", ["cursor"]), wrong
    foreign = await service.ask("GET", "/invoices", user=uuid4(), params={"cursor": cursor})
    assert foreign.code == "invalid_cursor"
