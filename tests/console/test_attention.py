"""The queue of attention: worked off case by case, by keyboard, with the same effects as the commands."""

import re
from decimal import Decimal

from playwright.async_api import Browser, Page, expect

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.admin.cases import CaseActions
from kosmo_billing_daemon.admin.refunding import Refunding
from kosmo_billing_daemon.domain.ledger import EntryKind
from tests.console.cases import (
    alice,
    console,
    owes,
    paid_for_a_lost_order,
    paid_late,
    paid_partly,
    paid_twice,
    somebody,
    ten_cases,
)
from tests.console.conftest import HOSTILE, ConsoleShop, Visitor
from tests.console.test_browser import enter
from tests.services.conftest import Shop, clock, simulator
from tests.services.conftest import shop as business

__all__ = ["alice", "business", "clock", "console", "simulator"]


async def open_kinds(console: ConsoleShop) -> list[str]:
    found = await console.value(
        "SELECT array_agg(kind ORDER BY id) FROM attention_cases WHERE closed_at IS NULL"
    )
    return found or []


async def credit(console: ConsoleShop, number: int) -> Decimal:
    found = await console.value("SELECT sum(amount) FROM ledger WHERE user_id = $1", somebody(number))
    return Decimal(found or 0)


async def press(page: Page, *keys: str) -> None:
    await page.wait_for_load_state()  # only then do the page's keys work
    for key in keys:
        await page.keyboard.press(key)


async def decide(page: Page, key: str, title: str, *, user: str = "") -> str:
    """Press an action's key, type what it asks for, read the preview, and confirm; returns the preview."""
    await press(page, key)
    await expect(page.get_by_role("heading", level=1)).to_have_text(title)
    await expect(page.locator("form.action input:focus")).to_be_visible()
    if user:
        await page.keyboard.type(user)
        await press(page, "Tab")
    await page.keyboard.type("ticket 7")
    await press(page, "Enter")
    await expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
    preview = await page.locator("form.action").inner_text()
    await press(page, "y")
    await expect(page.get_by_role("status")).to_be_visible()
    return preview


async def test_ten_cases_are_worked_off_by_keyboard(
    business: Shop, console: ConsoleShop, browser: Browser
) -> None:
    await ten_cases(business)
    page = await (await browser.new_context()).new_page()
    said = await enter(page, console)
    await page.goto(f"{console.url}/admin/attention")
    title = page.get_by_role("heading", level=1)
    await press(page, "j", "j", "k", "Enter")
    await expect(title).to_have_text("Paid too late")

    assert "none → wanderer" in await decide(page, "g", "Give what was bought")
    await expect(title).to_have_text("Paid in part")
    assert "2.50 USD → none" in await decide(page, "c", "Close the case")
    await expect(title).to_have_text("Paid too much")
    assert "claim 2.00 USD" in await decide(page, "r", "Refund through BTCPay")
    await expect(title).to_have_text("Paid too much")  # a refund leaves the case open
    assert "USD" not in (await decide(page, "c", "Close the case")).partition("Reason")[0]
    await expect(title).to_have_text("Not what was quoted")
    assert "you vouch for them" in await decide(page, "g", "Give what was bought")
    await expect(title).to_have_text("Paid, but invalid")
    await decide(page, "c", "Close the case")
    await expect(title).to_have_text("Paid twice")
    assert "none → 5.00 USD" in await decide(page, "m", "Give the money to a user", user="")
    await expect(title).to_have_text("Could not take effect")
    await press(page, "g")
    await expect(page.locator("form.action input:focus")).to_be_visible()
    await page.keyboard.type("ticket 7")
    await press(page, "Enter")
    await expect(page.get_by_role("alert")).to_contain_text("more than 400 days ahead")
    await page.get_by_role("link", name="Back without a change").click()
    await expect(page.get_by_role("alert")).to_have_count(0)  # the case's own page, of the same heading
    await expect(title).to_have_text("Could not take effect")
    await decide(page, "c", "Close the case")
    await expect(title).to_have_text("Unknown order")
    await press(page, "b")
    await expect(page.get_by_text("of which 5.00 USD confirmed")).to_be_visible()
    await decide(page, "g", "Give the money to a user", user=str(somebody(8)))
    await expect(title).to_have_text("Credit below zero")
    assert "is set against the 4.00 USD owed" in await decide(page, "e", "End the plan")
    await expect(title).to_have_text("Paid in part")
    await decide(page, "g", "Give what was bought")
    await expect(title).to_have_text("Attention")
    await expect(page.get_by_text("Nothing needs a decision.")).to_be_visible()

    assert await open_kinds(console) == []
    left = [round(await credit(console, number), 2) for number in range(1, 11)]
    assert left == [0, 0, 0, 0, 0, 5, 0, 5, 1, 0]
    assert await console.value("SELECT count(DISTINCT who) FROM audit_log WHERE who = 'alice'") == 1
    await page.goto(f"{console.url}/admin/attention/closed")
    await expect(page.get_by_role("row")).to_have_count(1 + 10 + 1)  # one was closed by what BTCPay showed
    await expect(page.get_by_text("given to user").first).to_contain_text("by alice: ticket 7")
    assert said == []


