"""The feed in the console: what happens as it happens, without keeping a session alive."""

import asyncio

from playwright.async_api import Browser, expect

from tests.console.cases import alice, console, somebody
from tests.console.conftest import HOSTILE, ConsoleShop, Visitor, text
from tests.console.test_browser import enter
from tests.services.conftest import Shop, clock, simulator
from tests.services.conftest import shop as business

__all__ = ["alice", "business", "clock", "console", "simulator"]


async def test_the_feed_goes_on_with_what_happens_and_ends_at_logout(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await business.buy(somebody(1))
    await console.execute("UPDATE usage_events SET reporter = $1", HOSTILE)
    page = text((await alice.get("/admin/feed")).text)
    assert "events/subscription.activated" in page
    assert "active, wanderer until" in page
    alone = await alice.get(f"/admin/feed?user={somebody(2)}&topic=events/")
    assert alone.text.count("data-item=") == 0
    assert (await alice.get("/admin/feed?topic=x")).status == 422
    async with alice.http.get(f"{alice.url}/admin/feed/stream?topic=events/", timeout=None) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        first = (await stream.content.readuntil(b"\n\n")).decode()
        assert "events/invoice.settled" in first
        await console.execute(
            "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('invoice.needs_attention', $1,"
            " jsonb_build_object('detail', $2::text, 'renew_url', 'https://b.example/r/s3cret'), $3)",
            somebody(1),
            HOSTILE,
            business.clock(),
        )
        async with asyncio.timeout(10):
            while b"needs_attention" not in (told := await stream.content.readuntil(b"\n\n")):
                assert told == b":\n\n"
            assert b"&lt;img" in told
            assert b"<img" not in told
            assert b"s3cret" not in told
            left = await alice.post("/admin/logout", {"csrf": (await alice.get("/admin/feed")).csrf})
            assert left.status == 303
            rest = await stream.content.read()
    assert rest.endswith(b"event: end\ndata: {}\n\n")


async def test_a_feed_keeps_no_session_alive(business: Shop, alice: Visitor) -> None:
    async with alice.http.get(f"{alice.url}/admin/feed/stream", timeout=None) as stream:
        await stream.content.readuntil(b"\n\n")
        business.clock.move(minutes=31)
        async with asyncio.timeout(10):
            assert (await stream.content.read()).endswith(b"event: end\ndata: {}\n\n")
    assert (await alice.get("/admin/feed/stream")).status == 401


async def test_the_feed_is_paused_by_a_key_and_says_when_the_session_has_ended(
    business: Shop, console: ConsoleShop, browser: Browser
) -> None:
    page = await (await browser.new_context()).new_page()
    said = await enter(page, console)
    await page.goto(f"{console.url}/admin/feed")
    state = page.get_by_role("status")
    await expect(state).to_have_text("Live")
    await expect(page.get_by_text("Nothing yet.")).to_be_visible()
    await business.buy(somebody(1))
    await expect(page.get_by_text("events/subscription.activated")).to_be_visible()
    rows = await page.locator("tbody tr").count()
    await page.keyboard.press("p")
    await expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    await console.execute(
        "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('quota.reset', $1, '{}', $2)",
        somebody(1),
        business.clock(),
    )
    await expect(state).to_have_text("Paused, 1 new")
    assert await page.locator("tbody tr").count() == rows
    await page.keyboard.press("p")
    await expect(page.locator("tbody tr")).to_have_count(rows + 1)
    await expect(page.locator("tbody tr").first).to_contain_text("events/quota.reset")
    await console.execute("DELETE FROM console_sessions")
    await expect(state).to_have_text("The session has ended")
    assert said == []
