"""Which pages of other origins may ask."""

from uuid import UUID

import pytest

from tests.web.conftest import HOOK, Service, Starter

PAGE = "https://kosmo.example"
OTHER = "https://evil.example"
ALLOW = "Access-Control-Allow-Origin"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


async def test_a_listed_page_may_ask_and_read(start: Starter) -> None:
    service = await start(cors_origins=(PAGE,))
    asked = await service.ask("OPTIONS", "/invoices", headers={"Origin": PAGE, **PREFLIGHT})
    assert (asked.status, asked.raw) == (204, b"")
    assert asked.headers[ALLOW] == PAGE
    assert asked.headers["Vary"] == "Origin"
    assert asked.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST"
    allowed = asked.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id"} <= set(
        allowed
    )
    assert "x-user-id" not in allowed
    assert "Access-Control-Allow-Credentials" not in asked.headers
    read = await service.ask("GET", "/plans", headers={"Origin": PAGE})
    assert (read.headers[ALLOW], read.headers["Vary"]) == (PAGE, "Origin")
    assert "X-Request-ID" in read.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "path", ["/invoices", "/invoices/x", "/plans", "/subscription", "/nodes", "/nodes/!a1b2c3d4"]
)
async def test_every_route_of_the_api_can_be_asked_beforehand(start: Starter, path: str) -> None:
    service = await start(cors_origins=(PAGE,))
    asked = await service.ask("OPTIONS", path, headers={"Origin": PAGE, **PREFLIGHT})
    assert (asked.status, asked.headers[ALLOW]) == (204, PAGE)


async def test_a_page_may_read_errors_too(start: Starter, user: UUID) -> None:
    service = await start(cors_origins=(PAGE,))
    for path, status in (("/subscription", 401), ("/nothing", 404)):
        answer = await service.ask("GET", path, headers={"Origin": PAGE})
        assert (answer.status, answer.headers[ALLOW]) == (status, PAGE)
    page = {"Origin": PAGE, "Content-Type": "application/json"}
    wrong = await service.ask("POST", "/invoices", user=user, data=b"x", headers=page)
    assert (wrong.status, wrong.headers[ALLOW]) == (400, PAGE)


@pytest.mark.parametrize(
    "origin", [OTHER, "null", PAGE + ".evil.example", PAGE + ":8443", "http://kosmo.example", ""]
)
async def test_other_pages_may_not(start: Starter, origin: str) -> None:
    service = await start(cors_origins=(PAGE,))
    asked = await service.ask("OPTIONS", "/invoices", headers={"Origin": origin, **PREFLIGHT})
    read = await service.ask("GET", "/plans", headers={"Origin": origin})
    assert ALLOW not in asked.headers
    assert "Access-Control-Allow-Methods" not in asked.headers
    assert ALLOW not in read.headers
    assert read.headers["Vary"] == "Origin"


async def test_every_page_may_where_the_operator_says_so(start: Starter) -> None:
    service = await start(cors_origins=("*",))
    read = await service.ask("GET", "/plans", headers={"Origin": OTHER})
    assert read.headers[ALLOW] == "*"
    assert "Vary" not in read.headers


async def test_without_the_setting_nothing_is_said(service: Service) -> None:
    asked = await service.ask("OPTIONS", "/invoices", headers={"Origin": PAGE, **PREFLIGHT})
    assert asked.status == 204
    assert not [name for name in asked.headers if name.startswith("Access-Control")]


async def test_webhooks_and_health_are_not_for_pages(start: Starter) -> None:
    service = await start(cors_origins=("*",))
    for path in (HOOK, "//health/live"):
        answer = await service.ask("OPTIONS", path, headers={"Origin": PAGE, **PREFLIGHT})
        assert ALLOW not in answer.headers


BODY = b'{"plan_type": "wanderer"}'
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_foreign_page_cannot_act_for_a_user_known_by_a_cookie(
    start: Starter, user: UUID, site: str
) -> None:
    service = await start(cors_origins=(PAGE,))
    foreign = {"Sec-Fetch-Site": site, **JSON}
    for origin in ({"Origin": OTHER}, {"Origin": "null"}, {}):
        answer = await service.ask("POST", "/invoices", user=user, data=BODY, headers={**foreign, **origin})
        assert (answer.status, answer.code) == (403, "foreign_origin")
    assert not service.simulator.invoices
    listed = await service.ask("POST", "/invoices", user=user, data=BODY, headers={**foreign, "Origin": PAGE})
    assert listed.status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://billing.example"}, 201),
        ({"Origin": "http://billing.example", "Host": "billing.example"}, 201),
        ({"Origin": "http://billing.example", "X-Forwarded-Host": "billing.example"}, 201),
        ({"Origin": "http://www.billing.example", "Host": "billing.example"}, 403),
        ({"Origin": "http://billing.example:81", "Host": "billing.example"}, 403),
        ({"Origin": "null", "Host": "billing.example"}, 403),
        ({"Origin": "", "Host": ""}, 403),
    ],
)
async def test_a_browser_that_names_no_site_is_known_by_its_origin(
    service: Service, user: UUID, headers: dict[str, str], status: int
) -> None:
    """Browsers send Fetch Metadata to https and loopback alone; a plain-http site has Origin only."""
    answer = await service.ask("POST", "/invoices", user=user, data=BODY, headers={**JSON, **headers})
    assert answer.status == status


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""])
async def test_a_browser_sends_json_by_name_and_no_form(
    service: Service, user: UUID, content_type: str
) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    wrong = await service.ask(
        "POST", "/invoices", user=user, data=BODY, headers={**own, "Content-Type": content_type}
    )
    assert (wrong.status, wrong.code) == (415, "unsupported_media_type")
    assert not service.simulator.invoices
    curl = await service.ask(
        "POST", "/invoices", user=user, data=BODY, headers={"Content-Type": content_type}
    )
    assert curl.status == 201
