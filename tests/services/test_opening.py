"""Opening an invoice: double clicks (R10), and what fails or dies between reserve, create and attach."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from kosmo_billing_daemon.btcpay.timeouts import Timeouts
from kosmo_billing_daemon.domain.invoices import InvoiceStatus
from kosmo_billing_daemon.domain.plans import BUILT_IN, Catalogue, Price
from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.errors import NotFound, Unavailable
from kosmo_billing_daemon.store.postgres import locking_users
from tests.services.conftest import IMPATIENT, KEY, STORE, Shop, reserve, until
from tests.services.relay import relay

CREATED, SETTLED, ACTIVATED = "invoice.created", "invoice.settled", "subscription.activated"


async def create_at_btcpay(shop: Shop, order_id: InvoiceId, amount: str = "5.00") -> str:
    """Create an invoice as a daemon does that dies before it attaches it."""
    url = f"{shop.simulator.url}/api/v1/stores/{STORE}/invoices"
    body = {"amount": amount, "currency": "USD", "metadata": {"orderId": str(order_id)}}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"token {KEY}"}) as session,
        session.post(url, json=body) as answer,
    ):
        return str((await answer.json())["id"])


async def test_what_certainly_was_not_created_is_given_up_at_once(shop: Shop, user: UserId) -> None:
    await shop.simulator.go_away()
    with pytest.raises(Unavailable):
        await shop.front.open(user, "wanderer")
    await shop.simulator.come_back()
    invoice, is_new = await shop.front.open(user, "wanderer")
    assert is_new
    rows = await shop.front.rows("SELECT status FROM btcpay_invoices ORDER BY created_at, status")
    assert sorted(row["status"] for row in rows) == ["abandoned", "new"]
    assert list(shop.simulator.invoices) == [invoice.btcpay_invoice_id]


@pytest.mark.parametrize("fault", ["401", "403", "no wallet", "no connection"])
async def test_what_btcpay_refuses_is_given_up_at_once_each_time(
    shop: Shop, user: UserId, fault: str
) -> None:
    """Seen failing: after a 401 or 403 the reservation stayed, and each repeat waited 3 s for nobody."""
    match fault:
        case "401":
            shop.simulator.set_faults(unauthorized=True)
        case "403":
            shop.simulator.add_key(KEY, ("btcpay.store.canviewinvoices",))
        case "no wallet":
            shop.simulator.set_faults(no_wallet=True)
        case _:
            await shop.simulator.go_away()
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await shop.front.open(user, "wanderer")
    assert time.monotonic() - began < 5
    rows = await shop.front.rows("SELECT status, next_check_at FROM btcpay_invoices")
    assert [tuple(row) for row in rows] == [("abandoned", None)] * 3
    assert shop.simulator.invoices == {}


def page(status: int, **headers: str) -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(status=status, headers=headers, text="<h1>x</h1>", content_type="text/html")


UNCERTAIN = {
    **{str(status): page(status) for status in (200, 401, 404, 429)},
    "redirect": page(302, Location="https://login.example/"),
    "another invoice": lambda _: web.json_response({"id": "x"}),
}


@pytest.mark.parametrize("name", UNCERTAIN)
async def test_what_may_exist_is_looked_for_until_it_is_known(shop: Shop, user: UserId, name: str) -> None:
    """BTCPay creates the invoice, and what stands in front of it answers something else.

    Seen failing: after a 404 or a redirect the reservation was given up, and only a webhook could find it.
    """
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    other = UserId(uuid4())
    async with relay(shop.simulator.url) as front:
        one = await shop.start(btcpay_url=front.url)
        two = await shop.start(btcpay_url=front.url)
        front.instead = UNCERTAIN[name]
        began = time.monotonic()
        for daemon, who in ((one, user), (one, other), (one, user), (two, user)):
            with pytest.raises(Unavailable):
                await daemon.open(who, "wanderer")
        assert time.monotonic() - began < 5, "nobody waits for who has given up"
        front.instead = None
        assert len(shop.simulator.invoices) == 2
        invoice, is_new = await two.open(user, "wanderer")
        assert (invoice.status, is_new) == (InvoiceStatus.NEW, False)
        await two.settle()
    (row,) = await shop.front.rows("SELECT status FROM btcpay_invoices WHERE user_id = $1", other)
    assert row["status"] == "new", "the one nobody asked for again is found as well"
    assert len(shop.simulator.invoices) == 2


async def test_a_released_reservation_is_taken_over_by_one(shop: Shop, user: UserId) -> None:
    """Two daemons are asked at once for what a third gave up: one creates, the other waits for it."""
    one, two = shop.front, await shop.start()
    async with relay(shop.simulator.url) as front:
        front.answer = page(502)
        with pytest.raises(Unavailable):
            await (await shop.start(btcpay_url=front.url)).open(user, "wanderer")
    opened = await asyncio.gather(*(each.open(user, "wanderer") for each in (one, two) * 4))
    assert len({invoice.btcpay_invoice_id for invoice, _ in opened}) == 1
    assert len(shop.simulator.invoices) == 1


async def test_parallel_requests_get_one_invoice(shop: Shop, user: UserId) -> None:
    opened = await asyncio.gather(*(shop.front.open(user, "wanderer") for _ in range(8)))
    assert len({invoice.btcpay_invoice_id for invoice, _ in opened}) == 1
    assert Counter(is_new for _, is_new in opened) == {True: 1, False: 7}
    assert len(shop.simulator.invoices) == 1
    assert await shop.front.events(user) == [CREATED]


async def test_parallel_requests_at_two_daemons_get_one_invoice(shop: Shop, user: UserId) -> None:
    one, two = shop.front, await shop.start()
    opened = await asyncio.gather(*(daemon.open(user, "wanderer") for daemon in (one, two, one, two)))
    assert len({invoice.btcpay_invoice_id for invoice, _ in opened}) == 1
    assert len(shop.simulator.invoices) == 1


async def test_a_stricter_isolation_by_default_lets_nobody_open_two_invoices(
    shop: Shop, user: UserId
) -> None:
    """Seen: 31 of 40 users with two, since a snapshot was taken before the lock was had."""
    name = urlsplit(shop.database_url).path.lstrip("/")
    await shop.front.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    one, two = await shop.start(), await shop.start()
    holder = await asyncpg.connect(shop.database_url)
    try:
        async with holder.transaction():
            await holder.execute(locking_users([user]))
            opening = [asyncio.create_task(d.open(user, "wanderer")) for d in (one, two)]
            waiting = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: holder.fetchval(waiting), "both wait for the user's lock")
        opened = await asyncio.gather(*opening)
    finally:
        await holder.close()
    assert len({invoice.btcpay_invoice_id for invoice, _ in opened}) == 1
    assert len(shop.simulator.invoices) == 1


async def test_what_another_daemon_gave_up_meanwhile_is_no_invoice(shop: Shop, user: UserId) -> None:
    """The second one waits for the first, who finds that BTCPay cannot have created anything."""
    hurried = Timeouts(connect=1, call=1, create=0.5)
    one, two = await shop.start(timeouts=hurried), await shop.start(timeouts=hurried)
    shop.simulator.set_faults(slow_ms=60_000)
    first = asyncio.create_task(one.open(user, "wanderer"))
    await until(lambda: one.rows("SELECT FROM btcpay_invoices"), "the reservation")
    second = asyncio.create_task(two.open(user, "wanderer"))

    async def waits() -> bool:
        return bool(two.invoicing._in_progress)

    await until(waits, "who waits for it")
    await one.execute("UPDATE btcpay_invoices SET status = 'abandoned'")
    for asked in (second, first):
        with pytest.raises(Unavailable):
            await asked


async def test_open_invoice_is_returned_until_it_expires_or_is_paid(shop: Shop, user: UserId) -> None:
    first = await shop.open(user)
    shop.clock.move(minutes=14)
    again, is_new = await shop.front.open(user, "wanderer")
    assert (again.id, is_new) == (first.id, False)
    other, is_new = await shop.front.open(user, "guardian")
    assert is_new
    assert other.id != first.id
    shop.clock.move(minutes=2)
    second, is_new = await shop.front.open(user, "wanderer")
    assert is_new
    assert second.id != first.id
    await shop.act(second, "pay")
    third, is_new = await shop.front.open(user, "wanderer")
    assert is_new
    assert third.id not in (first.id, second.id)


async def test_users_never_share_an_invoice(shop: Shop, user: UserId) -> None:
    mine = await shop.open(user)
    stranger = UserId(uuid4())
    theirs, is_new = await shop.front.open(stranger, "wanderer")
    assert is_new
    assert theirs.id != mine.id
    with pytest.raises(NotFound):
        await shop.front.invoicing.show(stranger, shop.btcpay_id(mine))


async def test_creation_whose_answer_is_lost_is_found_by_its_order_id(shop: Shop, user: UserId) -> None:
    await shop.start(timeouts=IMPATIENT)
    shop.simulator.set_faults(create_times_out=True)
    invoice, is_new = await shop.front.open(user, "wanderer")
    assert is_new
    assert list(shop.simulator.invoices) == [invoice.btcpay_invoice_id]
    assert invoice.status is InvoiceStatus.NEW
    assert await shop.front.events(user) == [CREATED]


async def test_request_after_an_outage_uses_the_same_reservation(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    shop.clock.move(minutes=2)
    invoice, is_new = await shop.front.open(user, "wanderer")
    assert (invoice.id, is_new) == (reserved, False)
    assert invoice.status is InvoiceStatus.NEW
    assert len(shop.simulator.invoices) == 1


async def test_request_after_a_crash_finds_what_was_created(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    created = await create_at_btcpay(shop, reserved)
    shop.clock.move(minutes=2)
    invoice, _ = await (await shop.start()).open(user, "wanderer")
    assert (invoice.id, invoice.btcpay_invoice_id) == (reserved, created)
    assert len(shop.simulator.invoices) == 1


async def test_orphan_is_attached_by_reconciliation(shop: Shop, user: UserId) -> None:
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    reserved = await reserve(shop, user)
    created = await create_at_btcpay(shop, reserved)
    await shop.wait(seconds=59)
    assert (await shop.front.invoice(reserved))["status"] == "reserved"
    await shop.wait(seconds=1)
    kept = await shop.front.invoice(reserved)
    assert (kept["status"], kept["btcpay_invoice_id"]) == ("new", created)
    assert await shop.front.events(user) == [CREATED]


async def test_orphan_is_attached_and_fulfilled_by_its_own_webhooks(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    created = await create_at_btcpay(shop, reserved)
    await shop.simulator.act(created, "pay", None, "BTC-LN")
    await shop.told()
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_reservation_that_btcpay_never_saw_is_abandoned(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    for _ in range(12):
        await shop.wait(minutes=1)
    kept = await shop.front.invoice(reserved)
    assert (kept["status"], kept["next_check_at"]) == ("abandoned", None)
    assert await shop.front.events(user) == []
    invoice, is_new = await shop.front.open(user, "wanderer")
    assert is_new
    assert invoice.id != reserved


async def test_abandoned_reservation_that_turns_up_after_all_is_honoured(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    for _ in range(12):
        await shop.wait(minutes=1)
    created = await create_at_btcpay(shop, reserved)
    await shop.simulator.act(created, "pay", None, "BTC-LN")
    await shop.told()
    assert (await shop.front.events(user))[-2:] == [SETTLED, ACTIVATED]


async def test_refusal_frees_the_user_to_try_again(shop: Shop, user: UserId) -> None:
    wanderer = BUILT_IN.plans[0]
    unknown_currency = replace(wanderer, price=Price(wanderer.price.amount, "XQX"))
    daemon = await shop.start(catalogue=Catalogue((unknown_currency,)))
    with pytest.raises(Unavailable) as refused:
        await daemon.open(user, "wanderer")
    assert refused.value.code == "btcpay_refused"
    (row,) = await shop.front.rows("SELECT status FROM btcpay_invoices")
    assert row["status"] == "abandoned"
    _, is_new = await (await shop.start()).open(user, "wanderer")
    assert is_new


async def test_caller_who_leaves_does_not_stop_the_creation(shop: Shop, user: UserId) -> None:
    shop.simulator.set_faults(slow_ms=100)
    request = asyncio.create_task(shop.front.open(user, "wanderer"))
    await until(lambda: shop.front.rows("SELECT FROM btcpay_invoices"), "it is reserved")
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    attached = "SELECT FROM btcpay_invoices WHERE status = 'new'"
    await until(lambda: shop.front.rows(attached), "it is attached")
    assert len(shop.simulator.invoices) == 1


async def test_two_creations_for_one_order_attach_one(shop: Shop, user: UserId) -> None:
    reserved = await reserve(shop, user)
    created = {await create_at_btcpay(shop, reserved) for _ in range(2)}
    await shop.told()
    kept = await shop.front.invoice(reserved)
    assert kept["btcpay_invoice_id"] in created
    assert await shop.front.events(user) == [CREATED]
    assert await shop.front.cases(user) == []


async def test_invoice_is_shown_as_btcpay_sees_it_at_most_every_two_seconds(shop: Shop, user: UserId) -> None:
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    invoice = await shop.open(user)
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
    shown = await shop.front.invoicing.show(user, shop.btcpay_id(invoice))
    assert shown.status is InvoiceStatus.NEW
    shop.clock.move(seconds=2)
    shown = await shop.front.invoicing.show(user, shop.btcpay_id(invoice))
    assert shown.status is InvoiceStatus.SETTLED
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]


async def test_invoice_is_shown_as_last_seen_while_btcpay_is_away(shop: Shop, user: UserId) -> None:
    daemon = await shop.start(timeouts=Timeouts(connect=1, call=1, create=1))
    invoice = await shop.open(user)
    shop.clock.move(seconds=3)
    await shop.simulator.go_away()
    shown = await daemon.invoicing.show(user, shop.btcpay_id(invoice))
    assert shown.status is InvoiceStatus.NEW
