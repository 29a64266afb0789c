"""What comes at the same time shares transactions, and yet each is decided as if it had come alone."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Observation, Payment
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Conflict, Invalid
from kosmo_billing_daemon.runtime.rate_limit import RateLimit, TooMany
from kosmo_billing_daemon.services.idempotency import Key
from kosmo_billing_daemon.services.reservations import OpenedInvoice, PurchaseRequest, Reservations
from tests.services.conftest import STORE, Daemon, Shop
from tests.services.test_poison import BREAK, break_rows

WANDERER = BUILT_IN.plans[0]


def wish(user: UserId, plan_type: str = "wanderer", key: Key | None = None) -> PurchaseRequest:
    plan = BUILT_IN.find(plan_type)
    assert plan is not None
    return PurchaseRequest(user, plan, None, key)


async def together(
    reservations: Reservations, wishes: list[PurchaseRequest]
) -> list[OpenedInvoice | BaseException]:
    return await asyncio.gather(*(reservations.reserve(each) for each in wishes), return_exceptions=True)


async def transactions(daemon: Daemon) -> int:
    """How many transactions wrote the reservations that there are."""
    (row,) = await daemon.rows("SELECT count(DISTINCT xmin::text) AS number FROM btcpay_invoices")
    return int(row["number"])


@pytest.fixture
def reservations(shop: Shop) -> Reservations:
    return Reservations(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)


async def test_reservations_share_a_transaction(shop: Shop, reservations: Reservations) -> None:
    users = [UserId(uuid4()) for _ in range(20)]
    opened = await together(reservations, [wish(user) for user in users])
    assert all(isinstance(each, OpenedInvoice) and each.is_new for each in opened)
    assert await transactions(shop.front) == 1
    rows = await shop.front.rows("SELECT user_id FROM btcpay_invoices WHERE status = 'reserved'")
    assert {row["user_id"] for row in rows} == set(users)


async def test_double_click_within_one_transaction_gets_one_invoice(
    shop: Shop, reservations: Reservations, user: UserId
) -> None:
    first, second, other = await together(reservations, [wish(user), wish(user), wish(user, "guardian")])
    assert isinstance(first, OpenedInvoice)
    assert isinstance(second, OpenedInvoice)
    assert isinstance(other, OpenedInvoice)
    assert (first.is_new, second.is_new, other.is_new) == (True, False, True)
    assert first.invoice == second.invoice != other.invoice
    assert len(await shop.front.rows("SELECT FROM btcpay_invoices")) == 2


async def test_keys_within_one_transaction_are_told_apart(
    shop: Shop, reservations: Reservations, user: UserId
) -> None:
    key, same, another = Key.of("k", "wanderer"), Key.of("k", "wanderer"), Key.of("k", "guardian")
    first, repeated, reused, stranger = await together(
        reservations,
        [
            wish(user, key=key),
            wish(user, key=same),
            wish(user, "guardian", another),
            wish(UserId(uuid4()), "guardian", another),
        ],
    )
    assert isinstance(first, OpenedInvoice)
    assert repeated == first, "a repeat is answered alike"
    assert isinstance(reused, Invalid)
    assert reused.code == "idempotency_key_reused"
    assert isinstance(stranger, OpenedInvoice), "a key is its user's own"
    assert await transactions(shop.front) == 1
    (bound,) = await shop.front.rows("SELECT * FROM idempotency_keys WHERE user_id = $1", user)
    assert bound["invoice_id"] == first.invoice.id


async def test_refused_wish_refuses_no_other(shop: Shop, user: UserId) -> None:
    long = replace(WANDERER, period=timedelta(days=300))  # a second one is beyond what may be prepaid (R11)
    daemon = await shop.start(catalogue=Catalogue((long,)))
    await shop.buy(user)
    reservations = Reservations(pool=daemon.pool, clock=shop.clock, changed=lambda: None, limit=RateLimit(1))
    busy, other = UserId(uuid4()), UserId(uuid4())
    answers = await together(
        reservations,
        [PurchaseRequest(user, long, None, None), wish(busy), wish(busy, "guardian"), wish(other)],
    )
    assert isinstance(answers[0], Conflict)
    assert isinstance(answers[1], OpenedInvoice)
    assert isinstance(answers[2], TooMany)
    assert isinstance(answers[3], OpenedInvoice)


async def test_wish_that_cannot_be_written_fails_alone(
    shop: Shop, reservations: Reservations, user: UserId
) -> None:
    await shop.front.execute(BREAK)
    await shop.front.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON btcpay_invoices FOR EACH ROW"
        f" WHEN (NEW.user_id = '{user}') EXECUTE FUNCTION broken()"
    )
    others = [UserId(uuid4()) for _ in range(3)]
    answers = await together(reservations, [wish(others[0]), wish(user), *map(wish, others[1:])])
    assert [isinstance(answer, OpenedInvoice) for answer in answers] == [True, False, True, True]
    rows = await shop.front.rows("SELECT user_id FROM btcpay_invoices")
    assert {row["user_id"] for row in rows} == set(others)


def paid(invoice_id: object, btcpay_id: str, shop: Shop, status: InvoiceStatus) -> Observation:
    return Observation(
        btcpay_invoice_id=btcpay_id,
        store_id=STORE,
        order_id=str(invoice_id),
        amount=WANDERER.price.amount,
        currency="USD",
        status=status,
        payment=Payment.NONE,
        expires_at=shop.clock(),
        paid_amount=WANDERER.price.amount,
        checkout_url="https://btcpay.example/i/1",
    )


async def test_looks_that_come_together_share_a_transaction(shop: Shop) -> None:
    invoices = [await shop.open(UserId(uuid4())) for _ in range(6)]
    settled = InvoiceStatus.SETTLED
    seen = [{each.id: [paid(each.id, shop.btcpay_id(each), shop, settled)]} for each in invoices]
    answers = await asyncio.gather(*(shop.front.settlement.settle(each) for each in seen))
    assert [list(answer) for answer in answers] == [[each.id] for each in invoices]
    (row,) = await shop.front.rows("SELECT count(DISTINCT xmin::text) AS number FROM subscriptions")
    assert row["number"] == 1
    assert len(await shop.front.rows("SELECT FROM subscriptions")) == 6


async def test_looks_at_one_invoice_that_come_together_are_judged_in_order(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    (row,) = await shop.front.rows("SELECT last_value + 1000 AS number FROM observations")
    number = row["number"]

    async def look(status: InvoiceStatus, number: int) -> bool:
        seen = {invoice.id: [paid(invoice.id, shop.btcpay_id(invoice), shop, status)]}
        return invoice.id in await shop.front.settlement.settle(seen, number=number)

    told = await asyncio.gather(
        look(InvoiceStatus.SETTLED, number + 2),
        look(InvoiceStatus.INVALID, number + 1),
        look(InvoiceStatus.SETTLED, number + 3),
    )
    assert list(told) == [True, False, True], "an answer that a later look has overtaken is dropped"
    assert await shop.front.statuses(user) == ["active"]
    assert (await shop.front.invoice(invoice.id))["observation"] == number + 3


async def test_look_that_cannot_be_written_fails_alone(shop: Shop, user: UserId) -> None:
    others = [UserId(uuid4()) for _ in range(2)]
    invoices = [await shop.open(each) for each in (others[0], user, others[1])]
    await break_rows(shop.front, user)
    settled = InvoiceStatus.SETTLED
    answers = await asyncio.gather(
        *(
            shop.front.settlement.settle({each.id: [paid(each.id, shop.btcpay_id(each), shop, settled)]})
            for each in invoices
        ),
        return_exceptions=True,
    )
    assert [isinstance(answer, dict) for answer in answers] == [True, False, True]
    for other in others:
        assert await shop.front.statuses(other) == ["active"]
    assert await shop.front.statuses(user) == []
