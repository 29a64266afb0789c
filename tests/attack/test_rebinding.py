"""A web page whose name leads to this host (DNS rebinding), in a real browser."""

from uuid import UUID

from playwright.async_api import async_playwright

from kosmo_billing_daemon.contract.paths import API
from tests.support.chromium import ARGUMENTS, PROGRAM
from tests.web.conftest import Service

ASK = """async ([prefix, user]) => {
  const ask = async (method, path, body) => {
    const answer = await fetch(prefix + path, {
      method, body, headers: { "X-User-ID": user, "Content-Type": "application/json" },
    });
    return [answer.status, await answer.text()];
  };
  return [
    await ask("GET", "/subscription"),
    await ask("GET", "/invoices"),
    await ask("POST", "/invoices", '{"plan_type": "wanderer"}'),
    await ask("PUT", "/nodes/!a1b2c3d4", "{}"),
    await ask("DELETE", "/nodes/!b1b2c3d4"),
  ];
}"""


async def test_a_page_that_leads_its_own_name_here_acts_for_nobody(service: Service, user: UUID) -> None:
    """The browser takes it for our own page: it asks no leave for X-User-ID and sends no Sec-Fetch-Site.

    Fails without ``require_known`` in web/identity.py: 200, 200, 201, 201, 204.
    """
    await service.ask("PUT", "/nodes/!b1b2c3d4", user=user)
    led = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=[*ARGUMENTS, led])
        try:
            page = await browser.new_page()
            await page.goto(service.url.replace("127.0.0.1", "evil.example") + "/health/live")
            answers = await page.evaluate(ASK, [API, str(user)])
            await page.goto(service.url + "/health/live")
            own = await page.evaluate(ASK, [API, str(user)])
        finally:
            await browser.close()
    assert [status for status, _ in answers] == [421] * 5
    assert not any(str(user) in text for _, text in answers)
    # Under the address itself the same page is one of this host, as the demo's is.
    assert [status for status, _ in own] == [200, 200, 201, 201, 204]
    assert len(service.simulator.invoices) == 1
