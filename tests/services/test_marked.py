"""Invoices marked by hand at BTCPay (R8), and settled by hand here (R6)."""

from datetime import timedelta
from decimal import Decimal

import pytest

from kosmo_billing_daemon.domain.subscriptions import InvoiceId, UserId
from kosmo_billing_daemon.errors import NotFound
from tests.services.conftest import Shop, nothing_more

MONTH = timedelta(days=30)
CREATED, PROCESSING, SETTLED = "invoice.created", "invoice.processing", "invoice.settled"
EXPIRED, INVALID, ATTENTION = "invoice.expired", "invoice.invalid", "invoice.needs_attention"
ACTIVATED, REVOKED, CHANGED = "subscription.activated", "subscription.revoked", "subscription.changed"


async def test_invoice_marked_settled_is_fulfilled_by_hand(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED]
    (row,) = await shop.front.subscriptions(user)
    assert (row["source"], row["status"]) == ("manual", "active")
    assert (await shop.front.invoice(invoice.id))["payment"] == "marked"


async def test_expired_partial_payment_marked_settled_closes_its_case(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial", "confirm")
    await shop.wait(minutes=16)
    await shop.act(invoice, "mark_settled")
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION, SETTLED, ACTIVATED]
    assert await shop.front.cases(user) == [("partial_payment", Decimal("2.50"), False)]


async def test_invalid_after_fulfilment_revokes_and_settled_again_gives_the_same_period(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled")
    (bought,) = await shop.front.subscriptions(user)
    shop.clock.move(days=4)
    await shop.act(invoice, "mark_invalid")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED, INVALID, REVOKED]
    (revoked,) = await shop.front.subscriptions(user)
    assert (revoked["status"], revoked["ended_at"]) == ("revoked", shop.clock())
    assert (await shop.front.invoice(invoice.id))["effect"] == "revoked"
    shop.clock.move(days=4)
    await shop.act(invoice, "mark_settled")
    assert await shop.front.events(user) == [
        *(CREATED, SETTLED, ACTIVATED, INVALID, REVOKED),
        *(SETTLED, ACTIVATED),
    ]
    (again,) = await shop.front.subscriptions(user)
    changed = {key for key in bought.keys() if bought[key] != again[key]}  # noqa: SIM118  a record, no dict
    assert changed == set()
    assert again["valid_until"] == bought["valid_from"] + MONTH


