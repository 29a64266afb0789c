"""One user on one screen, and what an operator may change in it, always with a name and a reason."""

import os
from typing import Any
from uuid import uuid4

import pytest

from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.cli.conftest import Cli
from tests.services.conftest import Shop

pytestmark = pytest.mark.timeout(180)  # each command is a process of its own


async def audit(shop: Shop, user: UserId) -> list[Any]:
    return await shop.front.rows("SELECT * FROM audit_log WHERE user_id = $1 ORDER BY id", user)


async def test_grant_is_a_purchase_and_is_audited(shop: Shop, cli: Cli, user: UserId) -> None:
    granted = (await cli("user", "grant", str(user), "wanderer", "--reason", "ticket 12", "--json")).json
    (row,) = await shop.front.subscriptions(user)
    assert (row["status"], row["source"], row["messages_limit"]) == ("active", "grant", 50)
    assert granted["subscription_id"] == str(row["id"])
    assert await shop.front.events(user) == ["subscription.activated"]
    (deed,) = await audit(shop, user)
    assert (deed["action"], deed["reason"], deed["subject"]) == (
        "user.grant",
        "ticket 12",
        f"subscription {row['id']}",
    )
    assert deed["who"]
    # The names of the API; an invoice_id would be BTCPay's.
    assert {"subscription_id", "order_id", "price"} < granted.keys()
    assert {"id", "invoice_id"}.isdisjoint(granted)


async def test_second_grant_adds_what_is_left_and_says_so(shop: Shop, cli: Cli, user: UserId) -> None:
    await cli("user", "grant", str(user), "wanderer", "--reason", "first")
    second = await cli("user", "grant", str(user), "wanderer", "--reason", "second")
    assert "added: " in second.out
    third = await cli("user", "grant", str(user), "guardian", "--reason", "third")
    assert "converted: " in third.out
    shown = (await cli("user", "show", str(user))).out
    assert shown.index("converted: ") < shown.index("added: ") < shown.index("new period: ")
    assert await shop.front.statuses(user) == ["replaced", "replaced", "active"]


