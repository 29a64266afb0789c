"""The host's clock set back and forth under a running daemon: it is told, and nothing waits for it.

Nobody but the daemon has that clock: what comes from gateways, BTCPay and PostgreSQL is of the true time.
Seen failing: with waits reckoned by the system clock, without looking at every invoice or waking the timers
after a step, and with use counted on a purchase from its beginning alone, which is in the future.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.faults.signs import logs, measures
from tests.support import usage
from tests.support.faketime import SetClock
from tests.support.intake import report_all
from tests.support.world import World

HOURS, DAYS = timedelta(hours=1), timedelta(days=1)
PERIOD = 30 * DAYS
SOON = 5.0  # seconds; what waits for the clock to catch up waits for hours


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    made = SetClock(tmp_path)
    made.set(-3 * HOURS)
    made.assert_works()
    made.set(timedelta())
    return made


def end(world: World, user_id: UUID) -> datetime:
    """When the user's rights end, as everybody was told."""
    return datetime.fromisoformat(world.observer.documents[user_id]["valid_until"])


def lasts(world: World, user_id: UUID, clock: SetClock) -> bool:
    """Whether the rights began just now, by the daemon's clock, and last for one period."""
    return timedelta() <= clock.now() + PERIOD - end(world, user_id) < timedelta(seconds=SOON)


async def say(world: World, user_id: UUID, number: int, sent_at: datetime | None = None) -> None:
    """Report the ``number``-th message of the user's present period, and see it counted in the document."""
    report_id = str(uuid4())
    event = usage.event(user_id, report_id, sent_at or datetime.now(UTC))
    (ack,) = await report_all(world.broker.port, "gateway", {report_id: usage.payload([event], report_id)})
    assert (ack.accepted, ack.rejected) == (1, ())
    await world.until_published(user_id, SOON, messages_used=number)


async def test_a_clock_set_back_and_forth_delays_nothing_and_moves_no_end(
    world: World, clock: SetClock
) -> None:
    daemon = await world.daemon(**clock.settings)
    pid, early, lost, late = daemon.pid, uuid4(), uuid4(), uuid4()
    await world.until_published(await world.buy(daemon, early))
    first_end = end(world, early)
    await say(world, early, 1)
    world.simulator.set_faults(webhooks={"drop": 1})
    await world.pay(await world.order(daemon, lost))

    clock.set(-3 * HOURS)
    await world.until_published(lost, SOON)  # it was to be looked at in fifteen seconds, which are hours now
    world.simulator.set_faults(webhooks={"drop": 0})
    await say(world, early, 2)
    await say(world, early, 3)
    await world.until_published(await world.buy(daemon, early), SOON, messages_limit=100 - 3)
    assert end(world, early) == first_end + PERIOD
    await world.until_published(await world.buy(daemon, late), SOON)
    assert lasts(world, late, clock)
    ends = {user_id: end(world, user_id) for user_id in (early, lost, late)}
    await logs(daemon, "the system clock was set back by 3:00:00")

    clock.set(timedelta())
    await logs(daemon, "the system clock was set forward by 3:00:00")
    await say(world, early, 1)
    assert {user_id: end(world, user_id) for user_id in ends} == ends

    clock.set(31 * DAYS)
    for user_id in (lost, late):  # their period is over by that clock
        await world.until_published(user_id, SOON, status="expired")
    await say(world, early, 2, clock.now())
    assert {user_id: end(world, user_id) for user_id in ends} == ends
    await world.until_published(await world.buy(daemon, late), SOON, status="active")
    assert lasts(world, late, clock)
    await measures(world, daemon, "clock_steps_total", 3)
    await world.until_ready(daemon)
    assert daemon.pid == pid


async def test_a_change_of_use_that_waits_for_its_second_waits_for_no_clock(
    world: World, clock: SetClock
) -> None:
    daemon = await world.daemon(**clock.settings)
    user_id = await world.buy(daemon)
    await world.until_published(user_id)
    for used in (1, 2):
        await world.execute("UPDATE subscriptions SET messages_used = $1", used)
        clock.set(-3 * HOURS)
        await world.until_published(user_id, SOON, messages_used=used)