async def test_a_refund_is_not_written_off_again_when_its_case_is_closed(
    business: Shop, console: ConsoleShop
) -> None:
    invoice = await paid_partly(business, somebody(1))
    by = OperatorAction("alice", "ticket 7")
    refunding = Refunding(pool=console.pool, btcpay=business.front.btcpay, clock=business.clock)
    await refunding.refund(business.btcpay_id(invoice), Decimal("1.00"), by)
    number = await console.value("SELECT id FROM attention_cases")
    await CaseActions(pool=console.pool, clock=business.clock).close(number, by)
    assert await credit(console, 1) == 0
    written_off = await console.value("SELECT sum(amount) FROM ledger WHERE kind = $1", EntryKind.WRITTEN_OFF)
    assert written_off == Decimal("-1.50")
    assert await open_kinds(console) == []


async def test_a_decision_that_a_case_does_not_allow_is_refused(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await paid_partly(business, somebody(1))
    number = await console.value("SELECT id FROM attention_cases")
    for name in ("give", "grant", "end-plan"):
        refused = await alice.send(f"/admin/attention/{number}/{name}", {"user": "x", "reason": "r"})
        assert (refused.status, "allows no such decision" in refused.text) == (409, True), name
    await alice.carry_out(f"/admin/attention/{number}/close", {"reason": "refunded"})
    refused = await alice.send(f"/admin/attention/{number}/settle", {"reason": "r"})
    assert (refused.status, "is closed: closed by alice: refunded" in refused.text) == (409, True)
    assert (await alice.get("/admin/attention/99")).status == 404


async def test_a_plan_is_given_again_for_a_second_payment_and_money_of_a_lost_order_refunded(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await paid_twice(business, somebody(1))
    lost = await paid_for_a_lost_order(business)
    twice, unknown = await console.value("SELECT array_agg(id ORDER BY id) FROM attention_cases")
    given = await alice.carry_out(f"/admin/attention/{twice}/grant", {"reason": "ticket 7"})
    assert f"Now close case {twice}." in given.text
    assert "What was done about this user since" in given.text
    assert ">Close the case" in given.text.partition('class="button main"')[2][:120]
    assert await console.value("SELECT messages_limit FROM subscriptions ORDER BY number DESC LIMIT 1") == 100
    path = f"/admin/refunds/make?invoice={lost}&case={unknown}"
    assert f'value="{lost}"' in (await alice.get(path)).text
    refunded = await alice.carry_out(path, {"invoice": lost, "reason": "ticket 8"})
    assert "<h1>Paid twice</h1>" in refunded.text, "the next open case"
    assert await open_kinds(console) == ["paid_twice"]
    closed = await alice.get(f"/admin/attention/{unknown}")
    assert "refunded by alice: ticket 8" in closed.text


async def test_what_others_wrote_is_shown_as_text(business: Shop, console: ConsoleShop) -> None:
    await paid_late(business, somebody(1))
    await owes(business, somebody(2))
    await paid_for_a_lost_order(business)
    await console.execute("UPDATE attention_cases SET detail = $1", HOSTILE)
    await console.execute(
        "UPDATE attention_cases SET btcpay_invoice_id = $1 WHERE kind = 'unknown_order'", HOSTILE
    )
    await console.execute("UPDATE btcpay_invoices SET btcpay_invoice_id = $1 || id", HOSTILE)
    now = business.clock()
    await console.execute(
        "INSERT INTO reporter_cases (reporter, detail, opened_at, last_at) VALUES ($1, $1, $2, $2)",
        HOSTILE,
        now,
    )
    await console.execute(
        "INSERT INTO lookups (due_at, invoice_id, set_aside_at, set_aside_why)"
        " SELECT $1, id, $1, $2 FROM btcpay_invoices",
        now,
        HOSTILE,
    )
    alice = await console.operator()  # not before: the first case takes three days
    numbers = await console.value("SELECT array_agg(id ORDER BY id) FROM attention_cases")
    paths = ["", *(f"/{number}" for number in numbers), f"/{numbers[0]}?ask=yes", f"/{numbers[0]}/close"]
    for path in paths:
        shown = await alice.get(f"/admin/attention{path}")
        assert shown.status == 200, path
        assert "<img" not in shown.text, path
    listed = await alice.get("/admin/attention")
    assert listed.text.count("&lt;img") >= 5
    await alice.carry_out(f"/admin/attention/{numbers[0]}/close", {"reason": HOSTILE})
    assert "<img" not in (await alice.get("/admin/attention/closed")).text
    assert "<img" not in (await alice.get("/admin/")).text


async def test_a_long_queue_goes_on_page_after_page(console: ConsoleShop, alice: Visitor) -> None:
    await console.execute(
        "INSERT INTO attention_cases (user_id, kind, detail, amount, currency, opened_at)"
        " SELECT gen_random_uuid(), 'negative_balance', 'spent', n, 'USD', now() - interval '1 s' * (n / 3)"
        " FROM generate_series(1, 120) AS n"
    )
    seen: list[str] = []
    path = "/admin/attention"
    while path:
        shown = (await alice.get(path)).text
        seen += re.findall(r'href="/admin/attention/(\d+)"', shown)
        onward = re.search(r'rel="next" href="([^"]+)"', shown)
        path = "" if onward is None else onward[1]
    assert len(seen) == len(set(seen)) == 120
    opened = await console.value("SELECT array_agg(id::text ORDER BY opened_at, id) FROM attention_cases")
    assert seen == opened
    last = (await alice.get(f"/admin/attention/{seen[-1]}")).text
    assert 'aria-current="true"' in last, "the list beside it shows where it is"
    assert (await alice.get("/admin/attention?from=x")).status == 422
