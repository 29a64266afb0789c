"""The books from the command line."""

import csv
import io
from decimal import Decimal

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.cli.conftest import Cli, Make
from tests.services.conftest import Shop

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


async def test_check_says_whether_the_books_agree(shop: Shop, make_cli: Make, user: UserId) -> None:
    cli = make_cli(BTCPAY_URL=shop.simulator.url)
    day = f"{shop.clock():%Y-%m-%d}"
    invoice = await shop.buy(user)
    agreed = await cli("ledger", "check", "--from", day, "--to", day)
    assert (agreed.code, "the ledger and BTCPay agree" in agreed.out) == (0, True), agreed
    shop.simulator.set_faults(webhooks={"drop": 1.0})
    await shop.simulator.act(shop.btcpay_id(invoice), "pay", "3.00", "BTC-LN")
    differing = await cli("ledger", "check", "--from", day, "--to", day)
    assert differing.code == 1
    assert f"{shop.btcpay_id(invoice)}: BTCPay received 8.00, the ledger has 5" in differing.out


async def test_the_exported_totals_are_those_of_btcpay(shop: Shop, cli: Cli, user: UserId) -> None:
    day = f"{shop.clock():%Y-%m-%d}"
    await shop.buy(user)
    await shop.lightning(await shop.open(user, "guardian"), "14.00")
    done = await cli("ledger", "export", "--from", day, "--to", day)
    assert done.code == 0, done
    rows = list(csv.DictReader(io.StringIO(done.out)))
    totals: dict[str, Decimal] = {}
    for row in rows:
        totals[row["kind"]] = totals.get(row["kind"], Decimal(0)) + Decimal(row["amount"])
    paid = sum(invoice.confirmed for invoice in shop.simulator.invoices.values())
    assert totals == {"received": paid, "sold": Decimal(-17)}
    assert {row["invoice_id"] for row in rows} == set(shop.simulator.invoices)
    listed = (await cli("ledger", "export", "--from", day, "--to", day, "--format", "json")).json
    assert [each["amount"] for each in listed] == [row["amount"] for row in rows]
    nothing = await cli("ledger", "export", "--from", "2020-01-01", "--to", "2020-01-01", "--format", "json")
    assert nothing.json == []
    await shop.front.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES ($1, $2, 'granted', 1, 'USD', 'eva', '=1+1')",
        shop.clock(),
        user,
    )
    assert "'=1+1" in (await cli("ledger", "export", "--from", day, "--to", day)).out
    assert "a day as 2026-03-01" in (await cli("ledger", "export", "--from", "x", "--to", day)).err


async def test_user_show_tells_the_story_of_a_customers_money(
    shop: Shop, make_cli: Make, user: UserId
) -> None:
    cli = make_cli(BTCPAY_URL=shop.simulator.url)
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    name = shop.btcpay_id(invoice)
    await cli("refund", "make", name, "--amount", "1.50", "--reason", "ticket 7")
    shown = (await cli("user", "show", str(user))).out
    assert "credit: 0.50 USD" in shown
    assert f"7.00 USD received by BTCPay for wanderer (invoice {name})" in shown
    assert f"5.00 USD paid for wanderer (invoice {name})" in shown
    assert f"1.50 USD refunded (invoice {name}), by " in shown
    assert "ticket 7" in shown
    told = (await cli("user", "show", str(user), "--json")).json
    assert [entry["kind"] for entry in told["ledger"]] == ["refunded", "sold", "received"]
