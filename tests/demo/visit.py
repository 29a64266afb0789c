"""A visitor of the demo's page, and what is asked of the page from inside."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Locator, Page, expect

SOON = 5_000  # milliseconds; what the page does after a click takes well below one
LATER = 15_000

# Where the keyboard is, and whether that is seen.
FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) { return ["nowhere", ""]; }
  const seen = at.type === "radio" ? at.nextElementSibling : at;
  const place = at.closest("section, header, footer");
  const name = place ? place.id || { HEADER: "top", FOOTER: "foot" }[place.tagName] : "";
  return [name, getComputedStyle(seen).outlineStyle];
}"""

# Every visible text with less contrast to its ground than WCAG 2.2 asks for.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) { return color; }
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest(".sr, noscript")) { continue; }
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) { weak.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`); }
  }
  return weak;
}"""


@dataclass
class Visit:
    """One user's page, and what it did that a visitor does not see."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def hear(self, message: ConsoleMessage) -> None:
        """Note errors; that an answer refuses something, the browser says by itself."""
        answers = urlsplit(message.location["url"]).path.startswith(("/api/", "/gateway/"))
        if message.type in {"error", "warning"} and not (
            answers and "responded with a status" in message.text
        ):
            self.errors.append(f"{message.text} ({message.location['url']})")

    def button(self, name: str, within: str = "body") -> Locator:
        return self.page.locator(within).get_by_role("button", name=name, exact=True)

    async def buy(self, plan: str) -> None:
        await self.button(f"Buy {plan}").click()
        await expect(self.page.locator("#btcpay-status")).to_have_text("waiting for payment", timeout=LATER)

    async def other_way(self, name: str) -> None:
        """Press one of the buttons below "Simulate problems"."""
        summary = self.page.get_by_text("Simulate problems", exact=True)
        if not await self.button(name).is_visible():
            await summary.click()
        await self.button(name).click()

    async def until_green(self, plan: str) -> None:
        await expect(self.page.locator("#standing")).to_have_text("✓ active", timeout=SOON)
        await expect(self.page.locator("#rights .plan")).to_have_text(plan)
        await expect(self.page.locator("#checkout .progress li").last).to_contain_text("Plan active")
        await expect(self.page.locator("#checkout .progress li").last).to_have_class("done")

    async def send(self, button: str = "Send") -> str:
        """Send, and return the verdict."""
        await expect(self.button(button)).to_be_enabled()
        await self.button(button).click()
        await expect(self.button(button)).to_be_enabled(timeout=SOON)
        return await self.page.locator("#sending .verdict").inner_text()
