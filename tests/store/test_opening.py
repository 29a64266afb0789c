"""A session is opened on the server that takes it, whatever the others do; what each said is told."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from kosmo_billing_daemon.store.errors import DatabaseAway
from kosmo_billing_daemon.store.postgres import Database


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing, as one that is switched off behind a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def beside(url: str, *hosts: str, query: str = "") -> str:
    """The URL with these hosts before its own."""
    place = urlsplit(url)
    credentials, _, own = place.netloc.rpartition("@")
    return place._replace(netloc=f"{credentials}@{','.join((*hosts, own))}", query=query).geturl()


async def test_a_silent_server_keeps_nobody_from_the_next_and_is_passed_over_afterwards(
    database_url: str, silent: str
) -> None:
    database = Database(url=beside(database_url, silent, "127.0.0.1:1"), connect_timeout=0.5)
    await (await database.connect()).close()
    began = time.monotonic()
    await (await database.connect()).close()
    assert time.monotonic() - began < 0.4


async def test_a_server_is_passed_over_that_was_silent_until_the_caller_lost_patience(
    database_url: str, silent: str
) -> None:
    database = Database(url=beside(database_url, silent), connect_timeout=30)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.connect()
    async with asyncio.timeout(5):
        await (await database.connect()).close()


async def test_of_several_servers_one_that_takes_no_writes_is_passed_over(database_url: str) -> None:
    """Both names are of one server, which is read-only by the options of the URL."""
    read_only = "options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(DatabaseAway, match=r"port 1: .*; .*it takes no writes"):
        await Database(url=beside(database_url, "127.0.0.1:1", query=read_only)).connect()
    alone = await Database(url=beside(database_url, query=read_only)).connect()
    assert await alone.fetchval("SHOW default_transaction_read_only") == "on"
    await alone.close()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("options=-c%20no_such_setting%3D1", "no_such_setting"),
        ("options=-c%20no-option", "no-option"),
        ("sslmode=require", "127.0.0.1 port"),
        ("sslmode=require&sslnegotiation=direct", "127.0.0.1 port"),
        ("host=/nowhere/at/all", "/nowhere/at/all/.s.PGSQL"),
        ("host=no-such-host.invalid", "no-such-host.invalid port"),
        ("dbname=no_such_database", "no_such_database"),
        ("user=no_such_user", "no_such_user"),
    ],
)
async def test_what_the_server_or_the_way_to_it_refuses_is_an_outage_and_named(
    database_url: str, query: str, said: str
) -> None:
    place = urlsplit(database_url)
    known = {"user": place.username, "password": place.password, "dbname": place.path[1:]}
    known |= {"host": place.hostname, "port": str(place.port)}
    given = "&".join([query, *(f"{n}={v}" for n, v in known.items() if f"{n}=" not in query)])
    with pytest.raises(DatabaseAway) as refused:
        await Database(url=f"postgresql://?{given}").connect()
    assert said in refused.value.message
    assert place.password is not None
    assert place.password not in refused.value.message
