"""A role of PostgreSQL that may only connect, until somebody gives it what it lacks."""

import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from kosmo_billing_daemon.store.migrations import load_lacking
from kosmo_billing_daemon.store.postgres import Connection, Database


@dataclass(frozen=True)
class Poor:
    """A role that may only connect, and the owner of the database."""

    name: str
    url: str
    owner: "asyncpg.Connection[Any]"

    async def connect(self, schema: str = "public") -> Connection:
        return await Database(url=self.url, schema=schema).connect()

    async def obtain(self, schema: str = "public", *, to_migrate: bool = False) -> list[str]:
        """Have every right given that is said to lack; return what was said."""
        connection = await self.connect(schema)
        lacking = await load_lacking(connection, schema, to_migrate=to_migrate)
        for lack in lacking:
            await self.owner.execute(lack.statement)
        assert await load_lacking(connection, schema, to_migrate=to_migrate) == []
        await connection.close()
        return [f"{lack.fact}: {lack.statement}" for lack in lacking]


async def made(url: str, owner: "asyncpg.Connection[Any]") -> Poor:
    name = f"Poor-{secrets.token_hex(4)}"  # a name that needs quotes
    await owner.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'poor'")
    place = urlsplit(url)
    return Poor(name, f"postgresql://{name}:poor@{place.hostname}:{place.port}{place.path}", owner)


async def gone(poor: Poor) -> None:
    await poor.owner.execute(f'REASSIGN OWNED BY "{poor.name}" TO CURRENT_USER; DROP OWNED BY "{poor.name}"')
    await poor.owner.execute(f'DROP ROLE "{poor.name}"')
