"""The overview, the list of users and the search: what they show, and that no text is taken for markup."""

import csv
import io
import re
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from kosmo_billing_daemon.admin.actions import OperatorAction
from kosmo_billing_daemon.console.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, stacked
from kosmo_billing_daemon.domain.subscriptions import UserId
from tests.console.conftest import HOSTILE, ConsoleShop, Visitor, text
from tests.support.shop import fill

BY = OperatorAction("alice", "ticket")


async def granted(shop: ConsoleShop, plan: str, number: int = 1) -> list[UUID]:
    users = [uuid4() for _ in range(number)]
    for user in users:
        await shop.operations.grant(UserId(user), plan, BY)
    return users


async def test_an_empty_shop_says_so(alice: Visitor) -> None:
    shown = text((await alice.get("/admin/")).text)
    for told in (
        "Nothing was paid in the last 30 days.",
        "No user has a plan now.",
        "Nothing needs a decision.",
        "No gateway reported in the last hour, and none holds a lease.",
    ):
        assert told in shown
    assert "There are no users yet." in (await alice.get("/admin/users")).text


async def test_the_overview_sums_up_the_shop(shop: ConsoleShop, alice: Visitor) -> None:
    async with shop.pool.connection() as connection:
        await fill(connection, invoices=300, users=100)
    await granted(shop, "sanctuary", 2)
    await shop.execute(
        "UPDATE subscriptions SET valid_until = now() + interval '6 days' WHERE user_id IN ("
        "SELECT s.user_id FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id"
        " WHERE status = 'active' AND plan_type = 'guardian' ORDER BY user_id LIMIT 7)"
    )
    await shop.execute(
        "UPDATE usage_events SET sent_at = now() - interval '5 min', received_at = now() - interval '4 min'"
    )
    shown = text((await alice.get("/admin/")).text)
    guardians = await shop.value(
        "SELECT count(*) FROM subscriptions AS s JOIN quotes AS q ON q.id = quote_id"
        " WHERE status = 'active' AND plan_type = 'guardian'"
    )
    paid = await shop.value("SELECT sum(amount) FROM ledger WHERE kind = 'received'")
    today = await shop.value(
        "SELECT sum(amount) FROM ledger WHERE kind = 'received' AND at >= date_trunc('day', now(), 'UTC')"
    )
    assert f"Money in, 30 days {paid:,}.00 USD {today:,}.00 USD today" in shown
    assert f"Active subscriptions {guardians + 2} of 2 plans" in shown
    assert "Ending within 7 days 7 " in shown
    assert f"guardian {guardians} 7 " in shown
    assert "sanctuary 2 " in shown
    assert re.search(r"gateway 300 0 100 [0-9: -]+ \d+ ", shown)
    assert "Credit below zero" in shown


async def test_what_strangers_write_is_text_on_the_first_page(shop: ConsoleShop, alice: Visitor) -> None:
    user = (await granted(shop, "guardian"))[0]
    await shop.execute(
        "INSERT INTO attention_cases (user_id, kind, detail, amount, currency, opened_at)"
        " VALUES ($1, 'negative_balance', $2, 1, 'USD', now())",
        user,
        HOSTILE,
    )
    await shop.execute(
        "INSERT INTO attention_cases (kind, detail, amount, currency, btcpay_invoice_id, opened_at)"
        " VALUES ('unknown_order', 'lost', 1, 'USD', $1, now())",
        HOSTILE,
    )
    await shop.execute(
        "INSERT INTO reporter_cases (reporter, detail, opened_at, last_at) VALUES ($1, $1, now(), now())",
        HOSTILE,
    )
    for path in ("/admin/", f"/admin/search?q={HOSTILE.replace('&', '%26')}", "/admin/users?plan=%3Cb%3E"):
        page = (await alice.get(path)).text
        assert "<img" not in page
        assert "<b>" not in page
    assert (await alice.get("/admin/")).text.count("&lt;img src=x onerror=alert(1)&gt;") == 3


