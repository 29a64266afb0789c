"""Who is let into the console, how, and for how long; and what every answer forbids."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from kosmo_billing_daemon.errors import Invalid
from tests.console.conftest import ConsoleShop, Visitor

PAGE = "/admin/"


async def test_a_link_lets_in_once_and_only_when_its_button_is_pressed(shop: ConsoleShop) -> None:
    link = f"/admin/login?token={await shop.access.invite('alice')}"
    visitor = await shop.visitor()
    shown = await visitor.get(link)
    for _ in range(2):  # as chat programs and mail filters do
        shown = await visitor.get(link)
        assert shown.status == 200
        assert "Set-Cookie" not in shown.headers
    entered = await visitor.send(link.partition("?")[0], shown.hidden)
    assert (entered.status, entered.location) == (303, PAGE)
    assert "alice" in (await visitor.get(PAGE)).text
    again = await (await shop.visitor()).post("/admin/login", shown.hidden)
    assert again.status == 404
    assert "used before" in again.text


async def test_only_one_of_two_who_press_at_once_gets_in(shop: ConsoleShop) -> None:
    token = await shop.access.invite("alice")
    visitors = [await shop.visitor() for _ in range(4)]
    entered = await asyncio.gather(*(one.post("/admin/login", {"token": token}) for one in visitors))
    assert sorted(one.status for one in entered) == [303, 404, 404, 404]


async def test_an_old_link_lets_nobody_in(shop: ConsoleShop) -> None:
    token = await shop.access.invite("alice")
    shop.clock.ahead = timedelta(minutes=5)
    assert (await (await shop.visitor()).post("/admin/login", {"token": token})).status == 404


async def test_guessing_is_slowed_down_and_logged(
    shop: ConsoleShop, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = await shop.visitor()
    tried = [await visitor.post("/admin/login", {"token": "A" * 43}) for _ in range(12)]
    assert [one.status for one in tried] == [404] * 10 + [429] * 2
    assert int(tried[-1].headers["Retry-After"]) > 0
    assert caplog.text.count("a login at the console was refused") == 10
    assert "A" * 43 not in caplog.text


async def test_the_database_knows_no_token(shop: ConsoleShop, alice: Visitor) -> None:
    token = await shop.access.invite("bob")
    rows = await shop.value(
        "SELECT string_agg(t::text, ' ') FROM (SELECT row(l) FROM console_logins AS l UNION ALL"
        " SELECT row(s) FROM console_sessions AS s) AS rows (t)"
    )
    assert "bob" in rows
    assert "alice" in rows
    for secret in (token, alice.cookie):
        assert secret not in rows
        assert secret.encode().hex() not in rows


async def test_a_session_is_new_at_each_login(shop: ConsoleShop) -> None:
    """A cookie that somebody planted before does not become a session."""
    visitor = await shop.visitor()
    planted = {"Cookie": f"kosmo_console={'A' * 43}"}
    form = {"token": await shop.access.invite("alice")}
    await visitor.ask("POST", "/admin/login", data=form, headers={"Origin": shop.url, **planted})
    assert visitor.cookie != "A" * 43
    first = visitor.cookie
    await visitor.post("/admin/login", {"token": await shop.access.invite("alice")})
    assert visitor.cookie != first
    assert await shop.value("SELECT count(*) FROM console_sessions") == 1
    other = await shop.visitor()
    assert (await other.ask("GET", PAGE, headers=planted)).status == 401


async def test_logging_out_ends_the_session_for_whoever_has_its_cookie(
    shop: ConsoleShop, alice: Visitor
) -> None:
    cookie = {"Cookie": f"kosmo_console={alice.cookie}"}
    other = await shop.visitor()
    assert (await other.ask("GET", PAGE, headers=cookie)).status == 200
    csrf = (await alice.get(PAGE)).csrf
    assert (await alice.post("/admin/logout", {"csrf": csrf})).status == 303
    assert (await other.ask("GET", PAGE, headers=cookie)).status == 401
    assert (await alice.get(PAGE)).status == 401


async def test_a_session_ends_after_half_an_hour_without_a_request(shop: ConsoleShop, alice: Visitor) -> None:
    shop.clock.ahead = timedelta(minutes=29)
    assert (await alice.get(PAGE)).status == 200
    shop.clock.ahead += timedelta(minutes=30)
    assert (await alice.get(PAGE)).status == 401


async def test_pages_are_shown_while_nothing_can_be_written(shop: ConsoleShop, alice: Visitor) -> None:
    """Such as on a standby, or while an operator stops writes on purpose: then one has to see most."""
    shop.clock.ahead = timedelta(minutes=1)
    async with shop.pool.transaction("LOCK TABLE console_sessions IN EXCLUSIVE MODE"):
        assert (await alice.get("/admin/users")).status == 200


async def test_a_session_ends_after_eight_hours_however_busy(shop: ConsoleShop, alice: Visitor) -> None:
    for quarter in range(1, 32):
        shop.clock.ahead = timedelta(minutes=15 * quarter)
        assert (await alice.get(PAGE)).status == 200
    shop.clock.ahead = timedelta(hours=8)
    assert (await alice.get(PAGE)).status == 401
    await shop.access.invite("bob")
    assert await shop.value("SELECT count(*) FROM console_sessions") == 0


async def test_without_a_session_every_method_leads_to_the_login(shop: ConsoleShop) -> None:
    visitor = await shop.visitor()
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in (PAGE, "/admin/users", "/admin/users.csv", "/admin/logout", "/admin/nothing", "/nothing"):
            shown = await visitor.ask(method, path, headers={"Origin": shop.url})
            assert shown.status == 401, (method, path)
            assert method == "HEAD" or "You are not logged in" in shown.text
            assert "Overview" not in shown.text


FOREIGN: dict[str, dict[str, str]] = {
    "another site": {"Origin": "https://evil.example"},
    "another port of this host": {"Origin": "http://127.0.0.1:1"},
    "a sandboxed frame": {"Origin": "null"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site only": {"Sec-Fetch-Site": "same-site"},
    "typed in": {"Sec-Fetch-Site": "none"},
}


async def test_only_forms_of_our_own_pages_do_anything(shop: ConsoleShop, alice: Visitor) -> None:
    form = {"csrf": (await alice.get(PAGE)).csrf}
    for whose, headers in FOREIGN.items():
        assert (await alice.post("/admin/logout", form, **headers)).status == 403, whose
    assert await shop.value("SELECT count(*) FROM console_sessions") == 1
    own = {"Sec-Fetch-Site": "same-origin"}
    assert (await alice.post("/admin/logout", form, **own)).status == 303
    assert await shop.value("SELECT count(*) FROM console_sessions") == 0


async def test_a_form_needs_the_token_of_this_session(shop: ConsoleShop, alice: Visitor) -> None:
    bob = await shop.operator("bob")
    of_bob = (await bob.get(PAGE)).csrf
    own = (await alice.get(PAGE)).csrf
    forms: list[dict[str, str]] = [
        {},
        {"csrf": ""},
        {"csrf": of_bob},
        {"csrf": own[:-1]},
        {"csrf": "\udcff".encode("utf-8", "replace").decode()},
    ]
    for form in forms:
        assert (await alice.post("/admin/logout", form)).status == 403
    no_origin = await alice.ask("POST", "/admin/logout", data={"csrf": own})
    assert no_origin.status == 403
    as_json = await alice.ask("POST", "/admin/logout", json={"csrf": own}, headers={"Origin": shop.url})
    assert as_json.status == 415
    assert (await alice.get(PAGE)).status == 200


HOSTS = {
    "127.0.0.1:8005": 200,
    "localhost": 200,
    "[::1]:9": 200,
    "desk.localhost:8005": 200,
    "evil.example": 403,
    "evil.example:8005": 403,
    "billing": 403,
    "10.0.0.1": 403,
    "127.0.0.1.evil.example": 403,
    "127.0.0.1@evil.example": 403,
    "": 403,
}


async def test_the_console_answers_to_names_of_this_machine_alone(alice: Visitor) -> None:
    assert {host: (await alice.get(PAGE, Host=host)).status for host in HOSTS} == HOSTS


async def test_every_answer_forbids_framing_storing_and_foreign_parts(
    shop: ConsoleShop, alice: Visitor
) -> None:
    stranger = await shop.visitor()
    answers = [
        await alice.get(PAGE),
        await alice.get("/admin/nothing"),
        await stranger.get(PAGE),
        await stranger.get("/admin/login?token=x"),
        await stranger.get(PAGE, Host="evil.example"),
        await stranger.post("/admin/login", {"token": "x"}),
        await alice.get("/admin/static/console.css"),
    ]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        if "text/html" in answer.headers["Content-Type"]:
            assert answer.headers["Cache-Control"] == "no-store"
            assert "<script>" not in answer.text
            assert "style=" not in answer.text


async def test_the_cookie_is_for_this_site_and_no_script(shop: ConsoleShop) -> None:
    async def given(**headers: str) -> str:
        form = {"token": await shop.access.invite("alice")}
        entered = await (await shop.visitor()).post("/admin/login", form, **headers)
        return str(entered.headers["Set-Cookie"])

    plain = await given()
    assert "HttpOnly" in plain
    assert "SameSite=Strict" in plain
    assert "Path=/admin" in plain
    assert "Secure" not in plain  # a browser would not send it back over http
    assert "Secure" in await given(**{"X-Forwarded-Proto": "https"})


async def test_a_login_token_is_shown_escaped(shop: ConsoleShop) -> None:
    shown = await (await shop.visitor()).get("/admin/login?token=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>" not in shown.text


async def test_an_operator_has_a_name(shop: ConsoleShop) -> None:
    for name in ("", "   ", "a\nb", "a" * 65):
        with pytest.raises(Invalid, match="an operator's name is one line"):
            await shop.access.invite(name)


async def test_a_large_or_strange_body_is_refused(shop: ConsoleShop, alice: Visitor) -> None:
    big: dict[str, Any] = {"data": b"a=" + b"b" * 100_000}
    headers = {"Origin": shop.url, "Content-Type": "application/x-www-form-urlencoded"}
    assert (await alice.ask("POST", "/admin/logout", headers=headers, **big)).status == 413
    assert (await alice.get(PAGE)).status == 200