async def test_revocation_takes_back_the_current_purchase_and_can_be_undone(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    await cli("user", "grant", str(user), "wanderer", "--reason", "first")
    revoked = (await cli("user", "revoke", str(user), "--reason", "abuse", "--json")).json
    assert await shop.front.statuses(user) == ["revoked"]
    shown = await cli("user", "show", str(user))
    assert "the last plan was revoked" in shown.out
    assert "abuse" in shown.out
    again = await cli("user", "revoke", str(user), "--reason", "abuse")
    assert (again.code, again.err) == (1, "kosmo-billing: this user has no current subscription\n")
    back = await cli(
        "user", "reinstate", str(user), "--subscription", revoked["subscription_id"], "--reason", "mistake"
    )
    assert back.code == 0
    assert await shop.front.statuses(user) == ["active"]
    assert [deed["action"] for deed in await audit(shop, user)] == [
        "user.grant",
        "user.revoke",
        "user.reinstate",
    ]


async def test_webhook_repeated_later_does_not_undo_a_revocation(shop: Shop, cli: Cli, user: UserId) -> None:
    await shop.buy(user)
    await cli("user", "revoke", str(user), "--reason", "charge-back")
    await shop.front.inbox.record(shop.delivery(shop.bodies[-1], "repeated"))
    await shop.front.settle()
    assert await shop.front.statuses(user) == ["revoked"]


async def test_revoking_one_of_several_counts_as_if_it_had_never_been(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    await shop.buy(user)
    granted = (await cli("user", "grant", str(user), "wanderer", "--reason", "gift", "--json")).json
    await cli(
        "user", "revoke", str(user), "--subscription", granted["subscription_id"], "--reason", "not meant"
    )
    (bought, gift) = await shop.front.subscriptions(user)
    assert (bought["status"], gift["status"]) == ("active", "revoked")


@pytest.mark.parametrize(
    "arguments",
    [("user", "grant", "USER", "wanderer"), ("user", "revoke", "USER"), ("invoices", "settle", "some")],
)
async def test_nothing_is_done_without_a_reason(
    shop: Shop, cli: Cli, user: UserId, arguments: tuple[str, ...]
) -> None:
    words = [str(user) if word == "USER" else word for word in arguments]
    missing = await cli(*words)
    assert missing.code == 2
    assert "--reason" in missing.err
    empty = await cli(*words, "--reason", "  ")
    assert (empty.code, "a reason is needed" in empty.err) == (1, True)
    assert await shop.front.subscriptions(user) == []
    assert await audit(shop, user) == []


async def test_unknown_plan_is_named_with_those_that_exist(cli: Cli, user: UserId) -> None:
    result = await cli("user", "grant", str(user), "platinum", "--reason", "r")
    assert result.code == 1
    assert "wanderer, guardian, sanctuary" in result.err


async def test_grant_beyond_the_prepaid_cap_is_refused(shop: Shop, cli: Cli, user: UserId) -> None:
    await cli("user", "grant", str(user), "wanderer", "--reason", "first")
    await shop.front.execute("UPDATE subscriptions SET valid_until = now() + interval '399 days'")
    result = await cli("user", "grant", str(user), "wanderer", "--reason", "more")
    assert result.code == 1
    assert "more than 400 days ahead" in result.err
    assert len(await audit(shop, user)) == 1


async def test_history_shows_usage_refusal_and_money(shop: Shop, cli: Cli, user: UserId) -> None:
    await shop.buy(user)
    await shop.front.execute("UPDATE subscriptions SET messages_used = messages_limit")
    shown = (await cli("user", "show", str(user))).out
    assert "all 50 messages are used (quota_exhausted)" in shown
    assert "used 50 of 50" in shown
    assert "paid 5.00 USD" in shown
    assert "waits to be published" in shown
    told = (await cli("user", "show", str(user), "--json")).json
    assert told["entitlement"]["quota_state"] == "exhausted"
    assert [purchase["carried"]["rule"] for purchase in told["purchases"]] == ["fresh"]
    assert told["invoices"][0]["amount"] == "5.00"
    assert told["events"][0]["type"] == "quota.exhausted"


async def test_whitelist_plan_without_nodes_says_that_every_message_is_refused(
    shop: Shop, cli: Cli, user: UserId
) -> None:
    await shop.buy(user, "guardian")
    assert "the list is empty, so every message is refused" in (await cli("user", "show", str(user))).out
    await shop.front.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!a1b2c3d4', 'roof', now())", user)
    assert "!a1b2c3d4 (roof)" in (await cli("user", "show", str(user))).out
    assert [n["node_id"] for n in (await cli("user", "nodes", str(user), "--json")).json] == ["!a1b2c3d4"]
    assert "roof" in (await cli("user", "nodes", str(user))).out
    for refused in (["--add", "!b1b2c3d4"], ["--add", "!ffffffff", "--reason", "ticket 7"]):
        assert (await cli("user", "nodes", str(user), *refused)).code != 0
    change = ["--add", "!B1B2C3D4", "--label", "car", "--remove", "!a1b2c3d4", "--reason", "ticket 7"]
    changed = await cli("user", "nodes", str(user), *change, "--json")
    assert [(n["node_id"], n["label"]) for n in changed.json] == [("!b1b2c3d4", "car")]
    assert [(row["subject"], row["reason"]) for row in await audit(shop, user)] == [
        ("node !B1B2C3D4 listed", "ticket 7"),
        ("node !a1b2c3d4 taken off", "ticket 7"),
    ]


async def test_stranger_has_an_empty_history(cli: Cli) -> None:
    stranger = str(uuid4())
    shown = await cli("user", "show", stranger)
    assert shown.code == 0
    assert "unknown_user" in shown.out
    told = (await cli("user", "show", stranger, "--json")).json
    assert (told["purchases"], told["publication"]) == ([], None)


async def test_name_of_who_called_sudo_is_kept_only_for_root(shop: Shop, cli: Cli, user: UserId) -> None:
    await cli("user", "grant", str(user), "wanderer", "--reason", "r", SUDO_USER="margarete")
    (deed,) = await audit(shop, user)
    assert (deed["who"] == "margarete") == (os.getuid() == 0)


async def test_invoices_are_listed_by_user_and_status(shop: Shop, cli: Cli, user: UserId) -> None:
    await shop.buy(user)
    shop.clock.move(seconds=1)
    open_one = await shop.open(user, "guardian")
    everything = (await cli("invoices", "list", "--json")).json
    assert [invoice["plan_type"] for invoice in everything] == ["guardian", "wanderer"]
    found = (await cli("invoices", "list", "--user", str(user), "--status", "new", "--json")).json
    assert [invoice["order_id"] for invoice in found] == [str(open_one.id)]
    assert str(open_one.btcpay_invoice_id) in (await cli("invoices", "list")).out
    shown = (await cli("invoices", "show", str(open_one.id), "--json")).json
    assert [entry["type"] for entry in shown["deliveries"]] == ["InvoiceCreated"]


async def test_schema_that_is_behind_is_not_worked_with(cli: Cli, empty_database_url: str) -> None:
    result = await cli("attention", DATABASE_URL=empty_database_url)
    assert result.code == 1
    assert "kosmo-billing migrate" in result.err


async def test_database_that_is_away_ends_with_69(cli: Cli) -> None:
    result = await cli(
        "attention", DATABASE_URL="postgresql://nobody:password-of-the-database@127.0.0.1:9/none"
    )
    assert result.code == 69
    assert result.err.count("\n") == 1


async def test_bad_settings_end_with_78(cli: Cli) -> None:
    assert (await cli("attention", MQTT_PORT="many")).code == 78
