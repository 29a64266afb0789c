"""PostgreSQL and the broker going at once, as when a host restarts both."""

import pytest

from kosmo_billing_daemon.errors import Misconfigured, Unavailable
from kosmo_billing_daemon.runtime.task_groups import ungrouped
from tests.support.world import World


async def test_the_process_outlives_broker_and_leadership_lost_at_once(world: World) -> None:
    daemon = await world.daemon()
    pid = daemon.pid
    for _ in range(3):
        # Whoever misses the broker asks next whether it still leads, before the next sign of life does.
        await world.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        world.broker.kill()
        await world.broker.start()
        await world.until_published(await world.buy(daemon))
    assert daemon.pid == pid
    assert "Traceback" not in daemon.log


def test_an_outage_among_bugs_is_a_bug() -> None:
    with pytest.raises(ExceptionGroup), ungrouped(Unavailable):
        raise ExceptionGroup("", [Unavailable("away"), ValueError("a bug")])


def test_one_kind_alone_comes_out_of_its_groups() -> None:
    with pytest.raises(Misconfigured, match="wrong"), ungrouped(Misconfigured):
        raise ExceptionGroup("", [ExceptionGroup("", [Misconfigured(["wrong"])])])
