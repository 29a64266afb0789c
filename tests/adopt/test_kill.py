"""Killed at any moment, moving in leaves the old installation or the new one, and nothing in between.

The process kills itself before the statement whose number it is given: statements are what the database sees.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from kosmo_billing_daemon.domain.plans import BUILT_IN
from kosmo_billing_daemon.runtime.clock import utc_now
from kosmo_billing_daemon.services.adoption import MovingIn
from kosmo_billing_daemon.store.postgres import Database
from tests.adopt.conftest import Old
from tests.adopt.variants import ENUMS, customers
from tests.support.world import until

POINTS = {"run": 7, "undo": 4}
"""Spread over all statements; the last is COMMIT, carried out and not answered."""

_FORKED = multiprocessing.get_context("forkserver")  # imports once
_FORKED.set_forkserver_preload(["tests.adopt.test_kill"])


async def _numbered(url: str, action: str, number: int) -> tuple[int, int]:
    """Move in or back in a process of its own; returns its exit code, and how many statements it sent."""
    sent = _FORKED.Value("i", 0)
    process = _FORKED.Process(target=_main, args=(url, action, number, sent))
    process.start()
    await asyncio.to_thread(process.join, 30)
    code = process.exitcode
    process.close()
    assert code is not None
    return code, sent.value


@pytest.mark.parametrize("action", ["run", "undo"])
async def test_killed_anywhere_all_is_old_or_all_is_new(action: str, old: Old) -> None:
    await ENUMS.write(old.connection, customers(20, utc_now()))
    first = await old.look()
    if action == "undo":
        await old.run()
    before = await old.look()
    code, total = await _numbered(old.url, action, 0)
    assert code == 0
    after = await old.look()
    assert before != after
    if action == "run":
        await old.undo()
    else:
        assert after == first
    points = POINTS[action]
    deaths = [1 + place * (total - 1) // (points - 1) for place in range(points)]
    seen = set()
    for number in deaths:
        if action == "undo" and await _is_old(old):
            await old.run()
        start = await old.look()
        code, _ = await _numbered(old.url, action, number)
        assert code == -signal.SIGKILL, number
        await _gone(old)
        is_old = await _is_old(old)
        if await old.look() == start:
            seen.add("as before")
        else:
            seen.add("done")
            assert number == total
            assert is_old == (action == "undo")
            if is_old:
                assert await old.look() == first
    assert "as before" in seen


async def _is_old(old: Old) -> bool:
    return bool(await old.value("SELECT to_regclass('kosmo_billing_migrations') IS NULL"))


async def _gone(old: Old) -> None:
    """Wait until the server has noticed the death."""

    async def is_gone() -> bool:
        return not await old.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kosmo-billing adopt'"
            " AND datname = current_database()"
        )

    await until(is_gone, "the session's end")


def _counting(number: int) -> list[int]:
    """Have every statement counted, and the process killed before that one; before the last, after it."""
    count = [0]
    for name in ("execute", "fetch", "fetchval", "fetchrow"):
        original: Callable[..., Awaitable[Any]] = getattr(asyncpg.Connection, name)

        async def counted(
            self: "asyncpg.Connection[Any]", *arguments: Any, _original: Any = original, **more: Any
        ) -> Any:
            count[0] += 1
            if count[0] == number and arguments[0] != "COMMIT;":
                os.kill(os.getpid(), signal.SIGKILL)
            found = await _original(self, *arguments, **more)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(asyncpg.Connection, name, counted)
    return count


def _main(url: str, action: str, number: int, sent: Any) -> None:
    moving = MovingIn(database=Database(url=url), catalogue=BUILT_IN, clock=utc_now, who="operator")
    count = _counting(number)
    asyncio.run(moving.run({}, leave_unreadable=False) if action == "run" else moving.undo())
    sent.value = count[0]
