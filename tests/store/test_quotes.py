"""A quote is one row for one content, and its id is the same whoever computes it."""

from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest

from kosmo_billing_daemon.contract.payloads import Scope
from kosmo_billing_daemon.domain.plans import BUILT_IN, Plan, PlanType, Price
from kosmo_billing_daemon.store import quotes
from kosmo_billing_daemon.store.combining import combine
from tests.domain.builders import EXTRA
from tests.store.conftest import Rows

ODD = [
    Plan(
        plan_type=PlanType(name),
        price=Price(amount, "EUR"),
        period=period,
        quota=quota,
        scope=Scope.WHITELIST,
        features=features,
    )
    for name, amount, period, quota, features in (
        ("plan", Decimal("1E+3"), timedelta(days=366), None, ()),
        ("plan", Decimal(1000), timedelta(days=366), 0, ()),
        ("plan", Decimal("1000.00"), timedelta(days=1, microseconds=1), 10**9, ("api",)),
        ('nä"me\\\n', Decimal("0.00000001"), timedelta(seconds=1), 1, ("webhooks", "api")),
    )
]


async def test_database_and_process_give_a_quote_the_same_id(rows: Rows) -> None:
    plans = {each.quote_id: each for each in (*BUILT_IN.plans, *ODD, EXTRA)}
    for _ in range(2):
        await combine(rows.connection, [quotes.save_statement(plans.values())])
    kept = await rows.connection.fetch("SELECT id, plan_type, amount FROM quotes")
    assert {row["id"]: (row["plan_type"], row["amount"]) for row in kept} == {
        key: (each.plan_type, each.price.amount) for key, each in plans.items()
    }
    assert len(kept) == len(BUILT_IN.plans) + len(ODD) + 1, "each content is one row"
    assert list(await quotes.learn(rows.connection, [(None, key) for key in plans], [1])) != []
    assert [quotes.plan(key) for key in plans] == list(plans.values())


@pytest.mark.parametrize("change", ["amount = 6", "scope = 'whitelist'", "id = gen_random_uuid()"])
async def test_what_was_quoted_cannot_be_changed_under_its_id(rows: Rows, change: str) -> None:
    await rows.subscribe(BUILT_IN.plans[0].quote_id)
    with pytest.raises(asyncpg.PostgresError):
        await rows.execute(f"UPDATE quotes SET {change}")  # noqa: S608  from the list above
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await rows.execute("DELETE FROM quotes")


@pytest.mark.parametrize(
    ("content", "constraint"),
    [
        ("'x', 0, 'USD', '1 day', 1, 'any_node', '{}'", "quotes_amount_is_positive"),
        ("'x', 1, 'USD', '1 day', 1, 'galaxy', '{}'", "quotes_scope_is_known"),
    ],
)
async def test_impossible_quote_is_refused(rows: Rows, content: str, constraint: str) -> None:
    columns = "plan_type, amount, currency, period, quota, scope, features"
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await rows.execute(f"INSERT INTO quotes ({columns}) VALUES ({content})")  # noqa: S608  from the list
    assert refused.value.as_dict()["constraint_name"] == constraint