async def test_settled_again_after_its_period_gives_nothing_more(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled", "mark_invalid")
    await shop.wait(days=31)
    await shop.act(invoice, "mark_settled")
    assert await shop.front.events(user) == [CREATED, SETTLED, ACTIVATED, INVALID, REVOKED, SETTLED]
    assert await shop.front.statuses(user) == ["expired"]


async def test_revoking_a_renewal_brings_the_first_period_back(shop: Shop, user: UserId) -> None:
    await shop.buy(user)
    (first,) = await shop.front.subscriptions(user)
    shop.clock.move(days=10)
    renewal = await shop.open(user)
    await shop.act(renewal, "mark_settled", "mark_invalid")
    assert await shop.front.events(user) == [
        *(CREATED, SETTLED, ACTIVATED),
        *(CREATED, SETTLED, "subscription.renewed", INVALID, REVOKED),
    ]
    back, revoked = await shop.front.subscriptions(user)
    assert (back["status"], revoked["status"]) == ("active", "revoked")
    assert back["valid_until"] == first["valid_until"]
    await shop.act(renewal, "mark_settled")
    assert (await shop.front.events(user))[-2:] == [SETTLED, CHANGED]
    assert await shop.front.statuses(user) == ["replaced", "active"]
    renewed = (await shop.front.subscriptions(user))[-1]
    assert renewed["valid_until"] == first["valid_until"] + MONTH


async def test_unpaid_invoice_marked_invalid_changes_nothing_else(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_invalid")
    assert await shop.front.events(user) == [CREATED, INVALID]
    assert await shop.front.cases(user) == []


async def test_unpaid_invoice_marked_invalid_and_settled_after_all_is_found_without_a_hint(
    shop: Shop, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_invalid")
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.act(invoice, "mark_settled")
    await shop.wait(minutes=1)
    assert await shop.front.events(user) == [CREATED, INVALID, SETTLED, ACTIVATED]


async def test_partly_paid_invoice_marked_invalid_is_listed(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial", "confirm", "mark_invalid")
    assert await shop.front.events(user) == [CREATED, INVALID, ATTENTION]
    assert await shop.front.cases(user) == [("paid_invalid", Decimal("2.50"), True)]
    await shop.act(invoice, "mark_settled")
    assert await shop.front.events(user) == [CREATED, INVALID, ATTENTION, SETTLED, ACTIVATED]
    assert await shop.front.cases(user) == [("paid_invalid", Decimal("2.50"), False)]
    await shop.act(invoice, "mark_invalid")
    assert await shop.front.cases(user) == [("paid_invalid", Decimal("2.50"), True)]
    await shop.front.execute("UPDATE attention_cases SET closed_at = now(), resolution = 'paid back'")
    await shop.act(invoice, "mark_settled", "mark_invalid")
    assert await shop.front.cases(user) == [("paid_invalid", Decimal("2.50"), False)], "it is decided"


async def test_operator_settles_a_partial_payment_once(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay_partial", "confirm")
    await shop.wait(minutes=16)
    for _ in range(2):
        settled = await shop.front.settlement.settle_by_hand(
            invoice.id, "the customer is known", also=nothing_more
        )
        assert settled.effect == "fulfilled"
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION, SETTLED, ACTIVATED]
    (row,) = await shop.front.subscriptions(user)
    assert (row["source"], row["status"]) == ("manual", "active")
    (case,) = await shop.front.rows("SELECT * FROM attention_cases")
    assert (case["closed_at"], case["resolution"]) == (shop.clock(), "the customer is known")
    await shop.act(invoice, "pay_late", "confirm")
    await shop.wait(days=1)
    assert await shop.front.events(user) == [CREATED, EXPIRED, ATTENTION, SETTLED, ACTIVATED]
    assert len(await shop.front.subscriptions(user)) == 1


async def test_operator_settling_while_btcpay_does_so_too_fulfils_once(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "pay")
    await shop.front.settlement.settle_by_hand(invoice.id, "seen in the mempool", also=nothing_more)
    await shop.act(invoice, "confirm")
    assert await shop.front.events(user) == [CREATED, PROCESSING, SETTLED, ACTIVATED]
    assert await shop.front.statuses(user) == ["active"]


async def test_operator_cannot_settle_what_is_unknown(shop: Shop, user: UserId) -> None:
    with pytest.raises(NotFound):
        await shop.front.settlement.settle_by_hand(InvoiceId(user), "a slip", also=nothing_more)


async def test_answer_that_comes_late_undoes_nothing_that_a_later_look_has_seen(
    shop: Shop, user: UserId
) -> None:
    """Seen to fail when ``lock`` takes no number: the old answer reinstates what was revoked."""
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled")
    settlement = shop.front.settlement
    late = await settlement.look_up([invoice])
    await shop.act(invoice, "mark_invalid")
    assert await shop.front.statuses(user) == ["revoked"]
    assert await settlement.settle(late.observations, number=late.number) == {}
    assert await shop.front.statuses(user) == ["revoked"]
    assert (await shop.front.events(user))[-2:] == [INVALID, REVOKED]


async def test_marking_whose_webhook_is_lost_is_noticed_by_reconciliation(shop: Shop, user: UserId) -> None:
    invoice = await shop.open(user)
    await shop.act(invoice, "mark_settled")
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.simulator.act(shop.btcpay_id(invoice), "mark_invalid")
    await shop.wait(minutes=1)
    assert await shop.front.statuses(user) == ["revoked"]
