"""Which addresses a customer may be sent to after paying."""

from uuid import UUID

import pytest

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.web.redirects import checked
from tests.web.conftest import Service, Starter

ANY: frozenset[str] = frozenset()
LISTED = frozenset({"kosmo.example", "localhost"})


@pytest.mark.parametrize(
    "url",
    [
        "https://kosmoconnect.local/thank-you",
        "https://kosmo.example",
        "HTTPS://Kosmo.Example:8443/a/b;c?d=e&f=%20#/done",
        "https://kosmo.example/thanks?invoice={InvoiceId}&order={OrderId}",
        "https://192.0.2.7/x",
        "https://[2001:db8::1]:8443/x",
        "http://localhost:5173/thanks",
        "http://127.0.0.1/thanks",
        "http://127.8.9.10:80/",
        "http://[::1]:3000/",
        "https://kosmo.example/" + "a" * 2026,
    ],
)
def test_these_are_taken_as_they_are(url: str) -> None:
    assert checked(url, ANY) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/thanks",
        "//kosmo.example/thanks",
        "kosmo.example",
        "http://kosmo.example/",
        "http://localhost.kosmo.example/",
        "http://127.0.0.1.kosmo.example/",
        "http://2130706433/",
        "http://0.0.0.0/",
        "https:kosmo.example",
        "https:///kosmo.example",
        "https://",
        "https://:443/",
        "https://kosmo.example:x/",
        "https://kosmo.example:99999/",
        "https://[::1",
        "https://[not-an-address]/",
        "https://kosmo.example@evil.example/",
        "https://user:password@kosmo.example/",
        "https://@kosmo.example/",
        "https://kosmo.example\\@evil.example/",
        "https:\\\\evil.example",
        "https://kosmo.example/a b",
        " https://kosmo.example/",
        "https://kosmo.example/\n",
        "https://kosmo.example/\r\nSet-Cookie: a=b",
        "https://kosmo.exa\tmple/",
        "https://kosmo.example/\x00",
        "https://kosmo.example/\u202e",
        "https://kosmö.example/",
        'https://kosmo.example/"onload=x',
        "https://kosmo.example/<script>",
        "https://{OrderId}.kosmo.example/",
        "https://-kosmo-.example/",
        "https://a..b/",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://kosmo.example/",
        "https://kosmo.example/" + "a" * 2027,
        "\ud800",
    ],
)
def test_these_are_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked(url, ANY)
    assert (refused.value.code, refused.value.field) == ("invalid_redirect_url", "redirect_url")


@pytest.mark.parametrize(
    "url", ["https://kosmo.example/x", "https://KOSMO.EXAMPLE/x", "http://localhost:5173/"]
)
def test_listed_hosts_are_taken(url: str) -> None:
    assert checked(url, LISTED) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "https://sub.kosmo.example/",
        "https://kosmo.example.evil.example/",
        "https://kosmo.example./",
        "https://evil.example/?https://kosmo.example",
        "http://127.0.0.1/",
    ],
)
def test_only_listed_hosts_are_taken(url: str) -> None:
    with pytest.raises(Invalid):
        checked(url, LISTED)


async def test_a_refusal_says_what_would_be_right_and_opens_nothing(start: Starter, user: UUID) -> None:
    service = await start(redirect_hosts=frozenset({"kosmo.example"}))
    answer = await service.buy(user, "wanderer", redirect_url="https://evil.example/")
    assert (answer.status, answer.code, answer.fields) == (422, "invalid_redirect_url", ["redirect_url"])
    assert "kosmo.example" in answer.body["detail"]
    assert "evil" not in answer.body["detail"]
    assert not service.simulator.invoices
    assert (await service.buy(user, "wanderer", redirect_url="https://kosmo.example/")).status == 201


async def test_no_address_is_fine(service: Service, user: UUID) -> None:
    assert (await service.buy(user, "wanderer", redirect_url=None)).body["redirect_url"] is None
