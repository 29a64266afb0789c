"""The host's clock set back under a running daemon: nothing waits for it."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.faketime import SetClock
from tests.support.world import World, until

HOURS = timedelta(hours=1)
SOON = 5.0  # seconds; what waits for the clock to catch up waits for hours


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    made = SetClock(tmp_path)
    made.set(-3 * HOURS)
    made.assert_works()
    made.set(timedelta())
    return made


async def test_a_document_that_could_not_be_marked_waits_for_no_clock(world: World, clock: SetClock) -> None:
    """Its row was locked by a writer when the broker acknowledged it, and the clock was set back then."""
    daemon = await world.daemon(**clock.settings)
    user_id = await world.buy(daemon)
    await world.until_published(user_id)
    async with world.sql() as connection:
        world.broker.freeze()
        await world.execute("UPDATE subscriptions SET messages_used = 1")
        async with connection.transaction():
            await connection.execute("SELECT FROM entitlements FOR UPDATE")
            world.broker.thaw()
            await world.until_published(user_id, messages_used=1)
            published = len(world.observer.versions[user_id])
            await until(lambda: len(world.observer.versions[user_id]) > published, "its repetition")
            clock.set(-3 * HOURS)
    marked = "SELECT bool_and(published_version = version) FROM entitlements"
    await until(lambda: world.value(marked), "the mark", SOON)
