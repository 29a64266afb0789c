"""The client against a BTCPay that works: every call and what it brings."""

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.btcpay.client import ORDERS_PER_CALL, BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.invoices import InvoiceStatus, Payment, needs_confirmation
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.errors import Invalid, Misconfigured
from tests.btcpay.servers import KEY, STORE, client_of

PLAN = BUILT_IN.plans[0]


async def test_a_created_invoice_carries_our_order_and_price(
    client: BtcpayClient, simulator: Simulator
) -> None:
    order_id = uuid4()
    seen = await client.create_invoice(
        order_id, PLAN, redirect_url="https://kosmo.example/done", expiration=timedelta(minutes=30)
    )
    assert (seen.order_id, seen.store_id) == (str(order_id), STORE)
    assert (seen.amount, seen.currency, seen.paid_amount) == (Decimal(5), "USD", Decimal(0))
    assert (seen.status, seen.payment) == (InvoiceStatus.NEW, Payment.NONE)
    there = simulator.invoices[seen.btcpay_invoice_id]
    assert there.checkout.expiration_minutes == 30
    assert there.checkout.redirect_url == "https://kosmo.example/done"
    assert seen.expires_at == there.expires
    assert seen.checkout_url == f"{simulator.url}/i/{seen.btcpay_invoice_id}"


async def test_the_stores_expiration_holds_where_none_is_given(
    client: BtcpayClient, simulator: Simulator
) -> None:
    seen = await client.create_invoice(uuid4(), PLAN)
    assert simulator.invoices[seen.btcpay_invoice_id].checkout.expiration_minutes == 15


async def test_checkout_links_lead_to_the_public_address_in_every_answer(simulator: Simulator) -> None:
    async with client_of(simulator.url, public_url="https://pay.example/shop/") as client:
        created = await client.create_invoice(order_id := uuid4(), PLAN)
        expected = f"https://pay.example/shop/i/{created.btcpay_invoice_id}"
        fetched = await client.fetch_invoice(created.btcpay_invoice_id)
        (found,) = await client.find_invoices([order_id])
        marked = await client.mark(created.btcpay_invoice_id, settled=True)
    assert fetched is not None
    assert {seen.checkout_url for seen in (created, fetched, found, marked)} == {expected}


async def test_every_invoice_of_an_order_is_found_archived_ones_too(
    client: BtcpayClient, simulator: Simulator
) -> None:
    order_id = uuid4()
    created = [await client.create_invoice(order_id, PLAN) for _ in range(2)]
    await client.create_invoice(uuid4(), PLAN)
    simulator.invoices[created[0].btcpay_invoice_id].archived = True
    found = await client.find_invoices([order_id, uuid4(), order_id])
    assert {seen.btcpay_invoice_id for seen in found} == {seen.btcpay_invoice_id for seen in created}


async def test_five_hundred_orders_are_found(client: BtcpayClient) -> None:
    wanted = [uuid4() for _ in range(500)]
    made = [await client.create_invoice(order_id, PLAN) for order_id in wanted[:: ORDERS_PER_CALL - 1]]
    found = await client.find_invoices(wanted)
    assert len(made) > 3
    assert {seen.order_id for seen in found} == {seen.order_id for seen in made}


async def test_no_orders_need_no_call(client: BtcpayClient, simulator: Simulator) -> None:
    await simulator.go_away()
    assert await client.find_invoices([]) == []


@pytest.mark.parametrize("version", ["2.4.1", "2.3.4"])
async def test_an_unknown_invoice_is_none_in_every_version(version: str) -> None:
    async with (
        Simulator(store_id=STORE, api_key=KEY, version=version) as simulator,
        client_of(simulator.url) as client,
    ):
        assert await client.fetch_invoice("SkdsDghkdP3D3qkj7bLq3") is None
        assert client.state.denied is None
        created = await client.create_invoice(uuid4(), PLAN)
        assert await client.fetch_invoice(created.btcpay_invoice_id) == created


