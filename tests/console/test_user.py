"""One user's page: what it says, that nothing a stranger wrote becomes markup, and every action on it."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.app import ACTIONS
from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.services.invoicing import Invoicing
from kosmo_billing_daemon.services.reconciliation import Reconciliation
from tests.console.conftest import ConsoleShop, Visitor
from tests.console.test_browser import complaints, enter

pytestmark = pytest.mark.timeout(120)

BY = OperatorAction("bob", "ticket <i>6</i>")
EVIL = "<img src=x onerror=alert(1)>"
USER = UserId(UUID("6f1d1c2a-58b3-4c0e-9a53-0c3a3a8f7d10"))


@pytest.fixture
async def user(shop: ConsoleShop) -> UserId:
    """Somebody with a history, in which strangers wrote what they could."""
    await shop.operations.grant(USER, "wanderer", BY)
    row = await shop.operations.grant(USER, "guardian", BY)
    order = uuid4()
    await shop.execute(
        "INSERT INTO btcpay_invoices (id, user_id, quote_id, status, payment, btcpay_invoice_id, paid_amount,"
        " received, created_at) SELECT $1, $2, quote_id, 'expired', 'partial', $3, 7, 7, now()"
        " FROM subscriptions WHERE id = $4",
        order,
        USER,
        f"{EVIL}9",
        row.id,
    )
    await shop.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, invoice_id)"
        " VALUES (now(), $1, 'received', 7, 'USD', $2)",
        USER,
        order,
    )
    await shop.execute(
        "INSERT INTO attention_cases (invoice_id, user_id, kind, detail, opened_at)"
        " VALUES ($1, $2, 'partial_payment', $3, now())",
        order,
        USER,
        EVIL,
    )
    await shop.execute("INSERT INTO whitelisted_nodes VALUES ($1, '!0a0b0c0d', $2, now())", USER, EVIL)
    await shop.execute(
        "INSERT INTO usage_events (user_id, message_id, subscription_id, node_id, reporter, count,"
        " over_limit, sent_at, received_at) VALUES ($1, $2, $3, '!0a0b0c0d', 'gate', 1, true, now(), now())",
        USER,
        f"{EVIL}-1",
        row.id,
    )
    await shop.execute("INSERT INTO usage_days VALUES ($1, (now() AT TIME ZONE 'UTC')::date, 12)", USER)
    await shop.execute(
        "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('subscription.expiring', $1,"
        " jsonb_build_object('hours_left', $2::text, 'valid_until', $2::text), now())",
        USER,
        EVIL,
    )
    return USER


async def test_page_tells_all_and_nothing_of_it_is_markup(
    shop: ConsoleShop, alice: Visitor, user: UserId
) -> None:
    shown = await alice.get(f"/admin/users/{user}")
    assert shown.status == 200
    assert "<img" not in shown.text
    assert "<i>6" not in shown.text
    said = " ".join(re.sub(r"<[^>]*>", " ", shown.text).split()).lower()
    for words in (
        "has guardian until",
        "converted: 30 d and 500 messages of its own",  # the rule behind the dates
        "granted by an operator",
        "7 USD received by BTCPay",
        "case 1 opened: partial payment",
        "bob granted a plan: ticket",
        "Reminded with",
        "https://b.example/r/",
    ):
        assert words.lower() in said, words
    (order,) = [await shop.value("SELECT id FROM btcpay_invoices")]
    other = await alice.get(f"/admin/users/{order}")
    assert (other.status, other.location) == (303, f"/admin/users/{user}")
    assert (await alice.get("/admin/users/nobody")).status == 404
    stranger = await alice.get(f"/admin/users/{uuid4()}")
    assert "Nothing is known of this user." in stranger.text


async def test_preview_shows_what_the_page_says_afterwards(alice: Visitor, user: UserId) -> None:
    typed = {"days": "3", "reason": "outage"}
    preview = await alice.send(f"/admin/users/{user}/extend", typed)
    found = re.search(r"<dt>Until</dt><dd>\S+ \S+ → ([0-9-]+ [0-9:]+)Z</dd>", preview.text)
    assert found is not None, preview.text
    done = await alice.carry_out(f"/admin/users/{user}/extend", typed)
    assert f"guardian is extended until {found[1]}Z." in done.text
    assert f"Has guardian until {found[1]}Z" in done.text
    again = await alice.send(f"/admin/users/{user}/extend", typed)
    assert again.status == 409
    assert "This user got 3 days for the same reason" in again.text
    for days in ("x", "-1", "0", "367", "9" * 40, "²"):
        assert (await alice.send(f"/admin/users/{user}/extend", {**typed, "days": days})).status == 422, days


@dataclass(frozen=True)
class Step:
    """One action: its form, what is typed or chosen there by label, its button, and what it says was done."""

    name: str
    typed: dict[str, str]
    verb: str
    told: str

    async def carry_out(self, page: Page, path: str) -> None:
        await page.goto(f"{path}/{self.name}")
        for label, value in self.typed.items():
            control = page.get_by_label(label)
            if value == "the first":
                await control.select_option(index=0)
            elif await control.evaluate("node => node.tagName") == "SELECT":
                await control.select_option(value)
            else:
                await control.fill(value)
        await page.get_by_label("Reason").fill("ticket 9")
        await page.get_by_role("button", name="Preview").click()
        await expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
        await page.get_by_role("button", name=self.verb, exact=True).click()
        await expect(page.get_by_role("status")).to_contain_text(self.told)
        assert page.url == path


STEPS = (
    Step("grant", {"Plan": "wanderer"}, "Grant the plan", "wanderer is granted"),
    Step("extend", {"Days": "3"}, "Extend the plan", "wanderer is extended"),
    Step("revoke", {"Purchase": "the first"}, "Revoke the purchase", "wanderer of"),
    Step("reinstate", {"Purchase": "the first"}, "Reinstate the purchase", "is reinstated: active"),
    Step("nodes/add", {"Node": "!a1b2c3d4", "Label": "roof"}, "Add the node", "!a1b2c3d4 is on the list"),
    Step("nodes/remove", {"Node": "!0a0b0c0d"}, "Remove the node", "!0a0b0c0d is off the list"),
    Step("republish", {}, "Publish again", "will be published again"),
    Step("link", {}, "Revoke the link", "The link is revoked"),
    Step("credit", {}, "End the plan", "has ended"),
)


async def test_every_action_is_done_in_a_browser(
    shop: ConsoleShop, browser: Browser, axe: str, user: UserId
) -> None:
    page = await browser.new_page()
    said = await enter(page, shop)
    path = f"{shop.url}/admin/users/{user}"
    await page.goto(path)
    assert await complaints(page, axe) == []
    for step in STEPS:
        await step.carry_out(page, path)
    await expect(page.get_by_text("may receive only")).to_be_visible()
    assert said == []
    actions = await shop.value(
        "SELECT array_agg(DISTINCT action ORDER BY action) FROM audit_log WHERE who = 'alice'"
    )
    assert actions == [
        "user.cash", "user.extend", "user.grant", "user.link.revoke", "user.nodes", "user.reinstate",
        "user.revoke",
    ]  # fmt: skip
    await page.close()


async def test_actions_that_do_not_apply_say_so_and_every_form_is_for_everybody(
    shop: ConsoleShop, alice: Visitor, user: UserId
) -> None:
    names = [form.path.removeprefix("/users/{user_id}/") for form in ACTIONS]
    for name in names:
        assert (await alice.get(f"/admin/users/{user}/{name}")).status == 200, name
        assert (await alice.get(f"/admin/users/nobody/{name}")).status == 404, name
    free = await alice.send(f"/admin/users/{user}/free", {"reason": "r"})
    assert "No gateway holds messages" in free.text
    await shop.operations.cash(user, BY)
    refused = await alice.send(f"/admin/users/{user}/credit", {"reason": "r"})
    assert (refused.status, "no current subscription" in refused.text) == (404, True)


async def test_everything_is_exported_and_the_user_erased(
    shop: ConsoleShop, alice: Visitor, user: UserId
) -> None:
    exported = await alice.get(f"/admin/users/{user}/export.json")
    assert exported.headers["Content-Disposition"] == f'attachment; filename="user-{user}.json"'
    told = json.loads(exported.text)
    assert [row["label"] for row in told["tables"]["whitelisted_nodes"]] == [EVIL]
    assert (await alice.get(f"/admin/users/{uuid4()}/export.json")).status == 404
    path = f"/admin/users/{user}/erase"
    refused = await alice.send(path, {"reason": "letter of May"})
    assert (refused.status, "the plan guardian runs until" in refused.text) == (409, False)
    assert "The plan guardian runs until" in refused.text
    named = await alice.send(path, {"reason": f"letter of {user}", "forfeit": "yes"})
    assert "Nothing undoes this" in named.text  # a preview; what it would do is refused with that reason
    assert (await alice.post(path, named.hidden)).status == 422
    done = await alice.carry_out(path, {"reason": "letter of May", "forfeit": "yes"})
    assert "The user is erased" in done.text
    assert str(user) not in (await alice.get("/admin/users")).text
    assert await shop.value("SELECT count(*) FROM subscriptions WHERE user_id = $1", user) == 0


async def test_credit_is_refunded_and_the_refund_cancelled(
    shop: ConsoleShop, alice: Visitor, user: UserId
) -> None:
    invoicing = Invoicing(
        pool=shop.pool, btcpay=shop.settlement.btcpay, settlement=shop.settlement, clock=shop.clock
    )
    invoice = (await invoicing.open(user, BUILT_IN.require("sanctuary"), None)).invoice
    name = str(invoice.btcpay_invoice_id)
    for action, amount in (("pay_partial", "30"), ("expire", None), ("confirm", None)):
        await shop.simulator.act(name, action, amount)
    reconciliation = Reconciliation(pool=shop.pool, settlement=shop.settlement, clock=shop.clock)
    await reconciliation.begin()
    while await reconciliation.run_once():
        pass
    path = f"/admin/users/{user}/refund"
    typed = {"invoice": name, "amount": "10", "reason": "ticket 4"}
    preview = await alice.send(path, typed)
    found = re.search(r"<dt>Credit</dt><dd>([0-9.]+) USD → ([0-9.]+) USD</dd>", preview.text)
    assert found is not None, preview.text
    assert Decimal(found[1]) - Decimal(found[2]) == 10
    assert await shop.value("SELECT count(*) FROM refunds") == 0
    done = await alice.carry_out(path, typed)
    assert "10.00 USD can be claimed at http" in done.text
    assert await shop.value("SELECT sum(amount) FROM ledger WHERE user_id = $1", user) == Decimal(found[2])
    again = await alice.send(path, {"invoice": name, "reason": "ticket 4"})
    assert "is ordered already" in again.text
    cancelling = re.search(r'"(/admin/refunds/[0-9]+/cancel[^"]+)">', done.text)
    assert cancelling is not None, done.text
    back = await alice.carry_out(cancelling[1], {"reason": "ticket 4"})
    assert "The refund of 10.00 USD is cancelled." in back.text
    assert f"{user}" in back.text, "back at the user"
    assert await shop.value("SELECT sum(amount) FROM ledger WHERE user_id = $1", user) == Decimal(found[1])
