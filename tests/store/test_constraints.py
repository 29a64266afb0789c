"""What the database itself refuses, whoever writes (R1, R12)."""

from uuid import UUID

import asyncpg
import pytest

from tests.store.conftest import Rows


async def test_invoice_has_at_most_one_subscription(rows: Rows, user: UUID) -> None:
    invoice = await rows.reserve(user)
    await rows.subscribe(user, invoice_id=invoice, source="btcpay", status="expired")
    with pytest.raises(asyncpg.UniqueViolationError, match="subscriptions_one_per_invoice"):
        await rows.subscribe(user, invoice_id=invoice, source="btcpay")


@pytest.mark.parametrize("second", ["active", "grace"])
async def test_user_has_at_most_one_current_subscription(rows: Rows, user: UUID, second: str) -> None:
    await rows.subscribe(user)
    with pytest.raises((asyncpg.UniqueViolationError, asyncpg.CheckViolationError)):
        await rows.subscribe(user, status=second)
    await rows.subscribe(user, status="expired")
    with pytest.raises(asyncpg.UniqueViolationError, match="subscriptions_one_current_per_user"):
        await rows.execute("UPDATE subscriptions SET status = 'active', ended_at = NULL")


async def test_btcpay_invoice_is_attached_once(rows: Rows, user: UUID) -> None:
    first, second = await rows.reserve(user), await rows.reserve(user)
    attach = "UPDATE btcpay_invoices SET btcpay_invoice_id = 'x', status = 'new' WHERE id = $1"
    await rows.execute(attach, first)
    with pytest.raises(asyncpg.UniqueViolationError, match="btcpay_invoices_attached_once"):
        await rows.execute(attach, second)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'paused', ended_at = now()", "subscriptions_status_is_known"),
        ("status = 'expired'", "subscriptions_ended_unless_current"),
        ("ended_at = '2026-03-02Z'", "subscriptions_ended_unless_current"),
        ("status = 'grace'", "subscriptions_grace_is_timed"),
        ("valid_until = valid_from", "subscriptions_period_is_forward"),
        ("status = 'expired', ended_at = valid_from - interval '1 s'", "subscriptions_end_is_forward"),
        ("messages_used = -1", "subscriptions_use_is_counted_up"),
        ("source = 'btcpay'", "subscriptions_paid_or_granted"),
        ("carried_rule = 'doubled'", "subscriptions_rule_is_known"),
    ],
)
async def test_impossible_subscription_is_refused(
    rows: Rows, user: UUID, change: str, constraint: str
) -> None:
    await rows.subscribe(user)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await rows.execute(f"UPDATE subscriptions SET {change}")  # noqa: S608  from the list above
    assert refused.value.as_dict()["constraint_name"] == constraint


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'new'", "btcpay_invoices_attached_unless_reserved"),
        ("status = 'lost'", "btcpay_invoices_status_is_known"),
        ("payment = 'double'", "btcpay_invoices_payment_is_known"),
        ("effect = 'doubled'", "btcpay_invoices_effect_is_known"),
    ],
)
async def test_impossible_invoice_is_refused(rows: Rows, user: UUID, change: str, constraint: str) -> None:
    await rows.reserve(user)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await rows.execute(f"UPDATE btcpay_invoices SET {change}")  # noqa: S608  from the list above
    assert refused.value.as_dict()["constraint_name"] in (
        constraint,
        "btcpay_invoices_attached_unless_reserved",
    )


@pytest.mark.parametrize("node", ["!A1B2C3D4", "a1b2c3d4", "!a1b2c3d", "!a1b2c3d4x", "!a1b2c3d4\n"])
async def test_whitelist_takes_nothing_but_node_ids(rows: Rows, user: UUID, node: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="whitelisted_nodes_id_is_meshtastic"):
        await rows.execute("INSERT INTO whitelisted_nodes VALUES ($1, $2, NULL, now())", user, node)


async def test_case_is_listed_once_per_kind_and_closed_with_a_reason(rows: Rows, user: UUID) -> None:
    invoice = await rows.reserve(user)
    insert = (
        "INSERT INTO attention_cases (invoice_id, user_id, kind, detail, opened_at)"
        " VALUES ($1, $2, 'x', '', now())"
    )
    await rows.execute(insert, invoice, user)
    with pytest.raises(asyncpg.UniqueViolationError, match="attention_cases_one_per_kind"):
        await rows.execute(insert, invoice, user)
    with pytest.raises(asyncpg.CheckViolationError, match="attention_cases_closed_with_reason"):
        await rows.execute("UPDATE attention_cases SET closed_at = now()")


async def test_delivery_is_recorded_once(rows: Rows) -> None:
    insert = (
        "INSERT INTO webhook_deliveries (delivery_id, received_at, type, outcome)"
        " VALUES ('one', now(), 'x', 'not ours')"
    )
    await rows.execute(insert)
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute(insert)


async def test_there_is_one_installation(rows: Rows) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await rows.execute("INSERT INTO installation DEFAULT VALUES")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE subscriptions SET valid_until = 'infinity'",
        "UPDATE subscriptions SET valid_from = '4000-01-01 BC'",
        "UPDATE btcpay_invoices SET next_check_at = '20000-01-01'",
        "UPDATE entitlements SET changed_at = '-infinity'",
        "UPDATE events SET occurred_at = 'infinity'",
        "UPDATE events SET type = 'subscription.#'",
        "INSERT INTO lookups (due_at, invoice_id) VALUES ('infinity', gen_random_uuid())",
    ],
)
async def test_no_row_can_be_written_that_every_reader_would_fail_on(
    rows: Rows, user: UUID, change: str
) -> None:
    await rows.subscribe(user)
    await rows.reserve(user)
    await rows.execute(
        "INSERT INTO events (type, user_id, data, occurred_at) VALUES ('x', gen_random_uuid(), '{}', now())"
    )
    with pytest.raises(asyncpg.CheckViolationError, match=r"_is_a_(time|name)"):
        await rows.execute(change)


async def test_event_has_a_type_that_is_a_level_of_a_topic(rows: Rows, user: UUID) -> None:
    """With a wildcard in it, the broker would end the connection over which everything is published."""
    append = "INSERT INTO events (type, user_id, data, occurred_at) VALUES ($1, $2, '{}', now())"
    for name in ("a", "plan.changed_2-b", "x" * 100):
        await rows.execute(append, name, user)
    for name in ("", "x" * 101, "a/b", "a+", "#", "Plan", "ä", "a b", "a\n"):
        with pytest.raises(asyncpg.CheckViolationError, match="events_type_is_a_name"):
            await rows.execute(append, name, user)
