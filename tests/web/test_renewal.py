"""A link pays without a login: looking creates nothing, paying goes the way of every purchase."""

import asyncio
import re
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

import kosmo_billing_daemon.web
from kosmo_billing_daemon.store import links
from kosmo_billing_daemon.web.renewal_page import chosen_language
from tests.domain.builders import WITH_PACK
from tests.web.conftest import Service, Starter

PUBLIC = "https://billing.kosmoconnect.examp"  # a host of 26 letters
TEXTS = tomllib.loads(
    (Path(kosmo_billing_daemon.web.__file__).parent / "static" / "renewal.toml").read_text()
)


@pytest.fixture
async def shop(start: Starter) -> Service:
    return await start(public_url=PUBLIC)


async def link(shop: Service, user: UUID) -> str:
    """The path of a user's link, with two slashes as ``ask`` wants it."""
    shown = (await shop.ask("GET", "/subscription", user=user)).body["renew_url"]
    return f"/{urlsplit(shown).path}"


async def count(shop: Service) -> int:
    async with shop.pool.connection() as connection:
        number: int = await connection.fetchval("SELECT count(*) FROM btcpay_invoices")
        return number


async def give(shop: Service, user: UUID, amount: str) -> None:
    async with shop.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
            " VALUES (now(), $1, 'granted', $2, 'USD', 'tester', 'a gift')",
            user,
            Decimal(amount),
        )


def read(answer: Any) -> str:
    """What a page says, as text."""
    return " ".join(re.sub(r"<[^>]*>", " ", answer.raw.decode()).split())


async def test_the_link_is_short_the_same_each_time_and_not_kept(shop: Service, user: UUID) -> None:
    first = (await shop.ask("GET", "/subscription", user=user)).body["renew_url"]
    assert (await shop.ask("GET", "/subscription?history=true", user=user)).body["renew_url"] == first
    assert len(first) + 30 - len(urlsplit(PUBLIC).netloc) <= 80, "with a host of 30 letters"
    token = first.rpartition("/")[2]
    async with shop.pool.connection() as connection:
        (row,) = await connection.fetch("SELECT * FROM renewal_links")
    assert token.encode() not in row["token_hash"]
    assert row["user_id"] == user
    other = (await shop.ask("GET", "/subscription", user=uuid4())).body["renew_url"]
    assert other != first


async def test_no_link_is_given_out_without_a_public_address(service: Service, user: UUID) -> None:
    assert "renew_url" not in (await service.ask("GET", "/subscription", user=user)).body


async def test_looking_creates_nothing_and_names_nobody(shop: Service, user: UUID) -> None:
    await shop.subscribe(user, "wanderer")
    path, before = await link(shop, user), await count(shop)
    for number in range(100):
        answer = await shop.ask("HEAD" if number % 2 else "GET", path + ("" if number % 3 else "?again=1"))
        assert answer.status == 200
    assert await count(shop) == before
    page = await shop.ask("GET", f"{path}?again=1")
    assert str(user) not in page.raw.decode()
    assert "Wanderer plan: 5.00 USD" in read(page)
    assert "50 of 50 messages are left" in read(page)
    assert "You then have 100 messages until that day." in read(page), "what R2 makes of it"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"form-action 'self' {shop.simulator.url}" in policy


async def test_a_hundred_payments_at_once_open_one_invoice(shop: Service, user: UUID) -> None:
    await shop.subscribe(user, "wanderer")
    path, before = await link(shop, user), await count(shop)
    answers = await asyncio.gather(*(shop.ask("POST", path, allow_redirects=False) for _ in range(100)))
    assert await count(shop) == before + 1
    assert {answer.status for answer in answers} == {303, 429}, "and the link is limited"
    page = await shop.ask("GET", path)
    assert page.raw.decode().count("<svg") == 2, "one code for Lightning, one for the chain"
    assert 'href="lightning:lnbcrt1p' in page.raw.decode()
    assert "Pay 5.00 USD" in read(page)


