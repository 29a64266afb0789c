"""``WEBHOOK_TRUST=body``: the body is the fact, for a local test without any BTCPay."""

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.services.conftest import Shop

CREATED, SETTLED, ACTIVATED = "invoice.created", "invoice.settled", "subscription.activated"


async def claim(shop: Shop, invoice_id: str, status: str) -> None:
    body = f'{{"type": "Invoice{status}", "invoiceId": "{invoice_id}", "status": "{status}"}}'
    await shop.front.inbox.record(shop.delivery(body.encode()))
    await shop.front.settle()


async def test_claim_activates_without_asking_btcpay(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.simulator.drained()
    await shop.start(trust_body=True)
    await shop.simulator.go_away()
    for _ in range(2):
        await claim(shop, shop.btcpay_id(invoice), "Settled")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    assert await shop.front.statuses(user) == ["active"]
    shop.clock.move(hours=1)
    await shop.front.settle()
    assert await shop.front.statuses(user) == ["active"]


async def test_last_claim_of_a_batch_counts(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.start(trust_body=True)
    await claim(shop, shop.btcpay_id(invoice), "Settled")
    await claim(shop, shop.btcpay_id(invoice), "Invalid")
    assert (await shop.front.events(user))[3:] == ["invoice.invalid", "subscription.revoked"]


async def test_claim_changes_nothing_while_btcpay_says_otherwise(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await claim(shop, shop.btcpay_id(invoice), "Settled")
    assert await shop.front.events(user) == [CREATED]
    assert await shop.front.subscriptions(user) == []
    (row,) = await shop.front.rows("SELECT DISTINCT outcome FROM webhook_deliveries")
    assert row["outcome"] == "ours"
