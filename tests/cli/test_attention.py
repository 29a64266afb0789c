"""Late, partial and mismatched payments lead an operator to the right command without reading code."""

from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.inquiries import Inquiries
from kosmo_billing_daemon.services.metering import Metering, Report
from tests.cli.conftest import Cli
from tests.console.cases import paid_another_price, paid_late, paid_partly
from tests.services.conftest import STORE, Shop
from tests.support.usage import event, payload

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


PAYMENTS = {"late_payment": paid_late, "partial_payment": paid_partly, "mismatch": paid_another_price}


@pytest.mark.parametrize("kind", PAYMENTS)
async def test_attention_names_the_command_that_gives_the_plan(
    shop: Shop, cli: Cli, user: UserId, kind: str
) -> None:
    invoice = await PAYMENTS[kind](shop, user)
    (case,) = (await cli("attention", "--json")).json
    assert (case["kind"], case["user_id"], case["invoice_id"]) == (kind, str(user), invoice.btcpay_invoice_id)
    settle, *_, close = [way["command"] for way in case["commands"]]
    shown = (await cli("attention")).out
    assert settle in shown
    assert close in shown
    assert await shop.front.subscriptions(user) == []
    done = await cli.typed(settle)
    assert (done.code, "fulfilled now" in done.out) == (0, True), done
    assert await shop.front.statuses(user) == ["active"]
    assert (await cli("attention", "--json")).json == []
    assert "no payment needs attention" in (await cli("attention")).out


async def test_user_show_leads_to_the_same_command(shop: Shop, cli: Cli, user: UserId) -> None:
    invoice = await paid_another_price(shop, user)
    shown = await cli("user", "show", str(user))
    assert shown.code == 0
    assert "nothing was ever bought" in shown.out
    assert "payment needs attention" in shown.out
    wanted = f"kosmo-billing invoices settle {invoice.btcpay_invoice_id} --reason TICKET"
    assert wanted in shown.out
    assert wanted in (await cli("invoices", "show", str(invoice.btcpay_invoice_id))).out
    (case,) = (await cli("user", "show", str(user), "--json")).json["cases"]
    assert case["kind"] == "mismatch"