@pytest.mark.parametrize(
    "btcpay_id", ["", ".", "..", "../../api-keys/current", "a/b", "a?b", "a%2Fb", "é", "a\0"]
)
async def test_an_id_cannot_lead_to_another_path(client: BtcpayClient, btcpay_id: str) -> None:
    assert await client.fetch_invoice(btcpay_id) is None
    with pytest.raises(Invalid):
        await client.mark(btcpay_id, settled=True)
    with pytest.raises(Invalid):
        await client.list_deliveries(btcpay_id)


async def test_a_missing_right_is_not_an_unknown_invoice(client: BtcpayClient, simulator: Simulator) -> None:
    created = await client.create_invoice(uuid4(), PLAN)
    simulator.add_key(KEY, ("btcpay.store.cancreateinvoice",))
    with pytest.raises(BtcpayDenied) as caught:
        await client.fetch_invoice(created.btcpay_invoice_id)
    assert "btcpay.store.canviewinvoices" in caught.value.message
    assert client.state.denied is not None
    assert "btcpay.store.canviewinvoices" in client.state.denied
    await client.create_invoice(uuid4(), PLAN)
    assert client.state.denied is not None, "another call working does not give this right back"
    simulator.add_key(KEY, ("btcpay.store.canviewinvoices",))
    assert await client.fetch_invoice(created.btcpay_invoice_id) == created
    assert client.state.denied is None


async def test_a_revoked_key_is_told_and_forgiven(client: BtcpayClient, simulator: Simulator) -> None:
    created = await client.create_invoice(uuid4(), PLAN)
    simulator.revoke_key(KEY)
    with pytest.raises(BtcpayDenied) as caught:
        await client.fetch_invoice(created.btcpay_invoice_id)
    assert caught.value.unauthenticated
    with pytest.raises(BtcpayDenied):
        await client.create_invoice(uuid4(), PLAN)
    assert client.state.reachable
    assert client.state.denied is not None
    simulator.add_key(KEY, ("btcpay.store.canmodifyinvoices",))
    assert await client.current_key() == {"btcpay.store.canmodifyinvoices"}
    assert client.state.denied is None


async def test_a_late_payment_is_confirmed_once_it_settled(
    client: BtcpayClient, simulator: Simulator
) -> None:
    created = await client.create_invoice(uuid4(), PLAN)
    await simulator.act(created.btcpay_invoice_id, "pay_late")
    seen = await client.fetch_invoice(created.btcpay_invoice_id)
    assert seen is not None
    assert needs_confirmation(seen)
    waiting = await client.fetch_confirmations(seen)
    assert waiting.confirmed_amount == 0
    await simulator.act(created.btcpay_invoice_id, "confirm")
    settled = await client.fetch_confirmations(seen)
    assert settled.confirmed_amount == Decimal(5)
    assert settled.last_received_at is not None
    assert settled.last_received_at >= seen.expires_at


async def test_marking_works_as_far_as_btcpay_allows(client: BtcpayClient, simulator: Simulator) -> None:
    created = await client.create_invoice(uuid4(), PLAN)
    settled = await client.mark(created.btcpay_invoice_id, settled=True)
    assert (settled.status, settled.payment) == (InvoiceStatus.SETTLED, Payment.MARKED)
    invalid = await client.mark(created.btcpay_invoice_id, settled=False)
    assert invalid.status is InvoiceStatus.INVALID
    paid = await client.create_invoice(uuid4(), PLAN)
    await simulator.act(paid.btcpay_invoice_id, "pay", method="BTC-LN")
    with pytest.raises(BtcpayRefused) as caught:
        await client.mark(paid.btcpay_invoice_id, settled=False)
    assert caught.value.status == 422
    assert caught.value.complaints[0].path == "Status"
    assert "certain conditions" in str(caught.value)
    assert client.state.reachable


