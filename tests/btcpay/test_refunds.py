"""Refunds: made, seen, claimed and taken back, at a simulated BTCPay."""

from decimal import Decimal
from uuid import uuid4

import pytest

from kosmo_billing_daemon.btcpay import refunds
from kosmo_billing_daemon.btcpay.client import BtcpayClient
from kosmo_billing_daemon.btcpay.errors import BtcpayDenied, BtcpayRefused
from kosmo_billing_daemon.btcpay.refunds import ClaimState
from kosmo_billing_daemon.demo.btcpay import Simulator
from kosmo_billing_daemon.domain.plans import BUILT_IN, Price
from tests.btcpay.servers import KEY, client_of

PLAN = BUILT_IN.plans[0]
SUM = Price(Decimal("2.00"), "USD")


async def paid(client: BtcpayClient, simulator: Simulator) -> str:
    created = await client.create_invoice(uuid4(), PLAN)
    await simulator.act(created.btcpay_invoice_id, "pay", method="BTC-LN")
    return created.btcpay_invoice_id


async def test_a_refund_is_made_over_the_sum_asked_for_and_found_by_its_name(
    client: BtcpayClient, simulator: Simulator
) -> None:
    made = await refunds.refund(client, await paid(client, simulator), SUM, "our refund 7")
    assert (made.total, made.is_archived) == (SUM, False)
    assert made.link == f"{simulator.url}/pull-payments/{made.id}"
    assert await refunds.fetch(client, made.id) == made
    assert await refunds.find(client, "our refund 7") == made
    assert await refunds.find(client, "our refund 8") is None


async def test_the_link_leads_to_where_customers_reach_btcpay(simulator: Simulator) -> None:
    async with client_of(simulator.url, public_url="https://pay.example/shop/") as client:
        made = await refunds.refund(client, await paid(client, simulator), SUM, "x")
    assert made.link == f"https://pay.example/shop/pull-payments/{made.id}"


async def test_an_invoice_without_money_is_not_refunded(client: BtcpayClient) -> None:
    created = await client.create_invoice(uuid4(), PLAN)
    with pytest.raises(BtcpayRefused) as refused:
        await refunds.refund(client, created.btcpay_invoice_id, SUM, "x")
    assert refused.value.btcpay_code == "non-refundable"


async def test_a_claim_is_seen_until_it_is_paid(client: BtcpayClient, simulator: Simulator) -> None:
    made = await refunds.refund(client, await paid(client, simulator), SUM, "x")
    assert await refunds.fetch_claims(client, made.id) == []
    payout = simulator.claim(made.id, "1.50")
    (claim,) = await refunds.fetch_claims(client, made.id)
    assert (claim.amount, claim.state) == (Decimal("1.50"), ClaimState.AWAITING_APPROVAL)
    simulator.pay_out(payout)
    assert [each.state for each in await refunds.fetch_claims(client, made.id)] == [ClaimState.COMPLETED]


async def test_an_archived_refund_cannot_be_claimed(client: BtcpayClient, simulator: Simulator) -> None:
    made = await refunds.refund(client, await paid(client, simulator), SUM, "x")
    await refunds.archive(client, made.id)
    await refunds.archive(client, made.id)
    seen = await refunds.fetch(client, made.id)
    assert seen is not None
    assert seen.is_archived
    assert await refunds.find(client, "x") == seen


@pytest.mark.parametrize("unknown", ["nothing", "../api-keys", "", "a/b"])
async def test_an_unknown_refund_is_none(client: BtcpayClient, unknown: str) -> None:
    assert await refunds.fetch(client, unknown) is None


async def test_a_key_without_the_right_is_told_which_one_it_needs(
    client: BtcpayClient, simulator: Simulator
) -> None:
    invoice_id = await paid(client, simulator)
    simulator.add_key(KEY, ("btcpay.store.canmodifyinvoices",))
    with pytest.raises(BtcpayDenied, match="cancreatenonapprovedpullpayments"):
        await refunds.refund(client, invoice_id, SUM, "x")
