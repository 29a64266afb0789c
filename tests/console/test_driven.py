"""The actions that no other file drives in a browser: each from its page's own button, and axe is content."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from kosmo_billing_daemon.console import case_forms, gates, hooks, refunds
from kosmo_billing_daemon.console.app import ACTIONS
from kosmo_billing_daemon.console.rendering import url
from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.console.cases import console_of, paid_too_much, somebody
from tests.console.conftest import ConsoleShop
from tests.console.test_browser import complaints, enter
from tests.console.test_user import STEPS
from tests.demo.btcpay.conftest import HandClock
from tests.domain.builders import WITH_PACK
from tests.services.conftest import Shop, clock, simulator
from tests.services.test_packs import order
from tests.support.endpoint import endpoint

__all__ = ["clock", "simulator"]

pytestmark = pytest.mark.timeout(120)

USER = somebody(1)
GATEWAY = "gate <b>7</b>"


@pytest.fixture
async def business(simulator: Simulator, clock: HandClock, database_url: str) -> AsyncIterator[Shop]:
    async with Shop(simulator, clock, database_url) as opened:
        await opened.start(catalogue=WITH_PACK)
        yield opened


@pytest.fixture
async def console(business: Shop) -> AsyncIterator[ConsoleShop]:
    async with AsyncExitStack() as stack:
        yield await console_of(business, stack)


class Driver:
    """A person at the console: presses what a page shows, and reads what it says."""

    def __init__(self, page: Page, at: str, axe: str) -> None:
        self.page, self.at, self.axe = page, at, axe
        self.driven: set[str] = set()

    async def visit(self, path: str) -> None:
        await self.page.goto(f"{self.at}{path}")

    async def do(self, link: str, verb: str, told: str, typed: dict[str, str] | None = None) -> None:
        """Follow a link to a form, which axe reads too, fill it in, read the preview and confirm."""
        page = self.page
        await page.get_by_role("link", name=link, exact=True).first.click()
        self.driven.add(
            re.sub(r"/[0-9]+(?=/|$)|/[0-9a-f-]{36}", "/*", page.url.removeprefix(self.at).split("?")[0])
        )
        for label, value in {**(typed or {}), "Reason": "ticket 9"}.items():
            field = page.get_by_label(re.compile(f"^{label}( optional)?$"))
            if value == "tick":
                await field.check()
            else:
                await field.fill(value)
        assert await complaints(page, self.axe) == [], link
        await page.get_by_role("button", name="Preview").click()
        await expect(page.get_by_role("heading", name="What will happen")).to_be_visible()
        await page.get_by_role("button", name=verb, exact=True).click()
        await expect(page.get_by_role("main")).to_contain_text(told)


async def with_a_gateway(business: Shop, console: ConsoleShop) -> None:
    """Somebody with a pack, whose messages a gateway counted and holds, and a case about that gateway."""
    await business.buy(USER)
    await business.lightning(await order(business, USER))
    row, now = await console.value("SELECT id FROM subscriptions"), business.clock()
    await console.execute(
        "INSERT INTO usage_events (user_id, message_id, subscription_id, node_id, reporter, count,"
        " over_limit, sent_at, received_at) VALUES ($1, 'm', $2, '!0a0b0c0d', $3, 1, false, $4, $4)",
        *(USER, row, GATEWAY, now),
    )
    await console.execute("UPDATE subscriptions SET messages_used = 1")
    for reporter in (GATEWAY, "other"):
        await console.execute(
            "INSERT INTO leases (id, reporter, request_id, user_id, subscription_id, messages, used,"
            " granted_at, expires_at) VALUES ($1, $2, 'r', $3, $4, 5, 0, $5, $6)",
            *(uuid4(), reporter, USER, row, now, now + timedelta(days=1)),
        )
    await console.execute(
        "INSERT INTO reporter_cases (reporter, detail, opened_at, last_at) VALUES ($1, 'too much', $2, $2)",
        *(GATEWAY, now),
    )


async def test_every_other_action_is_done_in_a_browser(
    business: Shop, console: ConsoleShop, browser: Browser, axe: str
) -> None:
    await with_a_gateway(business, console)
    page = await browser.new_page()
    page.set_default_timeout(10_000)
    said = await enter(page, console)
    driver = Driver(page, console.url, axe)
    await gateways(driver)
    await money(driver, business, console)
    await endpoints(driver)
    await person(driver)
    assert said == []
    mine = (*ACTIONS, *refunds.FORMS, *hooks.FORMS, *gates.FORMS)
    everything = {re.sub(r"\{\w+(:\\d\{\d,\d+\})?\}", "*", url(form.path)) for form in mine}
    assert driver.driven | {url(f"/users/*/{step.name}") for step in STEPS} == everything
    assert len(case_forms.FORMS) == 5, "those are driven in test_attention.py"
    await page.close()


async def gateways(driver: Driver) -> None:
    await driver.visit("/admin/gates")
    await driver.page.get_by_role("link", name=GATEWAY).first.click()
    await driver.do("Void what it counted", "Take it back", "1 message", {"Since": "2020-01-01T00:00"})
    await driver.do("Free its leases", "Take it back", "5 messages of 1 user taken back")
    await driver.do("Close the case", "Close it", "is closed")
    await driver.visit(f"/admin/users/{USER}")
    await driver.do("Take leases back", "Take them back", "5 messages")
    await driver.do("Take a pack back", "Take the pack back", "0 of 50")


async def money(driver: Driver, business: Shop, console: ConsoleShop) -> None:
    """From the user's page, and from the list of refunds: made, cancelled, and booked after BTCPay's own."""
    invoice = await paid_too_much(business, USER)
    name = business.btcpay_id(invoice)
    user = f"/admin/users/{USER}"
    for back, made, cancelled, booked in (
        (
            user,
            ("Refund credit", "Refund"),
            "Cancel the refund of 0.50 USD",
            ("Book a refund", "Book the refund"),
        ),
        (
            "/admin/refunds",
            ("Refund through BTCPay", "Make the refund"),
            "Cancel",
            ("Record one", "Record it"),
        ),
    ):
        await driver.visit(back)
        which = {} if back == user else {"Invoice": name}
        await driver.do(*made, "can be claimed at", {**which, "Amount": "0.50"})
        await driver.visit(back)
        await driver.do(cancelled, "Cancel the refund", "cancelled")
        elsewhere = await console.settlement.btcpay.ask(
            "refund",
            f"invoices/{name}/refund",
            method="POST",
            body={"refundVariant": "Custom", "customAmount": "0.25", "customCurrency": "USD"},
        )
        await driver.visit(back)
        await driver.do(*booked, "booked as refunded", {**which, "Pull payment": elsewhere["id"]})
        business.simulator.pay_out(business.simulator.claim(elsewhere["id"]))


async def endpoints(driver: Driver) -> None:
    async with endpoint() as opened:
        await driver.visit("/admin/hooks")
        typed = {"URL": opened.url, "Events": "subscription.*", "Allow private addresses and http": "tick"}
        await driver.do("Add a hook", "Add the hook", "whsec_", typed)
        assert await complaints(driver.page, driver.axe) == [], "the hook's secret"
        await driver.visit("/admin/hooks/1")
        await driver.page.get_by_role("button", name="Send a test").click()
        await expect(driver.page.get_by_role("status")).to_contain_text("accepted: 200")
        await driver.do("Send again", "Send again", "Hook 1 is on", {"Send again from": "2020-01-01T00:00"})
        await driver.do("Remove", "Remove the hook", "No hook yet.")


async def person(driver: Driver) -> None:
    page = driver.page
    await driver.visit(f"/admin/users/{USER}")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Export all data").click()
    assert (await download.value).suggested_filename == f"user-{USER}.json"
    await driver.do(
        "Erase", "Erase for ever", "The user is erased", {"Give up what the user still has": "tick"}
    )
    await driver.visit(f"/admin/users/{USER}")
    await expect(page.get_by_text("The data of this user was erased.")).to_be_visible()
