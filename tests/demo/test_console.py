"""The demo's page in a real browser: what a visitor clicks, sees and hears of, and where it never asks."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.demo.console import USERS
from kosmo_billing_daemon.demo.stage import DemoStage
from tests.demo.visit import CONTRAST, FOCUSED, LATER, SOON, Visit
from tests.support.chromium import ARGUMENTS, PROGRAM

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDS = {user.name: user.user_id for user in USERS}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage() -> AsyncIterator[DemoStage]:
    async with DemoStage() as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        yield one
        await one.close()


async def open_page(browser: Browser, stage: DemoStage, user: str, **options: Any) -> Visit:
    context = await browser.new_context(locale="en-GB", **options)
    page = await context.new_page()
    visit = Visit(page)
    page.on("console", visit.hear)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    context.on("request", lambda request: visit.asked.add(urlsplit(request.url).netloc))
    await page.goto(f"{stage.urls['console']}/#{user}")
    await page.wait_for_selector("body[data-ready]", timeout=LATER)
    await expect(page.locator("#live")).to_contain_text("Live", timeout=SOON)
    return visit


async def end(visit: Visit, stage: DemoStage) -> None:
    await visit.page.context.close()
    assert visit.errors == []
    assert visit.asked == {urlsplit(stage.urls["console"]).netloc}


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, stage: DemoStage, request: pytest.FixtureRequest) -> AsyncIterator[Visit]:
    """The page of the user that the test names; it ends without an error, having asked nobody else."""
    one = await open_page(browser, stage, getattr(request, "param", "Ada"))
    yield one
    await end(one, stage)


def of(user: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("visit", [user], indirect=True, ids=[user])


@of("Ada")
async def test_a_purchase_turns_green_by_itself(visit: Visit) -> None:
    await expect(visit.page.locator("#standing")).to_have_text("○ no plan")
    await visit.buy("wanderer")
    await visit.button("⚡ Pay with Lightning").click()
    await visit.until_green("wanderer")
    await expect(visit.page.locator("#checkout .told")).to_contain_text("s after the click")
    await expect(visit.page.locator("#quota-words")).to_have_text("0 of 50 used, 50 left")
    await expect(visit.page.locator("#time-left")).to_have_text("29 days 23 hours")
    await expect(visit.page.locator("#announcer")).to_have_text("Ada: plan wanderer, active")
    stream = visit.page.locator("#stream .messages")
    await expect(stream).to_contain_text("subscription.activated: Ada", timeout=SOON)
    await expect(stream).to_contain_text("Ada: wanderer, active, 0 of 50 used")
    await visit.page.get_by_text("Purchases and the rule behind their dates").click()
    await expect(visit.page.locator("#rights .history")).to_contain_text("a new period")


@of("Ben")
async def test_the_message_after_the_last_is_refused_with_the_reason(visit: Visit) -> None:
    await visit.buy("wanderer")
    await visit.button("⚡ Pay with Lightning").click()
    await visit.until_green("wanderer")
    for left in (40, 30, 20, 10, 0):
        assert await visit.send("Send 10") == f"✓ 10 messages passed, {left} left"
    assert await visit.send() == "✕ Refused: every message of the plan is used"
    await expect(visit.page.locator("#sending .attempts li").first).to_contain_text(
        "every message of the plan is used"
    )
    await expect(visit.page.locator("#quota-state")).to_contain_text("Used up", timeout=SOON)
    await expect(visit.page.locator("#meter")).to_have_attribute("aria-valuenow", "50")
    await expect(visit.page.locator("#usage-sum")).to_contain_text("50 messages of Ben")
    text = visit.page.locator("#phone li", has_text="All 50 messages of your Wanderer plan are used.")
    await expect(text.get_by_role("link")).to_have_attribute("href", re.compile("[?]pack=extra_50$"))
    pack = visit.page.locator("#plans .packs li")
    await expect(pack.locator(".quote")).to_contain_text("Now: $4.00 for a limit of 100 messages until")
    await visit.buy("50 messages")
    await visit.button("⚡ Pay with Lightning").click()
    await expect(visit.page.locator("#quota-words")).to_have_text("50 of 100 used, 50 left", timeout=SOON)
    assert await visit.send() == "✓ Passed, 49 left"
    await expect(visit.page.locator("#money")).to_contain_text("$4.00 paid for extra_50")
    await visit.page.get_by_text("Race of two gateways").click()
    await visit.page.locator("#race button").click()
    line = visit.page.locator("#race [role=status]")
    await expect(line).to_have_text(
        re.compile(r"^49 were left, \d+ and \d+ passed: 0 oversold$"), timeout=20_000
    )


@of("Cleo")
async def test_a_whitelist_opens_a_node_and_closes_it_again(visit: Visit) -> None:
    await visit.buy("guardian")
    await visit.button("Pay on-chain").click()
    await expect(visit.page.locator("#btcpay-status")).to_have_text("confirming")
    await visit.button("Confirm the payment").click()
    await visit.until_green("guardian")
    assert "not on the whitelist" in await visit.send()
    await visit.page.get_by_label("Node to add").fill("a hilltop")
    await visit.button("Add to the list").click()
    await expect(visit.page.locator("#nodes .problem")).not_to_be_empty()
    await visit.page.get_by_label("Node to add").fill("!a1b2c3d4")
    await visit.page.get_by_label("Label (optional)").fill("<b onclick=alert()>Hilltop</b>")
    await visit.button("Add to the list").click()
    await expect(visit.page.locator("#nodes .listed")).to_contain_text("<b onclick=alert()>Hilltop</b>")
    await expect(visit.page.locator("#scope")).to_have_text("nodes on the list (1)", timeout=SOON)
    assert await visit.send() == "✓ Passed, 499 left"
    await visit.button("Remove !a1b2c3d4").click()
    await expect(visit.page.locator("#scope")).to_have_text("nodes on the list (0)", timeout=SOON)
    assert "not on the whitelist" in await visit.send()


@of("Dana")
async def test_an_open_checkout_survives_a_refresh(visit: Visit) -> None:
    await visit.buy("wanderer")
    address = await visit.page.locator("#checkout-page").get_attribute("href")
    assert address is not None
    await visit.page.reload()
    await expect(visit.page.locator("#btcpay-status")).to_have_text("waiting for payment", timeout=SOON)
    await expect(visit.page.locator("#checkout-page")).to_have_attribute("href", address)
    await visit.other_way("Let it expire")  # Dana has no plan yet in the tests below
    await expect(visit.page.locator("#btcpay-status")).to_have_text("expired")


@of("Dana")
async def test_a_late_payment_still_counts(visit: Visit) -> None:
    await visit.buy("sanctuary")
    await visit.other_way("Let it expire")
    await expect(visit.page.locator("#btcpay-status")).to_have_text("expired")
    await expect(visit.page.locator("#checkout .told")).to_contain_text("within 72 hours")
    await visit.other_way("Pay too late")
    await expect(visit.page.locator("#btcpay-status")).to_have_text("expired, paid late")
    await visit.button("Confirm the payment").click()
    await visit.until_green("sanctuary")
    assert await visit.send() == "✓ Passed, unlimited"


@of("Dana")
async def test_faults_are_switched_on_seen_and_reset(visit: Visit) -> None:
    await visit.page.get_by_role("switch", name="BTCPay is down").check()
    await expect(visit.page.locator("#outage")).to_contain_text("BTCPay is down")
    await visit.button("Buy wanderer").click()
    await expect(visit.page.locator("#plans .problem")).not_to_be_empty(timeout=LATER)
    await visit.button("Fix everything").click()
    await expect(visit.page.get_by_role("switch", name="BTCPay is down")).not_to_be_checked()
    await expect(visit.page.locator("#outage")).to_be_empty()
    await visit.page.get_by_role("switch", name="Webhooks are lost").check()
    await expect(visit.page.locator("#outage")).to_contain_text("Webhooks are lost")
    await visit.buy("guardian")
    await visit.button("⚡ Pay with Lightning").click()
    await expect(visit.page.locator("#btcpay-status")).to_have_text("paid")
    await visit.page.get_by_text("Invoices, as the daemon knows them").click()
    newest = visit.page.locator("#checkout .invoices li").first
    await newest.get_by_text("Ask BTCPay").click()
    await expect(newest).to_contain_text("paid", timeout=SOON)
    await visit.until_green("guardian")
    await visit.button("Fix everything").click()
    await expect(visit.page.locator("#outage")).to_be_empty()


@of("Ada")
async def test_the_stream_pauses_unfolds_and_goes_on(visit: Visit) -> None:
    first = visit.page.locator("#stream .messages li").first
    await expect(first).to_be_visible(timeout=SOON)
    await visit.button("Pause").click()
    before = await first.inner_text()
    await visit.buy("guardian")
    await expect(visit.page.locator("#stream-state")).to_contain_text("waiting", timeout=SOON)
    assert await first.inner_text() == before
    await visit.button("Go on").click()
    await expect(visit.page.locator("#stream-state")).to_contain_text("Live")
    event = visit.page.locator("#stream .messages li", has_text="invoice.created: Ada").first
    await event.locator("summary").click()
    await expect(event.locator(".topic")).to_have_text("kosmo/billing/v1/events/invoice.created")
    await expect(event.locator("pre")).to_contain_text(f'"subject": "{IDS["Ada"]}"')
    await visit.page.get_by_label("Only about Ada").check()
    await expect(visit.page.locator("#stream .messages li", has_text="mark")).to_have_count(0)


@of("Ada")
async def test_everything_that_takes_the_keyboard_has_a_name_and_is_reached(visit: Visit) -> None:
    page = visit.page
    await visit.buy("wanderer")
    snapshot = await page.locator("body").aria_snapshot()
    for landmark in ("banner", "main", "contentinfo"):
        assert f"- {landmark}" in snapshot
    for role in ("button", "textbox", "switch", "checkbox", "radio", "link", "meter", "combobox"):
        names = [line.strip() for line in snapshot.splitlines() if line.strip().startswith(f"- {role}")]
        assert all('"' in line for line in names), names
    assert snapshot.count("heading") >= 9
    await page.reload()  # so that Tab begins at the top
    await expect(page.locator("#checkout .invoices")).to_be_visible(timeout=SOON)
    await expect(page.locator("#stream .messages li").first).to_be_visible(timeout=SOON)
    await page.evaluate("() => document.getElementById('clear').click()")  # each message is a stop of its own
    order: list[str] = []
    for _ in range(100):
        await page.keyboard.press("Tab")
        place, outline = await page.evaluate(FOCUSED)
        if place == "nowhere" and order:
            break
        assert outline != "none", f"the focus is not seen in {place}"
        if place not in order:
            order.append(place)
    assert order[:7] == ["", "top", "plans", "checkout", "rights", "sending", "nodes"]
    assert order[7:] == ["money", "phone", "faults", "stream", "foot"]
    duplicates = await page.evaluate(
        "() => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);"
        " return ids.filter((id, at) => ids.indexOf(id) !== at); }"
    )
    assert duplicates == []


@of("Ben")
async def test_the_other_user_is_chosen_by_keyboard_and_kept_in_the_address(visit: Visit) -> None:
    await visit.page.get_by_role("radio", name="Ben").focus()
    await visit.page.keyboard.press("ArrowRight")
    await expect(visit.page.locator("#rights-title")).to_contain_text("What Cleo may do now")
    assert visit.page.url.endswith("#Cleo")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground(browser: Browser, stage: DemoStage, scheme: str) -> None:
    visit = await open_page(browser, stage, "Ben", color_scheme=scheme)
    weak = await visit.page.evaluate(CONTRAST)
    assert weak == []
    await end(visit, stage)


async def test_a_phone_needs_no_sideways_scrolling(browser: Browser, stage: DemoStage) -> None:
    visit = await open_page(
        browser, stage, "Cleo", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    assert await visit.page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = await visit.page.evaluate(
        "() => [...document.querySelectorAll('button, summary, input:not([type=checkbox])')]"
        ".filter((e) => e.checkVisibility()).filter((e) => e.getBoundingClientRect().height < 24)"
        ".map((e) => e.outerHTML)"
    )
    assert small == []  # WCAG 2.2, 2.5.8
    await end(visit, stage)


async def test_only_the_own_page_is_answered(stage: DemoStage) -> None:
    console, ada = stage.urls["console"], IDS["Ada"]
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{console}/") as response:
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            async with http.get(f"{console}/api/{ada}/subscription", headers=headers) as response:
                assert response.status == 403
        async with http.get(
            f"{console}/api/{ada}/subscription", headers={"X-User-ID": IDS["Ben"]}
        ) as response:
            assert (await response.json())["user_id"] == ada
        stranger = f"{console}/api/99999999-9999-4999-8999-999999999999/subscription"
        async with http.get(stranger) as response:
            assert response.status == 404
        async with http.get(f"{console}/btcpay/api/v1/stores") as response:
            assert response.status == 404
        async with (
            http.get(f"{stage.urls['api']}{API}/plans") as direct,
            http.get(f"{console}/api/{ada}/plans") as by,
        ):
            assert await by.json() == await direct.json()


async def test_a_quote_that_comes_moves_no_button(visit: Visit) -> None:
    """One that moves between press and release is not clicked."""
    await expect(visit.page.locator("[data-plan=guardian] .quote")).to_contain_text("Now:", timeout=LATER)
    there = await visit.button("Buy guardian").bounding_box()
    await visit.page.evaluate("document.querySelectorAll('.quote').forEach((one) => one.textContent = '')")
    assert await visit.button("Buy guardian").bounding_box() == there


async def test_from_the_mesh_text_to_the_green_page(
    browser: Browser, stage: DemoStage, tmp_path: Path
) -> None:
    visit = await open_page(browser, stage, "Dana")
    await visit.buy("guardian")
    await visit.button("⚡ Pay with Lightning").click()
    await visit.until_green("guardian")
    began = asyncio.get_running_loop().time()
    await visit.button("Jump to three days before the end").click()
    text = visit.page.locator("#phone li").first
    await expect(text).to_contain_text("Your Guardian plan ends in 3 days. Renew: http", timeout=LATER)
    await visit.page.locator("#phone").screenshot(path=tmp_path / "phone.png")
    async with visit.page.context.expect_page() as opened:
        await text.get_by_role("link").click()
    page = await opened.value
    await page.get_by_role("button", name="Pay with Bitcoin").click()
    async with page.context.expect_page() as checkout:
        await page.get_by_role("link", name="Other ways to pay").click(modifiers=["Control"])
    await (await checkout.value).locator("button[data-action=pay][data-method=BTC-LN]").first.click()
    await expect(page.locator(".good")).to_contain_text("Your payment has arrived", timeout=LATER)
    assert asyncio.get_running_loop().time() - began < 15
    assert visit.errors == []
    await visit.page.context.close()


async def test_who_comes_back_to_the_stream_misses_nothing(stage: DemoStage) -> None:
    url = f"{stage.urls['console']}/mqtt"

    async def numbers(last: str, most: int) -> list[int]:
        found: list[int] = []
        async with http.get(url, headers={"Last-Event-ID": last}) as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"id: "):
                    found.append(int(line[4:]))
                if len(found) == most:
                    break
            response.close()
        return found

    async with aiohttp.ClientSession() as http:
        first, second = await numbers("", 2)  # of those that are kept, the oldest
        assert second == first + 1
        assert (await numbers(str(first), 1))[0] >= second
        for unknown in ("999999", "not a number"):
            assert first <= (await numbers(unknown, 1))[0] < 999999
