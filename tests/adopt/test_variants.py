"""Whatever v0.1's tables look like: every end and every message is kept, published, and counted on."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from tests.adopt.conftest import Old
from tests.adopt.variants import VARIANTS, Customer, Variant, customers
from tests.support.intake import intake
from tests.support.mosquitto import Mosquitto
from tests.support.observer import observing
from tests.support.world import until

USERS = 100
MANY = 1000


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_every_customer_keeps_end_and_messages(variant: Variant, old: Old) -> None:
    await _move(variant, old, USERS)


@pytest.mark.soak
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_a_thousand_customers_keep_end_and_messages(variant: Variant, old: Old) -> None:
    await _move(variant, old, MANY)


async def _move(variant: Variant, old: Old, count: int) -> None:
    made = customers(count, utc_now())
    await variant.write(old.connection, made)
    before = await old.look()

    planned = await old.moving().plan(variant.map)
    assert (planned.survey.unreadable, planned.unknown, planned.lacking) == ([], [], [])
    assert await old.look() == before, "planning wrote something"

    done = await old.run(variant.map)
    now = utc_now()
    current = {variant.uuid(one): one for one in made if one.is_current(now)}
    assert done.counts["active"] == len(current)
    rows = await old.fetch("SELECT * FROM subscriptions WHERE status = 'active'")
    assert {row["user_id"]: _left(row) for row in rows} == {
        user: (one.end, one.used, one.limit) for user, one in current.items()
    }
    assert {row["source"] for row in rows} == {"adopted"}
    await _shown_as_before(old, [name for _, name in done.moved])
    await _published(variant, old, made, current)
    user, one = next(iter(current.items()))
    await old.execute("SET search_path = kosmo_compat, public")
    assert await old.execute(variant.increment, variant.user(one)) == "UPDATE 1"
    used = "SELECT messages_used FROM public.subscriptions WHERE user_id = $1 AND status = 'active'"
    assert await old.value(used, user) == one.used + 1
    assert await old.value("SELECT sum(count) FROM public.usage_events WHERE user_id = $1", user) == 1


def _left(row: Any) -> tuple[Any, Any, Any]:
    return row["valid_until"], row["messages_used"], row["messages_limit"]


async def _shown_as_before(old: Old, names: list[str]) -> None:
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        was = await old.fetch(f"SELECT t::text FROM kosmo_v01.{quoted} AS t ORDER BY 1")  # noqa: S608  quoted
        shown = await old.fetch(f"SELECT t::text FROM kosmo_compat.{quoted} AS t ORDER BY 1")  # noqa: S608  quoted
        assert shown == was, name


async def _published(
    variant: Variant, old: Old, made: Sequence[Customer], current: Mapping[UUID, Customer]
) -> None:
    """Every document says what v0.1 said."""
    async with (
        Mosquitto() as broker,
        observing(broker) as observer,
        intake(old.url, broker.port),
    ):
        await until(lambda: len(observer.documents) >= len(made), "all documents")
        for one in made:
            user = variant.uuid(one)
            document = observer.documents[user]
            if user not in current:
                assert document["plan_type"] == "free", document
                continue
            assert document["plan_type"] == one.plan
            assert document["valid_until"] == f"{one.end:%Y-%m-%dT%H:%M:%S.%f}Z", document
            assert (document["messages_used"], document["messages_limit"]) == (one.used, one.limit)
