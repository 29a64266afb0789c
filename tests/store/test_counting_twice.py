"""Two writers of one message."""

import asyncio
from uuid import uuid4

import pytest

from kosmo_billing_daemon.store import usage
from kosmo_billing_daemon.store.errors import RetryTransaction
from kosmo_billing_daemon.store.usage import UsageRows
from tests.store.conftest import Connector
from tests.support.usage import NOW
from tests.support.world import until


async def test_two_writers_of_one_message_count_it_once(connect: Connector) -> None:
    """Nothing locks a user who bought nothing: the key alone decides, and the loser tries again."""
    one, other = await connect(), await connect()
    event = UsageRows(
        user_id=[str(uuid4())],
        message_id=["m"],
        node_id=[None],
        count=[1],
        sent_at=[NOW],
        report=[0],
        reporters=["gateway"],
    )
    first = one.transaction()
    await first.start()
    assert await usage.count(one, event, NOW) == [1]
    second = asyncio.create_task(usage.count(other, event, NOW))
    observer = await connect()
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
    await until(lambda: observer.fetchval(waits, other.get_server_pid()), "the second waits")
    await first.commit()
    with pytest.raises(RetryTransaction):
        await second
    assert await usage.count(other, event, NOW) == [0]
