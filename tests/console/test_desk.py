"""The ledger, refunds, hooks and gates in the console: lists, filters, and each action once."""

import csv
import io
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from tests.console.cases import alice, console, paid_partly, paid_too_much, somebody
from tests.console.conftest import HOSTILE, ConsoleShop, Visitor, text
from tests.services.conftest import Shop, clock, simulator
from tests.services.conftest import shop as business
from tests.support.endpoint import Endpoint, answer
from tests.support.endpoint import endpoint as receiving

__all__ = ["alice", "business", "clock", "console", "simulator"]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with receiving() as opened:
        yield opened


async def audit(console: ConsoleShop) -> list[str]:
    return list(
        await console.value(
            "SELECT array_agg(who || ' ' || action || ': ' || reason ORDER BY id) FROM audit_log"
        )
    )


async def test_the_ledger_is_filtered_summed_up_and_exported(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await business.buy(somebody(1))
    await paid_partly(business, somebody(2))
    await console.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " VALUES ($1, $2, 'granted', 1.5, 'EUR', 'eva', $3)",
        business.clock(),
        somebody(1),
        f"=1+1 {HOSTILE}",
    )
    shown = await alice.get("/admin/ledger")
    told = text(shown.text)
    assert "received 7.50 USD granted 0.00 USD = sold 5.00 USD refunded 0.00 USD" in told
    assert "written off 0.00 USD credit 2.50 USD" in told
    assert "granted 1.50 EUR = " in told
    assert "<img" not in shown.text

    async def rows(query: str) -> int:
        return (await alice.get(f"/admin/ledger?{query}")).text.count("<tr data-row>")

    assert await rows("") == 4
    assert await rows(f"user={somebody(2)}") == 1
    assert await rows("kind=sold") == 1
    assert await rows("currency=eur") == 1
    assert await rows("from=2020-01-01&to=2020-12-31") == 0
    for wrong in ("kind=x", "from=x", "user=x", "from=2026-03-02&to=2026-03-01", "before=x"):
        assert (await alice.get(f"/admin/ledger?{wrong}")).status == 422, wrong
    sent = await alice.get(f"/admin/ledger.csv?user={somebody(1)}")
    assert sent.headers["Content-Type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(sent.text)))
    assert [line["kind"] for line in lines] == ["received", "sold", "granted"]
    assert lines[2]["reason"].startswith("'=1+1")


async def test_the_ledger_goes_on_page_after_page_and_is_exported_in_batches(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await console.execute(
        "INSERT INTO ledger (at, user_id, kind, amount, currency, who, reason)"
        " SELECT $1::timestamptz - interval '1 s' * (n / 7), $2, 'granted', n, 'USD', 'eva', 'x'"
        " FROM generate_series(1, 5120) AS n",
        business.clock(),
        somebody(1),
    )
    sent = list(csv.DictReader(io.StringIO((await alice.get("/admin/ledger.csv")).text)))
    numbers = [int(line["entry"]) for line in sent]
    assert numbers == await console.value("SELECT array_agg(id ORDER BY at, id) FROM ledger")
    seen, path = [], "/admin/ledger?kind=granted"
    for _ in range(3):
        shown = (await alice.get(path)).text
        seen += [int(amount) for amount in re.findall(r"\+([0-9,]+)\.00 USD", shown.replace(",", ""))]
        onward = re.search(r'rel="next" href="([^"]+)"', shown)
        assert onward is not None
        path = onward[1].replace("&amp;", "&")
    assert seen == await console.value(
        "SELECT array_agg(amount::int ORDER BY at DESC, id DESC) FROM"
        " (SELECT * FROM ledger ORDER BY at DESC, id DESC LIMIT 150) AS l"
    )


async def test_the_ledger_is_compared_with_btcpay(business: Shop, alice: Visitor) -> None:
    invoice = await business.buy(somebody(1))
    period = f"from={business.clock():%Y-%m-%d}&to={business.clock():%Y-%m-%d}"
    agreed = await alice.get(f"/admin/ledger/check?{period}")
    assert "The ledger and BTCPay agree." in agreed.text
    business.simulator.set_faults(webhooks={"drop": 1.0})
    await business.simulator.act(business.btcpay_id(invoice), "pay", "3.00", "BTC-LN")
    differing = text((await alice.get(f"/admin/ledger/check?{period}")).text)
    assert "1 difference found." in differing
    assert "BTCPay received 8.00, the ledger has 5" in differing
    long = await alice.get("/admin/ledger/check?from=2020-01-01&to=2026-03-01")
    assert "at most 93 days" in long.text.lower()


async def test_refunds_are_made_listed_cancelled_and_recorded(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    invoice = await paid_too_much(business, somebody(1))
    name = business.btcpay_id(invoice)
    too_much = await alice.send("/admin/refunds/make", {"invoice": name, "amount": "3", "reason": "r"})
    assert (too_much.status, "at most 2.00 USD" in too_much.text.lower().replace("usd", "USD")) == (409, True)
    made = await alice.carry_out("/admin/refunds/make", {"invoice": name, "amount": "1.50", "reason": "one"})
    assert "1.50 USD can be claimed at http" in made.text
    listed = await alice.get("/admin/refunds?ask=yes")
    assert "open, not claimed" in listed.text
    number = await console.value("SELECT id FROM refunds")
    cancelled = await alice.carry_out(f"/admin/refunds/{number}/cancel", {"reason": "two"})
    assert "The refund of 1.50 USD is cancelled." in cancelled.text
    assert "cancelled" in (await alice.get("/admin/refunds")).text
    assert await console.value("SELECT sum(amount) FROM ledger") == 2
    in_pages = await console.settlement.btcpay.ask(
        "refund",
        f"invoices/{name}/refund",
        method="POST",
        body={"refundVariant": "Custom", "customAmount": "0.50", "customCurrency": "USD"},
    )
    recorded = await alice.carry_out(
        "/admin/refunds/record", {"invoice": name, "pull_payment": in_pages["id"], "reason": "three"}
    )
    assert "0.50 USD are booked as refunded" in recorded.text
    assert await console.value("SELECT sum(amount) FROM ledger") == Decimal("1.50")
    assert await audit(console) == [
        "alice invoice.refund: one",
        "alice invoice.refund_cancel: two",
        "alice invoice.refund: three",
    ]


async def test_a_hook_is_added_tried_repeated_and_removed(
    business: Shop, console: ConsoleShop, alice: Visitor, endpoint: Endpoint
) -> None:
    asked = {"url": f"{endpoint.url}?token=s3cret", "events": "subscription.*", "private": "yes"}
    typed = {**asked, "texts": '[texts]\r\n"subscription.expired" = "Over"', "reason": "ticket 1"}
    preview = await alice.send("/admin/hooks/add", typed)
    assert "subscription.activated, " in preview.text
    added = await alice.post("/admin/hooks/add", preview.hidden)
    secret = await console.value("SELECT secret FROM hooks")
    assert (added.status, secret in added.text) == (200, True)
    again = await alice.post("/admin/hooks/add", preview.hidden)
    assert again.status == 303, "a reload adds nothing"
    pages = ["/admin/hooks", "/admin/hooks/1", "/admin/hooks/1/replay", "/admin/hooks/1/remove"]
    for page in pages:
        shown = await alice.get(page)
        assert shown.status == 200
        assert secret not in shown.text
        assert "s3cret" not in shown.text
    tested = await alice.send("/admin/hooks/1/test", {})
    assert "The test was accepted: 200" in tested.text
    endpoint.reply = lambda _: answer(500, HOSTILE)
    refused = await alice.send("/admin/hooks/1/test", {})
    assert "The test was not accepted: 500" in refused.text
    assert "<img" not in refused.text
    now = business.clock()
    await console.execute("UPDATE hooks SET off_since = $1, off_because = $2", now, HOSTILE)
    await console.execute(
        "INSERT INTO hook_answers (hook_id, event_id, at, accepted, answer) VALUES (1, 1, $1, false, $2)",
        now,
        HOSTILE,
    )
    await business.buy(somebody(1))
    for page in ("/admin/hooks", "/admin/hooks/1", "/admin/attention"):
        assert "&lt;img" in (await alice.get(page)).text, page
    since = f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    replayed = await alice.carry_out("/admin/hooks/1/replay", {"since": since, "reason": "ticket 2"})
    assert "Hook 1 is on; 1 event queued." in replayed.text
    removed = await alice.carry_out("/admin/hooks/1/remove", {"reason": "ticket 3"})
    assert "No hook yet." in removed.text
    assert await audit(console) == [
        "alice hook.add: ticket 1",
        "alice hook.replay: ticket 2",
        "alice hook.remove: ticket 3",
    ]
    assert (await alice.get("/admin/hooks/1")).status == 404


async def test_a_gateway_that_nobody_believes_is_voided_freed_and_its_case_closed(
    business: Shop, console: ConsoleShop, alice: Visitor
) -> None:
    await business.buy(somebody(1))
    now = business.clock()
    subscription = await console.value("SELECT id FROM subscriptions")
    await console.execute("UPDATE subscriptions SET messages_used = 7")
    await console.execute(
        "INSERT INTO usage_events (user_id, message_id, subscription_id, node_id, reporter, count,"
        " over_limit, sent_at, received_at) SELECT $1, 'm' || n, $2, '!0a1b2c3d', $3, 1, false, $4, $4"
        " FROM generate_series(1, 7) AS n",
        somebody(1),
        subscription,
        HOSTILE,
        now,
    )
    await console.execute(
        "INSERT INTO leases (id, reporter, request_id, user_id, subscription_id, messages, used, granted_at,"
        " expires_at) VALUES ($1, $2, 'r', $3, $4, 20, 3, $5, $5::timestamptz + interval '1 day')",
        uuid4(),
        HOSTILE,
        somebody(1),
        subscription,
        now,
    )
    await console.execute(
        "INSERT INTO reporter_cases (reporter, detail, opened_at, last_at) VALUES ($1, $1, $2, $2)",
        HOSTILE,
        now,
    )
    listed = await alice.get("/admin/gates")
    assert "<img" not in listed.text
    found = re.search(r'href="(/admin/gates/gateway\?[^"]+)"', listed.text)
    assert found is not None
    page = found[1]
    shown = await alice.get(page)
    assert "<img" not in shown.text
    assert "17 messages of 1 user " in f"{text(shown.text)} "
    query = page.partition("?")[2]
    freed = await alice.carry_out(f"/admin/gates/free?{query}", {"reason": "gone"})
    assert "17 messages of 1 user taken back." in freed.text
    since = f"{now:%Y-%m-%dT%H:%M}"
    preview = await alice.send(f"/admin/gates/void?{query}", {"since": since, "reason": "stolen"})
    assert "<dd>7</dd>" in preview.text
    voided = await alice.post(f"/admin/gates/void?{query}", preview.hidden)
    assert voided.status == 303
    assert await console.value("SELECT messages_used FROM subscriptions") == 0
    again = await alice.send(f"/admin/gates/void?{query}", {"since": since, "reason": "stolen"})
    assert (again.status, "counted nothing" in again.text) == (409, True)
    closed = await alice.carry_out("/admin/gates/cases/1/close", {"reason": "may"})
    assert "is closed." in closed.text
    assert await audit(console) == [
        "alice leases.free: gone",
        "alice usage.void: stolen",
        "alice usage.close: may",
    ]
    assert (await alice.get("/admin/gates/gateway")).status == 422


async def test_no_input_ends_in_a_bug(alice: Visitor) -> None:
    odd = (
        "%00",
        "%ff",
        "%ed%a0%80",
        "%F0%9F%9A%80",
        "9" * 400,
        "%27",
        "1e400",
        "2026-W10-1",
        "9999-12-31",
        "0001-01-01",
    )
    pages = (
        "/admin/ledger?user=",
        "/admin/ledger?currency=",
        "/admin/ledger?from=",
        "/admin/ledger?to=",
        "/admin/ledger?before=2026-03-01T00:00Z~",
        "/admin/ledger?before=0001-01-01T00:00%2B23:59~0",
        "/admin/ledger/check?from=",
        "/admin/attention?from=",
        "/admin/attention/closed?from=9999-12-31T00:00-23:59~",
        "/admin/refunds?before=",
        "/admin/gates/gateway?name=",
        "/admin/feed?user=",
    )
    for page in pages:
        for value in odd:
            assert (await alice.get(f"{page}{value}")).status in (200, 404, 422), (page, value)
    forms: dict[str, dict[str, str]] = {
        "/admin/refunds/make": {"invoice": "\0", "amount": "1"},
        "/admin/refunds/make?case=1": {"invoice": "x", "amount": "1e400"},
        "/admin/refunds/record": {"invoice": "\0", "pull_payment": "\0"},
        "/admin/hooks/add": {"url": "http://\0", "events": "\0", "texts": "\0"},
        "/admin/gates/void?name=x": {"since": "9999-12-31T23:59-23:59"},
        "/admin/gates/free?name=%00": {},
    }
    for path, typed in forms.items():
        csrf = (await alice.get("/admin/refunds/make")).csrf
        shown = await alice.post(path, {**typed, "reason": "r", "csrf": csrf})
        assert shown.status in (400, 404, 409, 422), (path, shown.text)
