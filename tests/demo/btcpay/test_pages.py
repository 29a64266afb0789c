"""The pages a payer sees, and the simulator as a process of its own."""

import asyncio
import json
import signal
import sys
from html.parser import HTMLParser

import aiohttp
import pytest

from kosmo_billing_daemon.demo.btcpay import Simulator
from tests.demo.btcpay.conftest import DEADLINE, SECRET, STORE, Api, Receiver

VOID = {"meta", "link"}
EVIL = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """Checks that every element is closed, and keeps elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


async def _page(api: Api, path: str, status: int = 200) -> Page:
    async with api.session.get(api.simulator.url + path) as response:
        assert response.status == status
        assert response.content_type == "text/html"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        return Page(await response.text())


async def test_checkout_shows_amount_status_and_what_can_be_done(api: Api, simulator: Simulator) -> None:
    invoice_id = (await api.create("12.00", metadata={"itemDesc": "Guardian"}))["id"]
    page = await _page(api, f"/i/{invoice_id}")
    assert all(text in page.text for text in ("12.00 USD", "Waiting for payment", "Guardian", invoice_id))
    enabled = {button["data-action"] for button in page.all("button") if "disabled" not in button}
    assert enabled == {"pay", "pay_partial", "pay_over", "pay_late", "expire", "mark_settled", "mark_invalid"}
    await simulator.act(invoice_id, "pay", method="BTC-LN")
    page = await _page(api, f"/i/{invoice_id}")
    assert "Paid" in page.text
    assert all("disabled" in button for button in page.all("button"))


async def test_pages_escape_what_clients_wrote(api: Api) -> None:
    metadata = {"itemDesc": EVIL, "orderId": EVIL}
    invoice = await api.create(metadata=metadata, checkout={"redirectURL": f"https://shop.example/?q={EVIL}"})
    for path in (f"/i/{invoice['id']}", "/"):
        page = await _page(api, path)
        assert EVIL in page.text
        assert [script.get("src") for script in page.all("script")] in (["/static/checkout.js"], [])


async def test_pages_load_nothing_from_elsewhere(api: Api, simulator: Simulator) -> None:
    page = await _page(api, f"/i/{(await api.create())['id']}")
    sources = [item.get("href") or item.get("src") or "" for item in [*page.all("link"), *page.all("script")]]
    assert sources
    for source in sources:
        assert source.startswith("/static/")
        async with api.session.get(simulator.url + source) as response:
            assert response.status == 200
            assert "//" not in (await response.text()).replace("http://www.w3.org/2000/svg", "").replace(
                "// ", ""
            )


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("https://shop.example/back?i={InvoiceId}&o={OrderId}", "https://shop.example/back?i=ID&o=order"),
        ("javascript:alert(1)", None),
        ("/relative", None),
        ("http://[broken", None),
    ],
)
async def test_settled_invoice_links_back_to_the_shop(
    api: Api, simulator: Simulator, template: str, shown: str | None
) -> None:
    invoice_id = (await api.create(metadata={"orderId": "order"}, checkout={"redirectURL": template}))["id"]
    waiting = await _page(api, f"/i/{invoice_id}")
    assert all("hidden" in part for part in waiting.all("p") if part.get("id") == "back")
    await simulator.act(invoice_id, "mark_settled")
    page = await _page(api, f"/i/{invoice_id}")
    links = [link["href"] for link in page.all("a") if link["href"] != "/"]
    assert links == ([shown.replace("ID", invoice_id)] if shown else [])
    assert all("hidden" not in part for part in page.all("p"))


async def test_recent_invoices_link_to_their_pages(api: Api) -> None:
    assert "No invoice yet" in (await _page(api, "/")).text
    ids = [(await api.create())["id"] for _ in range(2)]
    assert [link["href"] for link in (await _page(api, "/")).all("a")] == [
        f"/i/{item}" for item in reversed(ids)
    ]


async def test_unknown_invoice_has_a_page_too(api: Api) -> None:
    assert "No such invoice" in (await _page(api, "/i/%3Cb%3E", status=404)).text


async def test_process_prints_its_url_serves_and_ends_on_sigterm(receiver: Receiver) -> None:
    arguments = ["--store-id", STORE, "--api-key", "k", "--webhook", receiver.url, "--secret", SECRET]
    command = [sys.executable, "-m", "kosmo_billing_daemon.demo.btcpay", "--port", "0", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE * 2)
        url = json.loads(line)["url"]
        async with (
            aiohttp.ClientSession(headers={"Authorization": "token k"}) as session,
            session.post(f"{url}/api/v1/stores/{STORE}/invoices", json={"amount": "5.00"}) as response,
        ):
            assert response.status == 200
        await receiver.wait_for(1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_page_returns_by_itself_only_where_the_invoice_says_so(api: Api) -> None:
    for automatic in (True, False):
        checkout = {"redirectURL": "https://shop.example/", "redirectAutomatically": automatic}
        page = await _page(api, f"/i/{(await api.create(checkout=checkout))['id']}")
        [back] = [part for part in page.all("p") if part.get("id") == "back"]
        assert ("data-automatic" in back) is automatic