async def test_it_turns_green_when_it_is_paid_and_says_until_when(shop: Service, user: UUID) -> None:
    path = await link(shop, user)
    assert "Choose a plan" in read(await shop.ask("GET", path))
    answer = await shop.ask("POST", f"{path}?plan=guardian", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, path[1:])
    page = (await shop.ask("GET", path)).raw.decode()
    events = re.search(r'data-events="([^"]+)"', page)
    assert events is not None
    async with shop.session.get(shop.url + events[1]) as stream:
        (invoice,) = shop.simulator.invoices
        await shop.simulator.act(invoice, "pay", None, "BTC-LN")
        await shop.hook({"deliveryId": "d", "type": "InvoiceSettled", "invoiceId": invoice})
        await shop.reconciliation.run_once()
        shop.live.wake()
        async with asyncio.timeout(10):
            while (line := await stream.content.readline()) and line != b"event: changed\n":
                assert str(user).encode() not in line
    green = await shop.ask("GET", path)
    assert 'class="good" role="status"' in green.raw.decode()
    assert re.search(r"Your Guardian plan lasts until \d+ \w+ \d{4}, \d\d:\d\d UTC", read(green))
    assert "Pay with Bitcoin" in read(await shop.ask("GET", f"{path}?again=1"))


async def test_credit_is_used_first_and_what_it_covers_needs_no_payment(shop: Service, user: UUID) -> None:
    await shop.subscribe(user, "wanderer")
    path = await link(shop, user)
    await give(shop, user, "3")
    page = read(await shop.ask("GET", f"{path}?again=1"))
    assert "3.00 USD of your credit are used. 2.00 USD remain to be paid." in page
    await give(shop, user, "2")
    page = read(await shop.ask("GET", f"{path}?again=1"))
    assert "5.00 USD of your credit are used. 0.00 USD remain to be paid. Renew with your credit" in page
    assert "will renew it on that day" not in page
    await shop.ask("PUT", "/subscription/renewal", user=user, json={"auto": True})
    assert "Your credit will renew it on that day" in read(await shop.ask("GET", f"{path}?again=1"))
    answer = await shop.ask("POST", path, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, path[1:])
    green = await shop.ask("GET", path)
    assert 'class="good"' in green.raw.decode()
    assert "100 of 100 messages are left" in read(green)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 303),
        ({"Origin": "null"}, 303),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_forms_of_other_sites_pay_nothing(
    shop: Service, user: UUID, headers: dict[str, str], status: int
) -> None:
    path = await link(shop, user)
    answer = await shop.ask("POST", f"{path}?plan=wanderer", headers=headers, allow_redirects=False)
    assert answer.status == status
    assert await count(shop) == (status == 303)


async def test_revoked_and_invented_links_look_alike(shop: Service, user: UUID) -> None:
    path = await link(shop, user)
    async with shop.pool.transaction() as connection:
        assert await links.revoke(connection, user, datetime.now(UTC)) == 1
    invented = [f"//r/{'A' * 22}", "//r/short", f"//r/{'ä' * 22}", path[:-1] + "~"]
    pages = [await shop.ask("GET", each) for each in (path, *invented)]
    assert {page.status for page in pages} == {404}
    assert len({page.raw for page in pages}) == 1
    assert "This link is not valid any more" in read(pages[0])
    assert (await shop.ask("POST", path)).status == 404
    assert (await shop.ask("GET", f"{path}/events")).status == 404
    renewed = await link(shop, user)
    assert renewed != path
    assert (await shop.ask("GET", renewed)).status == 200


async def test_what_is_not_for_sale_is_said_so(shop: Service, user: UUID) -> None:
    path = await link(shop, user)
    for query in ("?plan=nothing", "?pack=extra", "?plan=<script>", "?plan=wanderer&pack=wanderer"):
        page = await shop.ask("GET", path + query)
        assert page.status == 404
        assert f"{'These messages are' if 'pack' in query else 'This plan is'} not for sale" in read(page)
        assert b"<script>" not in page.raw
        assert (await shop.ask("POST", path + query)).status == 404
    assert await count(shop) == 0


