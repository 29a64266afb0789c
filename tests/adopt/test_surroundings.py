"""The command on odd databases: rights, owners, views, locks, nothing to move in; and what it prints."""

import asyncio
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from kosmo_billing_daemon.errors import Conflict, Misconfigured, NotFound, Unavailable
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.adopt.conftest import SUBSCRIPTIONS, Old
from tests.adopt.test_switch import run_command
from tests.adopt.variants import ENUMS, PLAIN, customers
from tests.support.roles import Poor, gone, made
from tests.support.world import until


@pytest.fixture
async def poor(old: Old) -> AsyncIterator[Poor]:
    poor = await made(old.url, old.connection)
    yield poor
    await gone(poor)


async def test_what_another_role_owns_is_named_with_the_grants_that_suffice(old: Old, poor: Poor) -> None:
    await PLAIN.write(old.connection, customers(5, utc_now()))
    await old.execute(
        f'CREATE ROLE "{poor.name} shop"; ALTER TABLE subscriptions OWNER TO "{poor.name} shop"'
    )
    try:
        theirs = old.moving(poor.url)
        with pytest.raises(Misconfigured, match="may not read public"):
            await theirs.plan({})
        await old.execute(f'GRANT SELECT ON subscriptions, btcpay_invoices TO "{poor.name}"')
        planned = await theirs.plan({})
        assert [lack.fact.partition(" may not ")[2] for lack in planned.lacking] == [
            f"move public.subscriptions, which {poor.name} shop owns",
            "make the schemas kosmo_v01, kosmo_compat",
            "move public.btcpay_invoices, which postgres owns",
        ]
        with pytest.raises(Misconfigured, match="GRANT"):
            await theirs.run({}, leave_unreadable=False)
        for lack in planned.lacking[:2]:
            await old.execute(lack.statement)
        await old.execute(f'ALTER TABLE btcpay_invoices OWNER TO "{poor.name}"')
        await old.execute(f'GRANT CREATE ON SCHEMA public TO "{poor.name}"')
        done = await theirs.run({}, leave_unreadable=False)
        assert f'"{poor.name} shop"' in done.roles, "its owner reads and counts on"
        await theirs.undo()
    finally:
        await old.execute(f'REASSIGN OWNED BY "{poor.name} shop" TO CURRENT_USER')
        await old.execute(f'DROP OWNED BY "{poor.name} shop"; DROP ROLE "{poor.name} shop"')


async def test_a_view_is_moved_like_a_table_and_columns_of_no_use_are_named(old: Old) -> None:
    await old.execute(SUBSCRIPTIONS.replace("TABLE subscriptions", "TABLE base"))
    await old.execute("CREATE VIEW subscriptions AS SELECT * FROM base")
    await old.execute(
        "INSERT INTO base VALUES (1, gen_random_uuid(), 'guardian', 'active', now(), 'infinity')"
    )
    await old.execute(
        "CREATE TABLE btcpay_invoices (invoice_id bytea, status point, user_id uuid, amount int)"
    )
    with pytest.raises(Misconfigured) as refused:
        await old.plan()
    said = "\n".join(refused.value.problems)
    assert "invoices.btcpay_invoice_id: name the column that says it" in said
    assert "invoices.status: name the column" in said
    await old.execute("DROP TABLE btcpay_invoices")
    planned = await old.plan()
    assert [row.reason for row in planned.survey.unreadable] == [
        "it has no end; give those an end with subscriptions.without_end"
    ]
    assert ("public", "subscriptions") in planned.moved
    await old.run(leave_unreadable=True)
    assert await old.value("SELECT count(*) FROM kosmo_compat.subscriptions") == 1
    await old.undo()
    assert await old.value("SELECT count(*) FROM subscriptions") == 1


async def test_nothing_to_move_in_and_users_of_our_own_are_refused(old: Old) -> None:
    with pytest.raises(NotFound, match="there is no table subscriptions in schema public"):
        await old.run()
    await PLAIN.write(old.connection, customers(5, utc_now()))
    await old.run()
    await old.execute(
        "DELETE FROM adoptions; CREATE SCHEMA old; ALTER TABLE kosmo_v01.subscriptions SET SCHEMA old"
    )
    with pytest.raises(Conflict, match="has users already"):
        await old.run('[subscriptions]\ntable = "old.subscriptions"')


async def test_a_table_that_somebody_holds_is_left_alone(old: Old) -> None:
    await PLAIN.write(old.connection, customers(5, utc_now()))
    other = await asyncpg.connect(old.url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE subscriptions SET messages_used = messages_used")
    running = asyncio.create_task(old.moving().run({}, leave_unreadable=False))
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'subscriptions'::regclass"
    await until(lambda: old.value(waits), "it waits for the lock")
    await old.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'kosmo-billing adopt'"
    )
    with pytest.raises(Unavailable):
        await running
    await transaction.rollback()
    await other.close()
    await old.run()


async def test_the_command_shows_its_guess_and_writes_the_map_that_it_reads(old: Old, tmp_path: Path) -> None:
    await ENUMS.write(old.connection, customers(30, utc_now()))
    settings = {"DATABASE_URL": old.url, "BTCPAY_URL": "http://127.0.0.1:9", "BTCPAY_API_KEY": "a" * 40}
    settings |= {"BTCPAY_STORE_ID": "s", "MQTT_HOST": "127.0.0.1", "WEBHOOK_SECRET": "w"}
    file = tmp_path / "adopt.toml"
    shown = (await run_command(settings, "adopt", "plan", "--write-map", str(file)))["out"]
    for said in (
        "user_id            user_id (character varying(36))",
        "valid_until        expires_at (timestamp with time zone)",
        "amount_cents holds cents",
        "messages refers to subscriptions",
        "kosmo-billing adopt run",
    ):
        assert said in shown, shown
    written = tomllib.loads(file.read_text())
    assert written["invoices"]["amount_in"] == "cents"
    told = await run_command(settings, "adopt", "plan", "--map", str(file), "--json")
    assert told["ready"] is True
    assert told["map"]["subscriptions"]["messages_limit"] == "messages_limit"
    file.write_text(file.read_text().replace('"expires_at"', '"expired_at"', 1))
    refused = await run_command(settings, "adopt", "plan", "--map", str(file), code=78)
    assert "has no column 'expired_at'" in refused["error"]
    done = await run_command(settings, "adopt", "run")
    assert "ALTER ROLE" in done["out"]
    assert "search_path = kosmo_compat, public" in done["out"]
