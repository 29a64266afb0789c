"""The console in a browser: light, dark, on a small phone, by keyboard, without scripts; axe is content."""

from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, ViewportSize, expect

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.console.conftest import ConsoleShop, ConsoleStarter
from tests.console.test_forms import GRANT
from tests.support.shop import fill

pytestmark = pytest.mark.timeout(120)  # the first run installs axe-core

USER = uuid4()
PAGES = {
    "overview": "/admin/",
    "users": "/admin/users?state=active",
    "nobody": "/admin/users?exhausted=yes&plan=guardian&ending=1",
    "refused": "/admin/users?ending=x",
    "search": "/admin/search?q=nobody",
    "attention": "/admin/attention",
    "closed cases": "/admin/attention/closed",
    "ledger": "/admin/ledger",
    "ledger check": "/admin/ledger/check?from=2026-01-01&to=2026-01-02",
    "refunds": "/admin/refunds",
    "refund": "/admin/refunds/make",
    "hooks": "/admin/hooks",
    "hook": "/admin/hooks/1",
    "new hook": "/admin/hooks/add?template=texts",
    "gates": "/admin/gates",
    "gateway": "/admin/gates/gateway?name=gateway",
    "feed": "/admin/feed",
    "missing": "/admin/nothing",
    "form": f"/admin/try/{USER}/grant",
}


@pytest.fixture
async def shop(start_console: ConsoleStarter) -> ConsoleShop:
    shop = await start_console(GRANT)
    async with shop.pool.connection() as connection:
        await fill(connection, invoices=300, users=60)
    await shop.operations.grant(UserId(USER), "sanctuary", OperatorAction("alice", "ticket"))
    return shop


async def complaints(page: Page, axe: str = "") -> list[Any]:
    """What axe finds, which is given once for each page, and whether the page is wider than the screen."""
    # As a debugger does: the page's own policy would not let a script in.
    session = await page.context.new_cdp_session(page)
    run = (
        f"{axe};axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.map(n => n.html)])))"
    )
    found = await session.send(
        "Runtime.evaluate",
        {"expression": run, "awaitPromise": True, "returnByValue": True, "allowUnsafeEvalBlockedByCSP": True},
    )
    wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    told = found["result"].get("value", found)
    return ([] if told == "[]" else [told]) + (["wider than the screen"] if wide else [])


async def enter(page: Page, shop: ConsoleShop) -> list[str]:
    """Log in as a person does; returns what the browser complains about from then on."""
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if "responded with a status" not in message.text:
            said.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(f"{shop.url}/admin/login?token={await shop.access.invite('alice')}")
    await expect(page.get_by_role("button", name="Log in")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    return said


SMALL: ViewportSize = {"width": 320, "height": 800}
LARGE: ViewportSize = {"width": 1280, "height": 800}


async def test_every_page_is_for_everybody(shop: ConsoleShop, browser: Browser, axe: str) -> None:
    """Dark on a small phone, and light on a large screen."""
    page = await browser.new_page(reduced_motion="reduce")  # colours change at once
    await page.goto(f"{shop.url}/admin/")
    assert await complaints(page, axe) == [], "outside"
    said = await enter(page, shop)
    number = await shop.value("SELECT min(id) FROM attention_cases WHERE closed_at IS NULL")
    for name, path in {**PAGES, "case": f"/admin/attention/{number}"}.items():
        await page.set_viewport_size(SMALL)
        await page.emulate_media(color_scheme="dark")
        await page.goto(f"{shop.url}{path}")
        assert await complaints(page, axe) == [], name
        await page.set_viewport_size(LARGE)
        await page.emulate_media(color_scheme="light")
        assert await complaints(page) == [], f"{name}, large and light"
    assert said == []


async def test_everything_is_done_by_keyboard(shop: ConsoleShop, browser: Browser) -> None:
    page = await browser.new_page()
    said = await enter(page, shop)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.goto(f"{shop.url}/admin/users?plan=sanctuary")
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name=str(USER))).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.type("jk/nobody")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Found for jk/nobody")
    assert said == []
    await page.close()


async def test_an_action_is_carried_out_without_scripts(shop: ConsoleShop, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await enter(page, shop)
    await page.goto(f"{shop.url}/admin/try/{USER}/grant")
    await page.get_by_label("Plan").select_option("guardian")
    await page.get_by_label("Reason").fill("ticket 8")
    await page.get_by_role("button", name="Preview").click()
    await expect(page.get_by_text(f"{USER} is given guardian.")).to_be_visible()
    await page.get_by_role("button", name="Change").click()
    await expect(page.get_by_label("Reason")).to_have_value("ticket 8")
    await page.get_by_role("button", name="Preview").click()
    await page.get_by_role("button", name="Grant the plan").click()
    await expect(page.get_by_role("status")).to_contain_text("guardian was given")
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_text("You are not logged in.")).to_be_visible()
    await context.close()