async def test_a_link_sells_a_pack_once_and_says_what_it_gives(start: Starter, user: UUID) -> None:
    shop = await start(public_url=PUBLIC, catalogue=WITH_PACK)
    path = await link(shop, user)
    pack = f"{path}?pack=extra_50"
    unfit = await shop.ask("GET", pack)
    assert (unfit.status, "You have no plan now to which these" in read(unfit)) == (200, True)
    assert (await shop.ask("POST", pack)).status == 409
    await shop.subscribe(user, "wanderer")
    before = await count(shop)
    offered = read(await shop.ask("GET", f"{path}?again=1"))
    assert "More messages for your present plan 50 more messages: 4.00 USD" in offered
    await shop.rows("UPDATE subscriptions SET messages_used = 50 RETURNING id")
    page = await shop.ask("GET", pack)
    assert "50 more messages: 4.00 USD If you pay now, you have 50 messages until" in read(page)
    assert 'method="post" action="' + pack[1:] in page.raw.decode()
    assert await count(shop) == before
    answers = [await shop.ask("POST", pack, allow_redirects=False) for _ in range(3)]
    assert {(each.status, each.headers["Location"]) for each in answers} == {(303, pack[1:])}
    assert await count(shop) == before + 1
    await shop.ask("POST", f"{path}?plan=wanderer", allow_redirects=False)
    waiting = await shop.ask("GET", pack)  # though the plan's invoice is newer
    assert "Pay 4.00 USD" in read(waiting)
    assert "Pay 5.00 USD" in read(await shop.ask("GET", path))
    _, (invoice,), _ = await shop.rows("SELECT btcpay_invoice_id FROM btcpay_invoices ORDER BY created_at")
    await shop.simulator.act(invoice, "pay", None, "BTC-LN")
    await shop.hook({"deliveryId": invoice, "type": "InvoiceSettled", "invoiceId": invoice})
    await shop.reconciliation.run_once()
    green = await shop.ask("GET", pack)
    assert 'class="good" role="status"' in green.raw.decode()
    assert "50 of 100 messages are left" in read(green)
    assert "?pack=extra_50&amp;again=1" in green.raw.decode()
    german = await shop.ask("GET", f"{pack}&again=1", headers={"Accept-Language": "de"})
    assert "50 Nachrichten mehr: 4,00 USD Wenn du jetzt bezahlst, hast du 100 Nachrichten bis" in read(german)


async def test_the_page_speaks_the_readers_language(shop: Service, user: UUID) -> None:
    await shop.subscribe(user, "wanderer")
    path = f"{await link(shop, user)}?again=1"
    german = await shop.ask("GET", path, headers={"Accept-Language": "de-AT,de;q=0.9,en;q=0.8"})
    assert '<html lang="de">' in german.raw.decode()
    assert "Tarif Wanderer: 5,00 USD" in read(german)
    assert "Mit Bitcoin bezahlen" in read(german)
    assert german.headers["Vary"] == "Accept-Language"


def test_both_languages_have_the_same_texts_with_the_same_fields() -> None:
    fields = {
        language: {key: sorted(re.findall(r"{\w+}", text)) for key, text in texts.items()}
        for language, texts in TEXTS.items()
    }
    assert fields["en"] == fields["de"]
    assert all(len(texts["months"].split()) == 12 for texts in TEXTS.values())


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("fr, de;q=0.5", "de"),
        ("en;q=0.2,de;q=0.9", "de"),
        ("de;q=0", "en"),
        ("de;q=x", "en"),
    ],
)
def test_the_language_is_the_one_liked_best(accepted: str, language: str) -> None:
    assert chosen_language(accepted) == language
