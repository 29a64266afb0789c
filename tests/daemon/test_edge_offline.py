"""A gate offline for a day, then back at the real daemon: right at once from its file, refused nothing.

Seen failing: with an hour accepted instead of seven days, with messages counted on what is valid when they
arrive, and with a gate that starts without its file.
"""

from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from kosmo_billing_daemon.gate import Gate, Reason
from kosmo_billing_daemon.link import Broker
from tests.daemon.test_edge import NODE, Time
from tests.support.faketime import SetClock
from tests.support.proxy import Mode, proxied
from tests.support.world import World, grant, until

HOURS = timedelta(hours=1)

# Of each purchase, in the order of fulfilment: messages used, and which are on record for it.
USED = """
SELECT array_agg(format('%s %s', s.messages_used, (
    SELECT count(*) FROM usage_events AS e WHERE e.subscription_id = s.id)) ORDER BY s.number)
FROM subscriptions AS s WHERE s.user_id = $1
"""


async def test_a_day_offline_loses_nothing_and_is_refused_nothing_that_was_valid_when_sent(
    world: World, tmp_path: Path
) -> None:
    """Meanwhile one subscription ends and another is renewed, by the daemon's clock and the gate's."""
    clock, time = SetClock(tmp_path), Time()
    clock.assert_works()
    daemon = await world.daemon(**clock.settings)
    kept, renewed, ended = uuid4(), uuid4(), uuid4()
    for user_id in (kept, renewed):
        await world.until_published(await world.buy(daemon, user_id))
    await grant(world, [ended], clock.now() + 12 * HOURS)
    await world.until_published(ended)
    async with proxied(world.broker.host, world.broker.port) as way:

        def gate() -> Gate:
            broker = Broker(host=way.host, port=way.port, client_id="gateway-1")
            file = tmp_path / "gateway-1.db"
            return Gate(broker, file, reporter="gateway-1", clock=time.now, monotonic=time.monotonic)

        async with gate() as life:
            await life.ready(20)
        await way.become(Mode.REFUSE)

        time.ahead = 6 * HOURS
        async with gate() as life:
            for user_id, number in ((kept, 20), (renewed, 10), (ended, 5)):
                for _ in range(number):
                    assert life.check(user_id, NODE)
                    life.record(user_id, NODE)

        time.ahead = 25 * HOURS
        clock.set(25 * HOURS)
        await world.until_published(ended, status="expired")
        await world.until_published(await world.buy(daemon, renewed), messages_limit=100)

        async with gate() as life:
            assert not life.status.connected
            assert life.status.unacknowledged == 35
            assert life.check(kept, NODE).remaining == 30
            assert life.check(renewed, NODE).remaining == 40  # it cannot know better yet
            assert life.check(ended, NODE).reason is Reason.EXPIRED
            await way.heal()
            await until(lambda: life.status.unacknowledged == 0, lambda: life.status)
            assert life.status.rejected == 0
            await until(lambda: life.check(renewed, NODE).remaining == 100, lambda: life.status)
            assert life.check(kept, NODE).remaining == 30
            assert life.check(ended, NODE).reason is Reason.EXPIRED
    counted: dict[UUID, list[str]] = {kept: ["20 20"], renewed: ["10 10", "0 0"], ended: ["5 5"]}
    assert {user_id: await world.value(USED, user_id) for user_id in counted} == counted
