"""Who there is, whose a name is, and which webhooks were about nobody's order, as an operator asks for it."""

import csv
import io

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.cli.conftest import Cli
from tests.services.conftest import Shop

pytestmark = pytest.mark.timeout(120)  # each command is a process of its own


async def test_users_are_listed_exported_and_found_by_any_name(shop: Shop, cli: Cli, user: UserId) -> None:
    invoice = await shop.buy(user)
    name = shop.btcpay_id(invoice)
    shown = await cli("user", "list", "--plan", "wanderer")
    assert str(user) in shown.out
    assert "0 of 50" in shown.out
    listed = (await cli("user", "list", "--ending", "3", "--json")).json
    assert listed == {"users": [], "next": None}
    await shop.front.execute(
        "INSERT INTO quotes (plan_type, amount, currency, period, quota, scope, features)"
        " VALUES ('=cmd|calc', 5, 'USD', '30 days', 50, 'any_node', '{}')"
    )
    await shop.front.execute(
        "UPDATE subscriptions SET quote_id = (SELECT id FROM quotes WHERE plan_type = '=cmd|calc')"
    )
    head, row = csv.reader(io.StringIO((await cli("user", "list", "--csv")).out))
    assert head[:4] == ["user_id", "plan", "state", "valid_until"]
    assert (row[0], row[1], row[4:6]) == (str(user), "'=cmd|calc", ["0", "50"])
    found = (await cli("invoices", "find", name, "--json")).json
    assert [one["user_id"] for one in found["users"]] == [str(user)]
    assert [one["order_id"] for one in found["invoices"]] == [str(invoice.id)]
    # The same names are good wherever a user is meant.
    assert (await cli("user", "show", name, "--json")).json["user_id"] == str(user)
    unknown = await cli("user", "show", "nobody")
    assert unknown.code == 1
    assert "not a UUID, and neither an order nor an invoice of BTCPay" in unknown.err

    await shop.front.execute(
        "INSERT INTO webhook_deliveries (delivery_id, received_at, type, btcpay_invoice_id, outcome)"
        " VALUES ('d', now(), 'InvoiceSettled', 'Strange', 'not ours')"
    )
    strange = (await cli("deliveries", "list", "--not-ours", "--json")).json
    assert [(one["btcpay_invoice_id"], one["outcome"]) for one in strange] == [("Strange", "not ours")]
    assert "Strange" in (await cli("deliveries", "list")).out
