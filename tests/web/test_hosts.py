"""Under which names a user may be named; tests/attack has the browser."""

from pathlib import Path
from uuid import UUID

import aiohttp
import pytest

from kosmo_billing_daemon.contract.paths import API
from kosmo_billing_daemon.settings import AuthMode, WebhookTrust
from kosmo_billing_daemon.web.server.hosts import admits
from tests.attack.raw_http import exchange, statuses
from tests.web.conftest import HOOK, Service, Starter
from tests.web.issuer import RSA_KEY, claims, issuing, jwk, signed
from tests.web.test_server import unix_listener
from tests.web.test_tokens import settings

ALWAYS = [
    "127.0.0.1:PORT",
    "127.0.0.1",
    "[::1]:PORT",
    "10.0.0.5:PORT",
    "LocalHost:PORT",
    "shop.localhost:PORT",
]
THROUGH_A_PROXY = [
    "kosmoconnect.example",
    "www.kosmoconnect.example",
    "kosmo_billing",
    "kosmo-billing:PORT",
    "",
]
BY_A_BROWSER = ["evil.example:PORT", "evil.example.:PORT", "EVIL.example:9000", "a.evil.example:1"]
NO_NAMES = [
    "127.0.0.1@evil.example",
    "evil.example/x",
    "127.0.0.1:PORT:1",
    "[::1",
    "evil.example:",
    "ë.example",
]


async def statuses_of(service: Service, user: UUID, names: list[str]) -> dict[str, int]:
    port = service.url.rpartition(":")[2]
    return {
        name: (
            await service.ask("GET", "/nodes", user=user, headers={"Host": name.replace("PORT", port)})
        ).status
        for name in names
    }


async def test_a_name_that_a_browser_asked_for_itself_is_none_of_ours(service: Service, user: UUID) -> None:
    """As the names come without a setting: no deployment behind a proxy is broken, no browser gets in."""
    assert set((await statuses_of(service, user, ALWAYS + THROUGH_A_PROXY)).values()) == {200}
    assert set((await statuses_of(service, user, BY_A_BROWSER + NO_NAMES)).values()) == {421}


async def test_with_the_setting_its_names_are_all_there_are(start: Starter, user: UUID) -> None:
    service = await start(allowed_hosts=frozenset({"kosmoconnect.example"}))
    ours = [*ALWAYS, "kosmoconnect.example", "KosmoConnect.example:8443"]
    assert set((await statuses_of(service, user, ours)).values()) == {200}
    others = [*BY_A_BROWSER, *NO_NAMES, *THROUGH_A_PROXY[1:]]
    assert set((await statuses_of(service, user, others)).values()) == {421}


def test_on_port_80_where_browsers_name_no_port_a_name_must_be_listed() -> None:
    assert not admits(frozenset(), "evil.example", 80)
    assert admits(frozenset({"kosmoconnect.example"}), "kosmoconnect.example", 80)
    assert admits(frozenset(), "127.0.0.1", 80)


async def test_no_host_or_two_of_them(service: Service, user: UUID) -> None:
    asked = f"GET {API}/nodes HTTP/1.%d\r\n%sX-User-ID: {user}\r\nConnection: close\r\n\r\n"
    assert statuses(await exchange(service, (asked % (0, "")).encode())) == [200]  # no browser
    twice = "Host: 127.0.0.1\r\nHost: evil.example:1\r\n"
    assert statuses(await exchange(service, (asked % (1, twice)).encode())) in ([400], [421])


async def test_what_is_nobodys_is_answered_under_any_name(service: Service) -> None:
    for path in ("/plans", "/openapi.json", "//health/live", "//metrics"):
        assert (await service.ask("GET", path, headers={"Host": "evil.example:8004"})).status == 200


async def test_a_token_names_its_user_under_any_name(start: Starter, user: UUID) -> None:
    async with issuing(jwk(RSA_KEY, "one")) as issuer:
        service = await start(auth_mode=AuthMode.JWT, jwt=settings(issuer))
        said = {"Authorization": f"Bearer {signed(claims(user))}", "Host": "billing.example:8004"}
        assert (await service.ask("GET", "/nodes", headers=said)).status == 200


async def test_over_a_unix_socket_there_is_no_browser(start: Starter, tmp_path: Path, user: UUID) -> None:
    path = tmp_path / "http.sock"
    await start(sockets=[unix_listener(path)])
    said = {"X-User-ID": str(user), "Host": "kosmoconnect.example:8443"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(f"http://local{API}/nodes", headers=said) as answer,
    ):
        assert answer.status == 200


async def test_the_log_says_which_name_is_missing(
    service: Service, user: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        answer = await service.ask("GET", "/nodes", user=user, headers={"Host": "shop.example:8004"})
        assert (answer.status, answer.code) == (421, "unknown_host")
    told = [record.getMessage() for record in caplog.records if "ALLOWED_HOSTS" in record.getMessage()]
    assert told == ["a request for shop.example:8004 was refused: if that is us, name it in ALLOWED_HOSTS"]


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"Host": "evil.example:8004"}, 421, "unknown_host"),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}, 403, "foreign_origin"),
    ],
)
async def test_where_the_body_is_the_fact_no_page_sends_one(
    start: Starter, said: dict[str, str], status: int, code: str
) -> None:
    """Fails with the exemption of webhooks from ``cors`` in every mode: any page pays any invoice."""
    body = b'{"type": "InvoiceSettled", "invoiceId": "one", "status": "Settled"}'
    trusting = await start(secrets=(), trust=WebhookTrust.BODY)
    answer = await trusting.ask("POST", HOOK, data=body, headers=said)
    assert (answer.status, answer.code) == (status, code)
    assert await trusting.rows("SELECT FROM webhook_deliveries") == []
    assert (await trusting.ask("POST", HOOK, data=body)).status == 200
    hinted = await start(secrets=())  # elsewhere it is a hint, and BTCPay may know us by any name
    assert (await hinted.ask("POST", HOOK, data=body, headers=said)).status == 200