async def test_refunded_case_is_closed_with_its_reason_and_gives_nothing(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    await paid_partly(shop, user)
    (case,) = (await cli("attention", "--json")).json
    closed = await cli("attention", "close", str(case["case"]), "--reason", "refunded 2.50, ticket 7")
    assert closed.code == 0
    assert await shop.front.subscriptions(user) == []
    told: dict[str, Any] = (await cli("user", "show", str(user), "--json")).json
    assert told["cases"][0]["commands"] == []
    assert "refunded 2.50, ticket 7" in told["cases"][0]["resolution"]
    assert [(deed["action"], deed["reason"]) for deed in told["audit"]] == [
        ("attention.close", "refunded 2.50, ticket 7")
    ]
    again = await cli("attention", "close", str(case["case"]), "--reason", "again")
    assert again.code == 1
    assert "closed" in again.err


async def test_money_of_an_order_that_was_lost_is_given_to_whoever_paid_it(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    lost = await shop.front.btcpay.create_invoice(uuid4(), BUILT_IN.plans[0])
    await shop.simulator.act(lost.btcpay_invoice_id, "pay", method="BTC-LN")
    await shop.told()
    front = shop.front
    await Inquiries(pool=front.pool, btcpay=front.btcpay, store_id=STORE, clock=shop.clock).run_once()
    (case,) = (await cli("attention", "--json")).json
    assert (case["kind"], case["invoice_id"], case["user_id"], case["amount"], case["currency"]) == (
        "unknown_order",
        lost.btcpay_invoice_id,
        None,
        "5.00",
        "USD",
    )
    shown = (await cli("attention")).out
    give, _, close = (way["command"] for way in case["commands"])
    assert give in shown
    assert close in shown
    assert lost.btcpay_invoice_id in shown
    given = await cli.typed(give.replace("USER", str(user)))
    assert (given.code, given.out.split("; ")[0]) == (0, f"5.00 USD are credit of user {user}")
    told = (await cli("user", "show", str(user))).out
    assert "credit: 5.00 USD" in told
    assert "received by BTCPay for an order that was lost" in told
    assert "no payment needs attention" in (await cli("attention")).out


async def test_overpayment_offers_to_close_but_not_to_settle_again(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    invoice = await shop.open(user)
    await shop.lightning(invoice, "7.00")
    (case,) = (await cli("attention", "--json")).json
    assert case["kind"] == "overpaid"
    assert [way["command"].split()[1:3] for way in case["commands"]] == [
        ["refund", "make"],
        ["attention", "close"],
    ]


async def test_settling_twice_changes_nothing_more(shop: Shop, cli: Cli, user: UserId) -> None:
    invoice = await paid_late(shop, user)
    name = str(invoice.id)
    assert (await cli("invoices", "settle", name, "--reason", "first", "--json")).json["changed"] is True
    (before,) = await shop.front.subscriptions(user)
    assert (await cli("invoices", "settle", name, "--reason", "second", "--json")).json["changed"] is False
    (after,) = await shop.front.subscriptions(user)
    assert dict(after) == dict(before)


async def test_invoice_without_any_money_is_settled_only_on_purpose(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    invoice = await shop.open(user)
    name = str(invoice.btcpay_invoice_id)
    refused = await cli("invoices", "settle", name, "--reason", "paid in cash")
    assert refused.code == 1
    assert "--unpaid" in refused.err
    assert await shop.front.subscriptions(user) == []
    done = await cli("invoices", "settle", name, "--reason", "paid in cash", "--unpaid")
    assert done.code == 0
    assert await shop.front.statuses(user) == ["active"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("invoices", "settle", "unknown", "--reason", "r"),
        ("invoices", "show", "unknown"),
        ("attention", "close", "4711", "--reason", "r"),
    ],
)
async def test_what_does_not_exist_is_said_in_one_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = await cli(*arguments)
    assert result.code == 1
    assert result.err.startswith("kosmo-billing: there is no ")
    assert result.err.count("\n") == 1


async def test_settlement_is_written_down_with_who_and_why(shop: Shop, cli: Cli, user: UserId) -> None:
    invoice = await paid_late(shop, user)
    await cli("invoices", "settle", str(invoice.id), "--reason", "kind")
    (deed,) = await shop.front.rows("SELECT * FROM audit_log")
    assert (deed["action"], deed["reason"], deed["user_id"]) == ("invoice.settle", "kind", user)
    assert deed["who"]
    assert "kind" in (await cli("user", "show", str(user))).out


async def test_what_is_set_aside_is_listed_with_its_reason_and_what_to_do(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    invoice = await shop.open(user)
    async with shop.front.pool.transaction() as holder:
        await holder.execute("SELECT FROM btcpay_invoices WHERE user_id = $1 FOR UPDATE", user)
        await shop.simulator.act(shop.btcpay_id(invoice), "pay", None, "BTC-LN")
        await shop.simulator.drained()
        await shop.front.settle()
        (listed, *_) = (await cli("attention", "--json")).json
        assert (listed["kind"], listed["order_id"]) == ("set_aside", str(invoice.id))
        assert f"rows are locked by pid {holder.get_server_pid()}" in listed["detail"]
        shown = (await cli("attention")).out
        assert listed["detail"] in shown
        assert "pg_terminate_backend" in shown
    shop.clock.move(seconds=11)
    await shop.front.settle()
    assert (await cli("attention", "--json")).json == []


async def test_a_gateway_that_cannot_be_believed_is_listed_and_what_it_counted_taken_back(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    await shop.buy(user)
    await shop.front.execute(
        "INSERT INTO reporter_cases (reporter, detail, opened_at, last_at) "
        "VALUES ('gw', 'much', now(), now())"
    )
    (case,) = (await cli("usage", "cases", "--json")).json
    assert (case["reporter"], case["detail"]) == ("gw", "much")
    (listed,) = (await cli("attention", "--json")).json
    assert (listed["kind"], listed["reporter"], listed["detail"]) == ("reporter", "gw", "much")
    shown = (await cli("attention")).out
    assert "gw: much" in shown
    assert "1 about gateways" in shown
    void, close = (way["command"] for way in listed["commands"])
    assert void in shown
    assert "0 messages of 0 users" in (await cli.typed(void)).out
    metering = Metering(pool=shop.front.pool, clock=shop.clock, changed=lambda: None)
    report = metering.read("gw", payload([event(user, "a", shop.clock(), count=40)]))
    assert isinstance(report, Report)
    await metering.count([report])
    command = ["usage", "void", "--reporter", "gw", "--since", "2020-01-01", "--reason", "stolen"]
    assert (await cli(*command, "--json")).json == {"users": 1, "messages": 40}
    assert "0 messages of 0 users" in (await cli(*command)).out
    assert (await cli("usage", "void", "--reporter", "gw", "--since", "soon", "--reason", "x")).code == 1
    assert "is closed" in (await cli.typed(close)).out
    assert (await cli("attention", "--json")).json == []
