"""Rows that leave something open: several of one user, no end, unknown words."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.errors import Conflict, Misconfigured, NotFound
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.adopt.conftest import INVOICES, SUBSCRIPTIONS, Old

DAY = timedelta(days=1)


async def _row(
    old: Old, user: UUID | None, plan: str, start: float, end: float | None, **more: Any
) -> datetime:
    """Write a subscription that begins and ends so many days from now; returns its end."""
    now = utc_now()
    until = now if end is None else now + end * DAY
    await old.execute(
        "INSERT INTO subscriptions (user_id, plan_type, status, valid_from, valid_until, messages_used,"
        " message_limit) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        user,
        plan,
        more.get("status", "active"),
        now + start * DAY,
        None if end is None else until,
        more.get("used", 10),
        more.get("limit", 50),
    )
    return until


async def _bill(
    old: Old, user: UUID, btcpay_id: str, status: str = "Settled", days: float = -1, **more: Any
) -> None:
    await old.execute(
        "INSERT INTO btcpay_invoices VALUES ($1, $2, $3, $4, 'USD', $5, NULL, $6)",
        btcpay_id,
        user,
        more.get("plan", "guardian"),
        more.get("amount", Decimal("12.00")),
        status,
        utc_now() + days * DAY,
    )


async def test_of_several_active_rows_the_last_to_end_is_kept_and_nothing_paid_for_is_lost(old: Old) -> None:
    alike, mixed, queued = uuid4(), uuid4(), uuid4()
    await old.execute(SUBSCRIPTIONS + ";" + INVOICES)
    last = await _row(old, alike, "wanderer", -5, 20, used=10)
    await _row(old, alike, "WANDERER", -9, 10, used=20)
    await _row(old, mixed, "guardian", -10, 20, used=0, limit=500)
    await _bill(old, mixed, "G1", days=-10)
    kept = await _row(old, mixed, "wanderer", -1, 29, used=5)
    await _row(old, queued, "wanderer", -20, 10, used=50)
    later = await _row(old, queued, "wanderer", 10, 40, used=0)
    planned = await old.plan()
    assert len(planned.survey.notes) == 3
    assert any("become credit" in note for note in planned.survey.notes)
    await old.run()
    rows = {
        row["user_id"]: row for row in await old.fetch("SELECT * FROM subscriptions WHERE status = 'active'")
    }
    assert (rows[alike]["valid_until"], rows[alike]["messages_used"], rows[alike]["messages_limit"]) == (
        last, 10, 80
    )  # fmt: skip
    assert rows[mixed]["valid_until"] == kept
    credit = await old.value("SELECT sum(amount) FROM ledger WHERE user_id = $1", mixed)
    assert Decimal("7.99") < credit <= Decimal(8), "two thirds of the time were left"
    assert rows[queued]["valid_from"] < utc_now()
    assert (rows[queued]["valid_until"], rows[queued]["messages_limit"]) == (later, 50)
    shown = await old.fetch("SELECT status FROM kosmo_compat.subscriptions WHERE user_id = $1", mixed)
    assert sorted(row["status"] for row in shown) == ["active", "expired"]
    assert await old.value("SELECT count(*) FROM kosmo_compat.subscriptions WHERE user_id = $1", alike) == 1


async def test_what_was_paid_is_booked_and_belongs_to_its_row(old: Old) -> None:
    paid, lapsed, unpaid = uuid4(), uuid4(), uuid4()
    await old.execute(SUBSCRIPTIONS + ";" + INVOICES)
    await _row(old, paid, "guardian", -2, 28, limit=500)
    await _bill(old, paid, "P1", days=-2.01)
    await _bill(old, paid, "P0", days=-200)
    await _row(old, lapsed, "guardian", -90, -60, limit=500)
    await _bill(old, lapsed, "L1", "expired", days=-90)
    await _row(old, unpaid, "guardian", -2, 28, limit=500, status="cancelled")
    await old.run()
    found = {row["user_id"]: row for row in await old.fetch("SELECT * FROM subscriptions")}
    bills = {row["btcpay_invoice_id"]: row for row in await old.fetch("SELECT * FROM btcpay_invoices")}
    assert found[paid]["invoice_id"] == bills["P1"]["id"]
    assert [bills[name]["effect"] for name in ("P1", "P0", "L1")] == ["fulfilled", "withdrawn", "none"]
    booked = await old.fetch("SELECT kind, sum(amount) AS sum FROM ledger GROUP BY kind ORDER BY kind")
    assert [tuple(row) for row in booked] == [("received", 24), ("sold", -24)]
    assert found[lapsed]["status"] == "expired"
    assert found[unpaid]["status"] == "revoked", "switched off before its end"
    assert await old.fetch("SELECT * FROM lookups") == [], "nobody can pay these any more"


async def test_rows_that_matter_and_cannot_be_read_stop_the_move_until_the_map_helps(old: Old) -> None:
    endless, odd, user = uuid4(), uuid4(), uuid4()
    await old.execute(SUBSCRIPTIONS + ";" + INVOICES)
    await _row(old, endless, "guardian", -2, None)
    await _row(old, odd, "Premium", -2, 28)
    await _row(old, None, "guardian", -2, 28)
    await _row(old, user, "guardian", -2, 28, status="paused")
    await _row(old, user, "guardian", -2, 28, used=-1)
    await _row(old, user, "ancient", -200, -100)
    await _row(old, user, "guardian", 3, 2)
    await _bill(old, user, "twice", "pending")
    await _bill(old, user, "twice", "pending")
    await _bill(old, user, "free", "pending", amount=Decimal(0))
    await _bill(old, user, "strange/../id", "pending")
    await _bill(old, user, "unknown", "frozen")
    before = await old.look()
    planned = await old.plan()
    reasons = sorted(row.reason for row in planned.survey.unreadable)
    assert len(reasons) == planned.survey.counts["unreadable"] == 11
    assert planned.survey.counts["unreadable that matter"] == 10
    for said in ("no end", "plan 'Premium'", "no user", "'paused'", "-1 messages", "ends before it begins",
                 "in two rows", "amount is 0", "no id of BTCPay", "'frozen'", "plan 'ancient'"):  # fmt: skip
        assert any(said in reason for reason in reasons), said
    assert any("'Premium'" in unknown for unknown in planned.unknown)
    with pytest.raises(Conflict, match="10 rows that matter"):
        await old.run()
    assert await old.look() == before

    help_ = """
    [subscriptions]
    without_end = 2031-01-01T00:00:00Z
    ended = ["paused", "expired"]
    [invoices.statuses]
    frozen = "invalid"
    [plans]
    premium = "sanctuary"
    """
    planned = await old.plan(help_)
    assert planned.survey.counts["unreadable that matter"] == 6
    done = await old.run(help_, leave_unreadable=True)
    assert done.counts["active"] == 2
    end = "SELECT valid_until FROM subscriptions WHERE user_id = $1"
    assert await old.value(end, endless) == datetime(2031, 1, 1, tzinfo=UTC)
    plan = "SELECT plan_type FROM kosmo_compat.subscriptions WHERE user_id = $1"
    assert await old.value(plan, odd) == "Premium"
    assert await old.value("SELECT count(*) FROM kosmo_compat.subscriptions") == 7, (
        "all are shown all the same"
    )


async def test_wrong_maps_are_refused_and_say_what_would_be_right(old: Old) -> None:
    await old.execute(SUBSCRIPTIONS + ";" + INVOICES)
    wrong = """
    timezone = "Mars/Olympus"
    nodes = 1
    [subscriptions]
    user_id = "usr"
    plan = "valid_from"
    colour = "red"
    without_end = "never"
    valid_until = ""
    [invoices]
    amount_in = "sats"
    statuses = {a = "b"}
    [plans]
    Premium = "platinum"
    """
    with pytest.raises(Misconfigured, match="nodes: unknown"):
        await old.plan(wrong)
    with pytest.raises(Misconfigured) as refused:
        await old.plan(wrong.replace("nodes = 1", ""))
    said = "\n".join(refused.value.problems)
    for part in (
        "timezone: the name of a time zone",
        "subscriptions.user_id: public.subscriptions has no column 'usr'; it has id, user_id, plan_type",
        "subscriptions.plan: column valid_from is of type timestamp with time zone",
        "subscriptions.colour: unknown; known are table, id, user_id",
        "subscriptions.without_end: a time with its zone",
        "subscriptions.valid_until: name the column that says it",
        'invoices.amount_in: "units" or "cents"',
        "invoices.statuses: lines such as",
    ):
        assert part in said, part
    with pytest.raises(Misconfigured, match="there is no plan 'platinum'; for sale are wanderer"):
        await old.plan('[plans]\nPremium = "platinum"')
    with pytest.raises(NotFound, match="no table nodes"):
        await old.plan('[whitelist]\ntable = "nodes"')
