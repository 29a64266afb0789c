"""A bad link, a broker or daemon that is away, and clocks: the gate goes on."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from kosmo_billing_daemon.gate import Reason
from kosmo_billing_daemon.runtime.clock import utc_now
from tests.gate.stand_in import ISSUED, NODE, Ledger, daemon, document, gate
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually


class Clocks:
    """Simulated clocks of one machine."""

    def __init__(self) -> None:
        self.wall = ISSUED
        self.running = 1000.0

    def pass_(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.running += seconds

    @property
    def settings(self) -> dict[str, Any]:
        return {"clock": lambda: self.wall, "monotonic": lambda: self.running}


def lasting(days: int, **changes: Any) -> dict[str, Any]:
    return {
        "issued_at": ISSUED,
        "valid_from": ISSUED - timedelta(days=1),
        "valid_until": ISSUED + timedelta(days=days),
        **changes,
    }


async def test_a_day_offline_and_a_restart_lose_nothing(mosquitto: Mosquitto, state: Path) -> None:
    clocks, ledger = Clocks(), Ledger()
    short, long = uuid4(), uuid4()
    async with daemon(mosquitto, ledger, lambda: clocks.wall) as one:
        await one.publish_all([document(short, **lasting(1)), document(long, **lasting(9))])
        async with gate(mosquitto, state, **clocks.settings) as edge:
            await edge.ready(10)
    mosquitto.kill()
    async with gate(mosquitto, state, **clocks.settings) as edge:
        edge.record(long, NODE, "before the night")
    clocks.pass_(86_400 + 60)
    async with gate(mosquitto, state, **clocks.settings) as edge:
        await edge.ready(0)
        assert edge.check(short, NODE).reason is Reason.EXPIRED
        assert edge.check(long, NODE).remaining == 49
        edge.record(long, NODE, "after the night")
        assert edge.check(long, NODE).remaining == 48
        await mosquitto.start()
        async with daemon(mosquitto, ledger, lambda: clocks.wall):
            await eventually(lambda: edge.status.unacknowledged == 0, "the reports", 30.0)
            assert set(ledger.counted) == {(long, "before the night"), (long, "after the night")}


async def test_nothing_is_asked_of_the_network_to_decide(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user, messages_limit=3)])
        async with gate(mosquitto, state) as edge:
            await edge.ready(10)
            mosquitto.kill()
            for left in (3, 2, 1):
                assert edge.check(user, NODE).remaining == left
                edge.record(user, NODE)
            assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
            await eventually(lambda: not edge.status.connected, "the loss of the connection")
            assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
            assert edge.status.last_error


async def test_a_clock_set_back_extends_no_plan(mosquitto: Mosquitto, state: Path) -> None:
    clocks, user = Clocks(), uuid4()
    async with daemon(mosquitto, clock=None) as one:
        await one.publish_all([document(user, **lasting(1))])
        async with gate(mosquitto, state, **clocks.settings) as edge:
            await edge.ready(10)
            for _ in range(3):
                clocks.pass_(50_000)
                edge._time.look()
            assert edge.check(user, NODE).reason is Reason.EXPIRED
            clocks.wall = datetime(1970, 1, 1, tzinfo=UTC)
            assert edge.check(user, NODE).reason is Reason.EXPIRED
            assert not edge.status.clock_trusted
    async with gate(mosquitto, state, **clocks.settings) as edge:
        assert edge.check(user, NODE).reason is Reason.EXPIRED


async def test_a_clock_ahead_for_a_moment_takes_no_plan_for_good(mosquitto: Mosquitto, state: Path) -> None:
    clocks, user = Clocks(), uuid4()
    async with daemon(mosquitto, clock=None) as one:
        await one.publish_all([document(user, **lasting(30))])
        async with gate(mosquitto, state, **clocks.settings) as edge:
            await edge.ready(10)
            clocks.wall += timedelta(days=5000)
            assert edge.check(user, NODE).reason is Reason.EXPIRED
        clocks.wall -= timedelta(days=5000)
        async with gate(mosquitto, state, **clocks.settings) as edge:
            assert edge.check(user, NODE)


async def test_the_daemon_overrules_a_clock_that_is_ahead_and_the_status_says_so(
    mosquitto: Mosquitto, state: Path
) -> None:
    clocks, user = Clocks(), uuid4()
    async with daemon(mosquitto, clock=lambda: ISSUED) as one:
        await one.publish_all([document(user, **lasting(30))])
        clocks.wall += timedelta(days=3652)
        async with gate(mosquitto, state, reporter=None, **clocks.settings) as edge:  # a bridge: it only asks
            await edge.ready(10)
            await eventually(lambda: edge.check(user, NODE).allowed, "the right time")
            status = edge.status
            assert status.clock_corrected_by == -3652 * 86_400
            assert (status.clock_trusted, status.clock_ahead) == (False, 3652 * 86_400)
            assert status.clock_proven_at == ISSUED
            assert "ahead of the daemon's time" in str(status.last_error)
        clocks.wall -= timedelta(days=3652)
        async with gate(mosquitto, state, **clocks.settings) as edge:
            await edge.ready(0)
            assert edge.check(user, NODE)
            await eventually(lambda: edge.status.clock_proven_at is not None, "the answer")
            assert edge.status.problems == ()


async def test_documents_of_weeks_ago_that_arrive_as_if_they_were_new_take_no_time_back(
    mosquitto: Mosquitto, state: Path
) -> None:
    now, user = datetime.now(UTC), uuid4()
    old = {"valid_from": now - timedelta(days=20), "issued_at": now - timedelta(days=10), "messages_used": 0}
    for clock in (None, utc_now):  # of an older daemon, which proves nothing, and of ours
        async with daemon(mosquitto, clock=clock) as one, gate(mosquitto, state) as edge:
            await one.publish(document(user, version=1 if clock is None else 9, **old))
            await eventually(lambda: edge.check(user, NODE).allowed, "the first")
            for version in range(2, 6):
                await one.change(user, issued_at=now - timedelta(days=version * 5))
            await eventually(
                lambda: edge._entries[user.int].version == one.ledger.documents[user].version, "all"
            )
            assert abs(edge._time.now() - datetime.now(UTC).timestamp()) < 5.0


async def test_a_machine_in_1970_is_told_the_time_before_it_decides_for_long(
    mosquitto: Mosquitto, state: Path
) -> None:
    """Its newest document is ten days old, and the plan it names has ended since."""
    clocks, user = Clocks(), uuid4()
    clocks.wall = datetime(1970, 1, 1, tzinfo=UTC)
    later = ISSUED + timedelta(days=10)
    async with daemon(mosquitto, clock=None) as one:
        await one.publish_all([document(user, **lasting(5))])
        async with gate(mosquitto, state, **clocks.settings) as edge:
            await edge.ready(10)
            assert edge.check(user, NODE)  # it cannot know better
            one.clock = lambda: later
            await one.status("online")  # a daemon of today
            await eventually(lambda: edge.check(user, NODE).reason is Reason.EXPIRED, "the time")
            assert edge.status.clock_proven_at == later
    async with gate(mosquitto, state, **clocks.settings) as edge:
        assert edge.check(user, NODE).reason is Reason.EXPIRED


async def test_what_a_machine_noted_that_was_off_for_weeks_is_reported_with_the_right_time(
    mosquitto: Mosquitto, state: Path
) -> None:
    """Its clock goes on where it stood at the end; sent as noted, everything would be too old to count."""
    clocks, user, ledger = Clocks(), uuid4(), Ledger()
    off = timedelta(days=20)
    async with (
        daemon(mosquitto, ledger, lambda: clocks.wall) as one,
        gate(mosquitto, state, **clocks.settings) as edge,
    ):
        await one.publish_all([document(user, **lasting(30))])
        await edge.ready(10)
    mosquitto.kill()
    clocks.running = 5.0  # started anew
    async with gate(mosquitto, state, **clocks.settings) as edge:
        edge.record(user, NODE, "noted")
        clocks.pass_(60.0)
        edge.record(user, NODE, "told", sent_at=ISSUED - timedelta(days=3))
        await mosquitto.start()
        async with daemon(mosquitto, ledger, lambda: clocks.wall + off) as one:
            one.acknowledging = False
            await eventually(lambda: len(ledger.sent_at) == 2, "the reports", 30.0)
    right = {"noted": ISSUED + off, "told": ISSUED - timedelta(days=3)}
    assert ledger.sent_at == right
    after = Ledger()
    async with (  # nobody acknowledged: all is reported again, by a gate that was started anew
        daemon(mosquitto, after, lambda: clocks.wall + off),
        gate(mosquitto, state, **clocks.settings) as edge,
    ):
        await eventually(lambda: edge.status.unacknowledged == 0, "the reports", 30.0)
        assert edge.status.loss is None, "a corrected message is no damaged one"
    assert after.sent_at == right


async def test_a_broker_killed_again_and_again_loses_and_doubles_nothing(state: Path) -> None:
    user, ledger = uuid4(), Ledger()
    sent = set()
    async with Mosquitto() as mosquitto, gate(mosquitto, state, ack_timeout=0.5) as edge:
        for round_ in range(3):
            async with daemon(mosquitto, ledger) as one:
                one.acknowledging = round_ != 0
                for _ in range(200):
                    sent.add(edge.record(user, NODE))
                    await asyncio.sleep(0)
                await eventually(lambda: len(ledger.counted) >= 1, "some reports", 30.0)
                mosquitto.kill()
            await mosquitto.start()
        async with daemon(mosquitto, ledger):
            await eventually(lambda: edge.status.unacknowledged == 0, "the reports", 30.0)
    assert {message_id for _, message_id in ledger.counted} == sent


async def test_a_frozen_broker_holds_nothing_up(mosquitto: Mosquitto, state: Path) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one:
        await one.publish_all([document(user)])
        async with gate(mosquitto, state) as edge:
            await edge.ready(10)
            mosquitto.freeze()
            for _ in range(20):
                assert edge.check(user, NODE)
                edge.record(user, NODE)
            assert edge.check(user, NODE).remaining == 30
            mosquitto.thaw()
            await eventually(lambda: edge.status.unacknowledged == 0, "the reports", 30.0)
            assert one.ledger.used(user) == 20


async def test_a_daemon_that_comes_back_gets_what_it_missed(mosquitto: Mosquitto, state: Path) -> None:
    user, ledger = uuid4(), Ledger()
    async with gate(mosquitto, state, ack_timeout=60.0) as edge:
        await eventually(lambda: edge.status.connected, "the connection")
        edge.record(user, NODE)  # nobody subscribes yet: the broker throws the report away
        await eventually(lambda: bool(edge._parts.reporter and edge._parts.reporter._sent), "a report")
        async with daemon(mosquitto, ledger):
            await eventually(lambda: edge.status.unacknowledged == 0, "the report")
    assert ledger.used(user) == 1
