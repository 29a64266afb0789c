"""Whatever v0.1's tables look like: every end and every message is kept, published, and counted on."""

from pathlib import Path
from typing import Any

import pytest

from kosmo_billing_daemon.runtime.clock import utc_now
from tests.adopt.conftest import Old
from tests.adopt.variants import VARIANTS, Customer, Variant, customers
from tests.support.mosquitto import Mosquitto
from tests.support.world import until, world_around

USERS = 100
MANY = 1000


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_every_customer_keeps_end_and_messages(variant: Variant, old: Old, tmp_path: Path) -> None:
    await _move(variant, old, tmp_path, USERS)


@pytest.mark.soak
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_a_thousand_customers_keep_end_and_messages(variant: Variant, old: Old, tmp_path: Path) -> None:
    await _move(variant, old, tmp_path, MANY)


async def _move(variant: Variant, old: Old, directory: Path, count: int) -> None:
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
    await _published(variant, old, directory, made, current)


def _left(row: Any) -> tuple[Any, Any, Any]:
    return row["valid_until"], row["messages_used"], row["messages_limit"]


async def _shown_as_before(old: Old, names: list[str]) -> None:
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        was = await old.fetch(f"SELECT t::text FROM kosmo_v01.{quoted} AS t ORDER BY 1")  # noqa: S608
        shown = await old.fetch(f"SELECT t::text FROM kosmo_compat.{quoted} AS t ORDER BY 1")  # noqa: S608
        assert shown == was, name


async def _published(
    variant: Variant, old: Old, directory: Path, made: list[Customer], current: dict[Any, Customer]
) -> None:
    """Every document says what v0.1 said, and a message that the old gateway counts is in one within 2 s."""
    async with Mosquitto() as broker, world_around(directory, old.url, broker) as world:
        await world.daemon()
        await until(lambda: len(world.observer.documents) >= len(made), "all documents")
        for one in made:
            document = world.observer.documents[variant.uuid(one)]
            if one.number not in {each.number for each in current.values()}:
                assert document["plan_type"] == "free", document
                continue
            assert document["plan_type"] == one.plan
            assert document["valid_until"] == f"{one.end:%Y-%m-%dT%H:%M:%S.%f}Z", document
            assert (document["messages_used"], document["messages_limit"]) == (one.used, one.limit)
        user, one = next(iter(current.items()))
        await old.execute("SET search_path = kosmo_compat, public")
        assert await old.execute(variant.increment, variant.user(one)) == "UPDATE 1"
        await world.until_published(user, 2.0, messages_used=one.used + 1)
        assert await old.value("SELECT sum(count) FROM public.usage_events WHERE user_id = $1", user) == 1