async def test_what_btcpay_refuses_to_create_is_told_in_its_words(client: BtcpayClient) -> None:
    with pytest.raises(BtcpayRefused) as caught:
        await client.create_invoice(uuid4(), PLAN, expiration=timedelta(minutes=10**10))
    assert caught.value.status == 422
    assert [complaint.path for complaint in caught.value.complaints] == ["checkout.expirationMinutes"]


async def test_server_store_and_key_are_told(client: BtcpayClient) -> None:
    server = await client.server_info()
    assert (server.version, server.synchronized) == ("2.4.1", True)
    store = await client.fetch_store()
    assert (store.id, store.default_currency) == (STORE, "USD")
    assert store.payment_tolerance == Decimal(0)
    assert "btcpay.store.canviewinvoices" in await client.current_key()


async def test_a_webhook_is_registered_and_fixed(client: BtcpayClient) -> None:
    made = await client.create_webhook(
        "https://kosmo.example/hook", secret="s3cret-of-ours", events=["InvoiceSettled"]
    )
    assert (made.everything, made.events, made.secret) == (False, ("InvoiceSettled",), "s3cret-of-ours")
    assert "s3cret" not in repr(made)
    (listed,) = await client.list_webhooks()
    assert (listed.id, listed.secret, listed.events) == (made.id, None, ("InvoiceSettled",))
    all_events = type(made)(
        id=made.id, url="https://kosmo.example/new", enabled=True, automatic_redelivery=True, everything=True
    )
    fixed = await client.update_webhook(all_events)
    assert (fixed.url, fixed.everything, fixed.events) == ("https://kosmo.example/new", True, ())
    assert await client.list_webhooks() == [fixed]


async def test_an_own_secret_is_made_where_none_is_given(client: BtcpayClient) -> None:
    assert (await client.create_webhook("https://kosmo.example/hook")).secret


async def test_a_wrong_webhook_address_is_refused(client: BtcpayClient) -> None:
    with pytest.raises(BtcpayRefused, match="Invalid Url"):
        await client.create_webhook("nowhere")


async def test_delivery_attempts_are_listed(client: BtcpayClient, simulator: Simulator) -> None:
    webhook_id = simulator.add_webhook(f"{simulator.url}/nothing-here")
    await client.create_invoice(uuid4(), PLAN)
    await simulator.drained()
    (attempt,) = await client.list_deliveries(webhook_id, count=1)
    assert (attempt.http_code, attempt.succeeded) == (404, False)
    assert attempt.sent_at is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"url": "btcpay.example"}, "BTCPAY_URL"),
        ({"url": "ftp://btcpay.example"}, "BTCPAY_URL"),
        ({"url": "https://user:word@btcpay.example"}, "BTCPAY_URL"),
        ({"url": "https://btcpay.example/?a=b"}, "BTCPAY_URL"),
        ({"url": "https://btcpay.example:99999"}, "BTCPAY_URL"),
        ({"url": "https://btcpay.example/" + "x" * 500}, "BTCPAY_URL"),
        ({"public_url": "//btcpay.example"}, "BTCPAY_PUBLIC_URL"),
        ({"store_id": "../x"}, "BTCPAY_STORE_ID"),
        ({"api_key": "two words"}, "BTCPAY_API_KEY"),
        ({"api_key": "k\u00e9y"}, "BTCPAY_API_KEY"),
        ({"api_key": "key\r\nX-Header: 1"}, "BTCPAY_API_KEY"),
    ],
)
def test_settings_that_cannot_work_are_named_without_the_key(changes: dict[str, str], named: str) -> None:
    usable = {"url": "https://btcpay.example", "api_key": KEY, "store_id": STORE}
    with pytest.raises(Misconfigured) as caught:
        BtcpayClient(**{**usable, **changes})  # type: ignore[arg-type]  # only texts
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [named]
    assert changes.get("api_key", KEY) not in str(caught.value)
