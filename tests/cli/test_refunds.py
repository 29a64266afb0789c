"""Refunds from the command line."""

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.cli.conftest import Make
from tests.services.conftest import Shop

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


async def test_the_rest_of_a_plan_becomes_credit_and_is_refunded(
    shop: Shop, make_cli: Make, user: UserId
) -> None:
    cli = make_cli(BTCPAY_URL=shop.simulator.url)
    invoice = await shop.buy(user, "sanctuary")
    ended = await cli("user", "revoke", str(user), "--credit", "--reason", "moves away")
    assert ended.code == 0, ended
    (row,) = await shop.front.subscriptions(user)
    assert row["status"] == "expired"
    (posting,) = await shop.front.rows("SELECT * FROM ledger WHERE kind = 'sold' AND amount > 0")
    assert posting["reverses"] is not None
    assert 33 < posting["amount"] < 34  # bought ten days ago
    made = (await cli("refund", "make", shop.btcpay_id(invoice), "--reason", "moves away", "--json")).json
    assert float(made["amount"]) == pytest.approx(float(posting["amount"]), abs=0.01)
    again = await cli("user", "revoke", str(user), "--credit", "--reason", "moves away")
    assert (again.code, "no current subscription" in again.err) == (1, True)


async def test_an_operator_refunds_an_excess_and_takes_it_back(
    shop: Shop, make_cli: Make, user: UserId
) -> None:
    cli = make_cli(BTCPAY_URL=shop.simulator.url)
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    name = shop.btcpay_id(invoice)
    made = await cli("refund", "make", name, "--reason", "ticket 7")
    assert made.code == 0, made
    (pull_payment,) = shop.simulator.pull_payments.values()
    assert f"2.00 USD of invoice {name} can be claimed by user {user} at" in made.out
    assert f"{shop.simulator.url}/pull-payments/{pull_payment.id}" in made.out
    again = (await cli("refund", "make", name, "--reason", "ticket 7", "--json")).json
    assert (again["link"], again["amount"]) == (
        f"{shop.simulator.url}/pull-payments/{pull_payment.id}",
        "2.00",
    )
    refused = await cli("refund", "make", name, "--amount", "lots", "--reason", "ticket 7")
    assert refused.code != 0
    assert "an amount such as 4.10 is needed" in refused.err
    (of_user,) = (await cli("refund", "make", "--user", str(user), "--reason", "ticket 7", "--json")).json
    assert of_user == again
    both = await cli("refund", "make", name, "--user", str(user), "--reason", "ticket 7")
    assert (both.code, "one of both" in both.err) == (2, True)
    cancelled = await cli("refund", "cancel", name, "--reason", "a mistake")
    assert cancelled.code == 0, cancelled
    assert pull_payment.archived
