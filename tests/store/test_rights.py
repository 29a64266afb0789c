"""A missing right is named with the statement that gives it; so is a schema or an encoding that is no use."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from kosmo_billing_daemon.store.errors import DatabaseAway, DatabaseUnfit
from kosmo_billing_daemon.store.migrations import migrate, objects, pending
from kosmo_billing_daemon.store.postgres import Database, Pool
from tests.store.conftest import SUBSCRIBE, Connector
from tests.support.roles import Poor, gone, made

EVERYTHING = """
SELECT relname AS name FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace AND (
    relkind IN ('r', 'p', 'v')
    OR relkind = 'S' AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'i'))
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


@pytest.fixture
async def poor(database_url: str, connect: Connector) -> AsyncIterator[Poor]:
    poor = await made(database_url, await connect())
    yield poor
    await gone(poor)


@pytest.fixture
async def poor_of_empty(empty_database_url: str) -> AsyncIterator[Poor]:
    owner = await Database(url=empty_database_url).connect()
    poor = await made(empty_database_url, owner)
    yield poor
    await gone(poor)
    await owner.close()


async def test_the_rights_that_are_asked_for_are_all_that_is_needed(poor: Poor) -> None:
    await poor.owner.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    await poor.owner.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    said = await poor.obtain()
    assert [each.partition(": ")[2].partition(" ON ")[0] for each in said] == [
        "GRANT USAGE",
        "GRANT SELECT, INSERT, UPDATE, DELETE",
        "GRANT USAGE, SELECT, UPDATE",
        "GRANT EXECUTE",
    ]
    connection = await poor.connect()
    assert await pending(connection) == ()
    await connection.execute("SELECT lock_users('{}'), nextval('observations')")
    await connection.execute("SELECT setval('entitlement_versions', last_value) FROM entitlement_versions")
    await connection.execute(SUBSCRIBE, uuid4(), uuid4(), None, "grant", "any_node", "active", 50)
    await connection.execute("UPDATE subscriptions SET status = 'expired', ended_at = valid_from")
    assert await connection.fetchval("SELECT count(*) FROM entitlements") == 1
    await connection.close()


async def test_each_kind_of_right_is_missed_by_itself(poor: Poor) -> None:
    await poor.obtain()
    for taken, statement in (
        (f'REVOKE USAGE ON SEQUENCE observations FROM "{poor.name}"', "ON SEQUENCE public.observations TO"),
        (f'REVOKE DELETE ON events FROM "{poor.name}"', "ON public.events TO"),
        (
            "REVOKE EXECUTE ON FUNCTION lock_users FROM PUBLIC",
            "ON FUNCTION public.lock_users(users uuid[]) TO",
        ),
        (f'REVOKE USAGE ON SCHEMA public FROM PUBLIC, "{poor.name}"', "GRANT USAGE ON SCHEMA public TO"),
        (
            "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE public.events DISABLE ROW LEVEL SECURITY",
        ),
    ):
        await poor.owner.execute(taken)
        (said,) = await poor.obtain()
        assert statement in said


async def test_everything_that_the_migrations_make_is_looked_at(connect: Connector) -> None:
    connection = await connect()
    rows = await connection.fetch(EVERYTHING)
    assert {row["name"] for row in rows} <= set(objects())


async def test_a_right_that_is_missing_while_running_is_named_and_costs_no_session(poor: Poor) -> None:
    await poor.obtain()
    await poor.owner.execute(f'REVOKE ALL ON SEQUENCE observations FROM "{poor.name}"')
    async with Pool(Database(url=poor.url)) as pool:
        pids = set()

        async def number() -> None:
            async with pool.transaction() as connection:
                pids.add(connection.get_server_pid())
                await connection.execute("SELECT nextval('observations')")

        for _ in range(2):
            with pytest.raises(DatabaseUnfit, match="permission denied for sequence observations"):
                await number()
        assert len(pids) == 1
        assert pool.refusal is not None