async def test_users_are_listed_page_after_page_and_each_once(shop: ConsoleShop, alice: Visitor) -> None:
    users = {str(user) for user in await granted(shop, "wanderer", 60)}
    seen: list[str] = []
    path = "/admin/users?state=active"
    while path:
        page = (await alice.get(path)).text
        seen += re.findall(r'<tr data-row>\s*<td><a class="id" href="/admin/users/([0-9a-f-]{36})">', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = "" if following is None else following[1].replace("&amp;", "&")
    assert len(seen) == 60
    assert set(seen) == users


async def test_each_filter_says_what_is_wrong_with_it(shop: ConsoleShop, alice: Visitor) -> None:
    await granted(shop, "wanderer")
    for query, told in (
        ("ending=soon", "A number of days from 0 to 4000 is needed."),
        ("ending=99999", "A number of days from 0 to 4000 is needed."),
        ("plan=gold", "No plan &#39;gold&#39; was ever sold or granted; there were: wanderer."),
        ("state=gone", "Users have a plan or have lapsed."),
        ("after=%00", "The cursor is none of ours: start with the first page."),
    ):
        shown = await alice.get(f"/admin/users?{query}")
        assert shown.status == 422
        assert told in shown.text
        if "after" not in query:
            assert (await alice.get(f"/admin/users.csv?{query}")).status in (404, 422)
    empty = await alice.get("/admin/users?exhausted=yes")
    assert "No user is like this." in empty.text


async def test_the_list_is_downloaded_whole_and_without_formulas(shop: ConsoleShop, alice: Visitor) -> None:
    users = await granted(shop, "wanderer", 3)
    await shop.execute(
        "INSERT INTO quotes (plan_type, amount, currency, period, quota, scope, features)"
        " VALUES ('=1+1', 1, 'USD', '30 days', 1, 'any_node', '{}')"
    )
    await shop.execute("UPDATE subscriptions SET quote_id = (SELECT id FROM quotes WHERE plan_type = '=1+1')")
    shown = await alice.get("/admin/users.csv?state=active")
    assert shown.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(
        r'attachment; filename="users-\d{4}-\d\d-\d\d\.csv"', shown.headers["Content-Disposition"]
    )
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    rows = list(csv.DictReader(io.StringIO(shown.text)))
    assert {row["user_id"] for row in rows} == set(map(str, users))
    assert {row["plan"] for row in rows} == {"'=1+1"}


async def test_one_hit_leads_to_the_user_by_any_name(shop: ConsoleShop, alice: Visitor) -> None:
    async with shop.pool.connection() as connection:
        await fill(connection, invoices=20, users=5)
    row = "SELECT %s::text FROM btcpay_invoices ORDER BY id LIMIT 1"
    user, order, invoice = [await shop.value(row % name) for name in ("user_id", "id", "btcpay_invoice_id")]
    for name in (user, user.upper(), order, invoice, f"%20{invoice}%20", f"https://pay.example/i/{invoice}"):
        found = await alice.get(f"/admin/search?q={name}")
        assert (found.status, found.headers.get("Location")) == (303, f"/admin/users/{user}")
    node = await shop.value("SELECT node_id FROM whitelisted_nodes LIMIT 1")
    one = await alice.get(f"/admin/search?q={node}")
    assert one.status == 303
    await shop.execute(
        "INSERT INTO whitelisted_nodes (user_id, node_id, label, added_at)"
        " SELECT user_id, $1, $2, now() FROM entitlements ON CONFLICT DO NOTHING",
        node,
        HOSTILE,
    )
    several = await alice.get(f"/admin/search?q={node.lstrip('!')}")
    assert "5 users" in several.text
    assert "<img" not in several.text


async def test_a_name_of_nobody_finds_nothing(alice: Visitor) -> None:
    for name in ("nobody", str(uuid4()), "%25", "!zzzzzzzz", "x" * 1000, "%F0%9F%92%A9", "a%00b"):
        shown = await alice.get(f"/admin/search?q={name}")
        assert shown.status == 200
        assert "Nothing is known under this name." in shown.text


DAY = date(2026, 3, 1)
AMOUNTS = st.dictionaries(
    st.tuples(
        st.integers(0, 29).map(lambda number: DAY + timedelta(days=number)), st.sampled_from("abcdefg")
    ),
    st.decimals(min_value=-1000, max_value=10**12, places=8),
)


@given(AMOUNTS)
def test_every_bar_is_within_its_chart_and_as_high_as_its_share(
    amounts: dict[tuple[date, str], Decimal],
) -> None:
    chart = stacked(DAY, 30, amounts, "USD")
    assert 1 <= len(chart.lines) <= 6
    tops = [bar.y for bar in chart.bars]
    assert all(TOP - 0.1 <= y <= HEIGHT - BOTTOM for y in tops)
    assert all(bar.x >= LEFT and bar.x + bar.width <= WIDTH for bar in chart.bars)
    assert len(chart.bars) == sum(amount > 0 for amount in amounts.values())
    if chart.bars:  # the highest day comes close to the highest line
        assert min(tops) <= HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * 0.6
    assert chart.highest == max(
        (
            sum(
                (
                    max(amounts.get((DAY + timedelta(days=n), name), Decimal(0)), Decimal(0))
                    for name in "abcdefg"
                ),
                Decimal(0),
            )
            for n in range(30)
        ),
        default=Decimal(0),
    )
