"""The API's document: complete, made from what handlers use, and readable without another host."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from playwright.async_api import async_playwright

from kosmo_billing_daemon.contract.document import asyncapi
from kosmo_billing_daemon.contract.paths import API, RENEWAL
from kosmo_billing_daemon.settings import AuthMode
from kosmo_billing_daemon.web import openapi
from kosmo_billing_daemon.web.app import OPERATIONS as ROUTES
from tests.support.chromium import ARGUMENTS, PROGRAM
from tests.web.conftest import Service

DOCUMENT: dict[str, Any] = openapi.document(ROUTES, AuthMode.HEADER)
OPERATIONS = [
    (method, path, told) for path, methods in DOCUMENT["paths"].items() for method, told in methods.items()
]


async def test_the_document_has_every_route_and_no_other(service: Service) -> None:
    there_are = {
        (route.method.lower(), route.resource.canonical)
        for route in service.runner.app.router.routes()
        if route.resource is not None
        and route.method not in ("HEAD", "OPTIONS", "*")
        # Parts of the page that describes them, and pages for people, are no operations.
        and "/docs/" not in route.resource.canonical
        and not route.resource.canonical.startswith(f"{RENEWAL}/")
    }
    assert {(method, path) for method, path, _ in OPERATIONS} == there_are


def test_every_operation_tells_of_bugs_and_outages_and_strangers() -> None:
    for method, path, told in OPERATIONS:
        assert "500" in told["responses"], (method, path)
        if told["security"]:
            assert {"401", "503"} <= told["responses"].keys(), (method, path)
        if method != "get":
            assert "403" in told["responses"]


def test_names_are_unique_and_every_reference_leads_somewhere() -> None:
    names = [told["operationId"] for _, _, told in OPERATIONS]
    assert len(set(names)) == len(names)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert references <= DOCUMENT["components"]["schemas"].keys()


def test_every_example_is_what_its_schema_says() -> None:
    seen = 0
    for method, path, told in OPERATIONS:
        bodies = [told["requestBody"]] if "requestBody" in told else []
        for body in [*bodies, *told["responses"].values()]:
            for media in body.get("content", {}).values():
                schema = {**media["schema"], "components": DOCUMENT["components"]}
                validator = jsonschema_rs.validator_for(schema, validate_formats=True)
                examples = [media["example"]] if "example" in media else []
                examples += [example["value"] for example in media.get("examples", {}).values()]
                for example in examples:
                    validator.validate(example)
                    seen += 1
                assert examples or path.endswith((".json", "/docs", ".css", ".js", "/metrics")), (
                    method,
                    path,
                )
    assert seen > 100


@pytest.mark.parametrize(
    ("mode", "scheme"), [(AuthMode.HEADER, "proxy"), (AuthMode.JWT, "bearer")], ids=["header", "jwt"]
)
def test_what_is_served_names_the_one_way_to_say_who_asks(mode: AuthMode, scheme: str) -> None:
    served = openapi.document(ROUTES, mode)
    assert list(served["components"]["securitySchemes"]) == [scheme]
    assert served["paths"][f"{API}/nodes"]["get"]["security"] == [{scheme: []}]
    assert served["paths"][f"{API}/plans"]["get"]["security"] == []


async def test_metrics_are_as_they_are_told(service: Service) -> None:
    answer = await service.ask("GET", "//metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_both_contracts_are_served(service: Service) -> None:
    served = await service.ask("GET", "/openapi.json")
    assert (served.status, served.body["openapi"]) == (200, "3.1.0")
    assert served.body == json.loads(json.dumps(DOCUMENT))
    mqtt = await service.ask("GET", "/asyncapi.json")
    assert mqtt.raw == asyncapi()
    assert mqtt.body["asyncapi"].startswith("3.")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.addresses.append(value or "")
            self.inline |= name == "style" or name.startswith("on")
        self.inline |= tag == "style"


async def test_the_page_needs_no_other_host_and_allows_none(service: Service) -> None:
    answer = await service.ask("GET", "/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
    page = Page()
    page.feed(answer.raw.decode())
    assert not page.inline
    for address in page.addresses:
        assert ":" not in address
        assert not address.startswith("/")  # works behind a proxy with a path of its own
        if not address.startswith("#"):
            assert (await service.ask("GET", f"/{address}")).status == 200, address


@pytest.mark.parametrize(("name", "kind"), [("docs.css", "text/css"), ("docs.js", "text/javascript")])
async def test_style_and_script_fetch_nothing_from_elsewhere(service: Service, name: str, kind: str) -> None:
    answer = await service.ask("GET", f"/docs/{name}")
    assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert not re.findall(rb"https?:|\burl\(|@import|innerHTML|\beval\(", answer.raw)
    again = await service.ask("GET", f"/docs/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.raw) == (304, b"")


async def test_the_menu_has_method_and_path_and_is_folded_away_on_a_phone(service: Service) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=[*ARGUMENTS])
        try:
            for width, is_open in ((1200, True), (360, False)):
                page = await browser.new_page(viewport={"width": width, "height": 740})
                await page.goto(f"{service.url}{API}/docs")
                await page.wait_for_selector("section")
                entries = await page.locator("#contents a").all_text_contents()
                assert ("get /plans" in entries, "put /nodes/{node_id}" in entries) == (True, True)
                assert await page.locator("#contents").is_visible() is is_open
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
        finally:
            await browser.close()
