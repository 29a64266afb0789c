"""The renewal page in a browser: small phone, dark, keyboard, without scripts; axe has no complaint."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.domain.builders import WITH_PACK
from tests.support.chromium import ARGUMENTS, PROGRAM
from tests.support.node import node_modules
from tests.web.conftest import Service, Starter
from tests.web.test_renewal import PUBLIC

pytestmark = pytest.mark.timeout(120)  # the first run installs axe-core


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=PROGRAM, args=[*ARGUMENTS])
        yield chromium
        await chromium.close()


@pytest.fixture(scope="module")
def axe() -> str:
    modules = node_modules(Path(__file__).parent / "axe" / "package.json")
    return (modules / "axe-core" / "axe.min.js").read_text()


async def complaints(page: Page, axe: str) -> list[Any]:
    """What axe finds on a page, and whether it is wider than the phone."""
    await page.evaluate(axe)
    found = await page.evaluate(
        "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    )
    wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*found, *(["wider than the phone"] if wide else [])]


async def url(shop: Service, user: UUID) -> str:
    shown = (await shop.ask("GET", "/subscription", user=user)).body["renew_url"]
    return f"{shop.url}{urlsplit(shown).path}"


async def pay(shop: Service) -> None:
    invoice = list(shop.simulator.invoices)[-1]
    await shop.simulator.act(invoice, "pay", None, "BTC-LN")
    await shop.hook({"deliveryId": invoice, "type": "InvoiceSettled", "invoiceId": invoice})
    await shop.reconciliation.run_once()
    shop.live.wake()


@dataclass
class Reader:
    """A page, what it asked for, and what its console said."""

    page: Page
    name: str
    asked: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._asks)
        self.page.on("console", self._says)

    def _asks(self, request: Request) -> None:
        self.asked.add(urlsplit(request.url).netloc)

    def _says(self, message: ConsoleMessage) -> None:
        if "404" not in message.text:
            self.said.append(message.text)

    async def look(self, what: str, shots: Path, axe: str | None) -> None:
        """Take a picture for people, and let axe look."""
        await self.page.screenshot(path=shots / f"{what}-{self.name}.png", full_page=True)
        assert axe is None or await complaints(self.page, axe) == [], what


@pytest.mark.parametrize("way", [("en-GB", "light", False), ("de-DE", "dark", True)], ids=["plain", "dark"])
async def test_from_the_link_to_the_green_page_on_a_small_phone(  # noqa: PLR0917  fixtures
    start: Starter,
    user: UUID,
    browser: Browser,
    axe: str,
    tmp_path: Path,
    way: tuple[str, Literal["light", "dark"], bool],
) -> None:
    language, scheme, scripts = way
    shop = await start(public_url=PUBLIC, catalogue=WITH_PACK)
    await shop.subscribe(user, "wanderer")
    context = await browser.new_context(
        viewport={"width": 320, "height": 640},
        locale=language,
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    reader = Reader(await context.new_page(), f"{language}-{scheme}")
    page, looking = reader.page, axe if scripts else None
    began = asyncio.get_running_loop().time()
    await page.goto(f"{await url(shop, user)}?again=1")
    await reader.look("offer", tmp_path, looking)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".qr svg")).to_have_count(2)
    await reader.look("pay", tmp_path, looking)
    await pay(shop)
    if not scripts:
        await page.reload()
    await expect(page.locator(".good")).to_be_visible(timeout=10_000)
    assert asyncio.get_running_loop().time() - began < 15
    await reader.look("green", tmp_path, looking)
    await page.goto(f"{await url(shop, user)}?pack=extra_50")
    await expect(page.get_by_role("button")).to_be_visible()
    await reader.look("pack", tmp_path, looking)
    await page.goto(f"{shop.url}/r/{'A' * 22}")
    await reader.look("gone", tmp_path, looking)
    assert reader.asked == {urlsplit(shop.url).netloc}
    assert reader.said == []
    await context.close()