@pytest.mark.parametrize("schema", ["public", "billing"])
async def test_who_may_make_nothing_is_told_what_to_grant_and_can_then_migrate(
    poor_of_empty: Poor, schema: str
) -> None:
    connection = await poor_of_empty.connect(schema)
    with pytest.raises(DatabaseUnfit) as refused:
        await migrate(connection, schema)
    wanted = f"{'GRANT USAGE, CREATE ON SCHEMA public TO' if schema == 'public' else 'CREATE SCHEMA billing'}"
    assert wanted in refused.value.message
    assert len(await poor_of_empty.obtain(schema, to_migrate=True)) == 1
    assert len(await migrate(connection, schema)) > 0
    await connection.close()


async def test_tables_of_another_owner_are_named_before_they_are_altered(poor: Poor) -> None:
    """As after a restore by a superuser."""
    await poor.owner.execute("DELETE FROM kosmo_billing_migrations")
    await poor.obtain()
    connection = await poor.connect()
    with pytest.raises(DatabaseUnfit, match=r"ALTER TABLE public.subscriptions OWNER TO \"Poor-"):
        await migrate(connection)
    said = await poor.obtain(to_migrate=True)
    assert any("FUNCTION public.lock_users(users uuid[])" in each for each in said)
    await connection.close()


async def test_a_server_that_refuses_the_session_is_told_with_what_to_do(poor: Poor) -> None:
    here, role = f'"{urlsplit(poor.url).path[1:]}"', f'"{poor.name}"'
    closed = f"closed_{poor.name[-8:]}"
    await poor.owner.execute(f"CREATE DATABASE {closed} ALLOW_CONNECTIONS false")
    try:
        for before, database, words, remedy, after in (
            (
                f"REVOKE CONNECT ON DATABASE {here} FROM PUBLIC",
                None,
                "permission denied",
                f"GRANT CONNECT ON DATABASE {here} TO {role}",
                f"GRANT CONNECT ON DATABASE {here} TO PUBLIC",
            ),
            (
                f"ALTER ROLE {role} NOLOGIN",
                None,
                "not permitted to log in",
                f"ALTER ROLE {role} LOGIN",
                f"ALTER ROLE {role} LOGIN",
            ),
            (
                f"ALTER ROLE {role} CONNECTION LIMIT 0",
                None,
                "too many connections",
                f"ALTER ROLE {role} CONNECTION LIMIT",
                f"ALTER ROLE {role} CONNECTION LIMIT -1",
            ),
            (
                f"ALTER ROLE {role} PASSWORD 'other'",
                None,
                "password authentication failed",
                f"ALTER ROLE {role} PASSWORD",
                f"ALTER ROLE {role} PASSWORD 'poor'",
            ),
            (
                "SELECT",
                closed,
                "not currently accepting",
                f'ALTER DATABASE "{closed}" ALLOW_CONNECTIONS true',
                "SELECT",
            ),
            ("SELECT", "absent", "does not exist", f'--owner={role} "absent"', "SELECT"),
        ):
            await poor.owner.execute(before)
            place = urlsplit(poor.url)
            url = place._replace(path=f"/{database}").geturl() if database else poor.url
            with pytest.raises(DatabaseAway, match=words) as refused:
                await Database(url=url).connect()
            assert remedy in refused.value.advice
            assert "Error" not in refused.value.message
            await poor.owner.execute(after)
        await (await poor.connect()).close()
    finally:
        await poor.owner.execute(f"DROP DATABASE {closed}")


async def test_before_the_schema_is_there_every_statement_says_so(empty_database_url: str) -> None:
    async with Pool(Database(url=empty_database_url)) as pool:
        for statement in (
            "SELECT 1 FROM subscriptions",
            "SELECT lock_users('{}')",
            "SELECT nextval('observations')",
        ):
            with pytest.raises(DatabaseUnfit, match="does not exist"):
                async with pool.connection() as connection:
                    await connection.execute(statement)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_keep_every_name_is_refused(connect: Connector, encoding: str) -> None:
    owner, name = await connect(), f"encoded_{encoding.lower()}"
    await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    place = urlsplit(connect._url)
    try:
        with pytest.raises(DatabaseUnfit, match=f"encoded in {encoding}"):
            await Database(url=place._replace(path=f"/{name}").geturl()).connect()
    finally:
        await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
