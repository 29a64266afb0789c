"""``user extend`` interrupted and killed: what is done stays done, and the same command does the rest."""

import asyncio
import signal

import pytest

from tests.cli.conftest import Cli
from tests.services.conftest import Shop, until

pytestmark = pytest.mark.timeout(120)  # each command is a process of its own

USERS = 3_000
FILL = """
INSERT INTO quotes (plan_type, amount, currency, period, quota, scope, features)
VALUES ('wanderer', 5, 'USD', '30 days', 50, 'any_node', '{}');
INSERT INTO subscriptions (
    id, user_id, source, quote_id, status, valid_from, valid_until, messages_limit, carried_rule,
    carried_time, carried_messages)
SELECT gen_random_uuid(), md5('user ' || n)::uuid, 'grant', q.id, 'active', date_trunc('day', now()),
    date_trunc('day', now()) + interval '30 days', 50, 'fresh', '0', 0
FROM generate_series(1, 3000) AS n, quotes AS q
"""
COMMAND = ("user", "extend", "--all", "--days", "3", "--reason", "outage of May", "--yes")


async def test_everybody_is_extended_once_after_an_interruption_and_a_kill(shop: Shop, cli: Cli) -> None:
    await shop.front.execute(FILL)

    async def count() -> int:
        return int((await shop.front.rows("SELECT count(*) FROM extended_users"))[0][0])

    previewed = (await cli(*COMMAND[:-1], "--preview", "--json")).json
    assert [(plan["plan_type"], plan["users"]) for plan in previewed["plans"]] == [("wanderer", USERS)]
    unasked = await cli(*COMMAND[:-1])
    assert (unasked.code, "add --yes" in unasked.err) == (1, True)
    assert await count() == 0

    interrupted = await cli.begin(*COMMAND)
    await until(count, "a batch is written")
    interrupted.send_signal(signal.SIGINT)
    _, said = await interrupted.communicate()
    assert interrupted.returncode == 130
    assert f"of {USERS:,}" in said.decode()
    assert "run the same command again to continue" in said.decode()
    assert b"Traceback" not in said
    done = await count()
    assert done < USERS

    killed = await cli.begin(*COMMAND)

    async def more() -> bool:
        return await count() > done

    await until(more, "another batch is written")
    killed.kill()
    await killed.communicate()
    left = USERS - await count()
    assert left > 0
    rest = (await cli(*COMMAND, "--json")).json
    assert rest == {"users": left, "failed": []}
    ends = await shop.front.rows(
        "SELECT DISTINCT valid_until - valid_from FROM subscriptions WHERE status = 'active'"
    )
    assert [row[0].days for row in ends] == [33]
    actions = await shop.front.rows("SELECT count(*), count(DISTINCT user_id) FROM audit_log")
    assert tuple(actions[0]) == (USERS, USERS)

    (row,) = await shop.front.rows("SELECT user_id FROM subscriptions LIMIT 1")
    one = ("user", "extend", str(row["user_id"]), "--days", "2", "--reason", "goodwill")
    assert "5 d given by an operator" in (await cli(*one)).out
    again, neither = await asyncio.gather(cli(*one), cli(*one[:2], *one[3:]))
    assert "for the same reason" in again.err
    assert "name a user, or give --all" in neither.err
