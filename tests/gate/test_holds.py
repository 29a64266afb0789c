"""Holds: checked and counted in one step, and reported only once it is known that the message passed."""

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate import Gate, Hold, NotJournaled, Reason, SyncGate
from kosmo_billing_daemon.gate.decisions import entry_of
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.link import Broker
from tests.gate.stand_in import NODE, daemon, document, gate
from tests.gate.test_disk import empty_disk, fill_disk, fill_up
from tests.support.mosquitto import Mosquitto
from tests.support.processes import eventually

NOBODY = Broker(host="127.0.0.1", port=9, client_id="g")  # nobody listens there
TOGETHER = 64


@pytest.fixture
def user(state: Path) -> UUID:
    """A user whose document with one message is in the file."""
    return known(state, limit=1)


def known(state: Path, limit: int) -> UUID:
    user, file = uuid4(), StateFile(state)
    file.save_documents([(user.int, entry_of(document(user, messages_limit=limit)))])
    file.close()
    return user


def offline(state: Path, **settings: Any) -> Gate:
    return Gate(NOBODY, state, reporter="g", **settings)


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.soak)])
async def test_one_of_64_tasks_gets_the_last_message(state: Path, user: UUID, times: int) -> None:
    async with offline(state) as edge:

        async def attempt() -> Hold:
            await asyncio.sleep(0)
            hold = edge.hold(user, NODE)
            await asyncio.sleep(0)  # where a check and a record would let another task in between
            return hold

        for _ in range(times):
            holds = await asyncio.gather(*(attempt() for _ in range(TOGETHER)))
            (winner,) = filter(None, holds)
            assert {hold.reason for hold in holds if not hold} == {Reason.QUOTA_EXHAUSTED}
            assert winner.release("again")
        winner = edge.hold(user, NODE)
        winner.commit()
        assert not edge.hold(user, NODE)
        assert (edge.status.held, edge.status.released, edge.status.unacknowledged) == (0, times, 1)


@pytest.mark.parametrize(
    "times", [100, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_one_of_64_threads_gets_the_last_message(state: Path, user: UUID, times: int) -> None:
    together = threading.Barrier(TOGETHER)
    with SyncGate(NOBODY, state, reporter="g") as edge, ThreadPoolExecutor(TOGETHER) as threads:

        def attempt(_: int) -> bool:
            together.wait(10)
            with edge.hold(user, NODE) as hold:
                together.wait(10)
                if hold:
                    hold.release("again")
                return hold.allowed

        for _ in range(times):
            assert sum(threads.map(attempt, range(TOGETHER))) == 1
        with edge.hold(user, NODE) as hold:
            assert hold
        assert not edge.hold(user, NODE)
        assert edge.status.unacknowledged == 1


async def test_what_the_radio_refuses_is_given_back_and_never_reported(
    mosquitto: Mosquitto, state: Path
) -> None:
    user, radio = uuid4(), random.Random(1)
    sent = 0
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user, messages_limit=40))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        while edge.check(user, NODE):
            try:
                with edge.hold(user, NODE) as hold:
                    await asyncio.sleep(0)
                    if radio.random() < 0.3:
                        raise OSError("the radio is busy")
                assert hold
            except OSError:
                continue
            sent += 1
        await eventually(lambda: edge.status.unacknowledged == 0, "the acknowledgement")
        assert sent == one.ledger.used(user) == 40


async def test_a_hold_committed_after_newer_messages_were_sent_is_reported_too(
    mosquitto: Mosquitto, state: Path
) -> None:
    user = uuid4()
    async with daemon(mosquitto) as one, gate(mosquitto, state) as edge:
        await one.publish(document(user))
        await eventually(lambda: edge.check(user, NODE).allowed, "the plan")
        early = [edge.hold(user, NODE) for _ in range(3)]
        edge.record(user, NODE)
        await eventually(lambda: one.ledger.used(user) == 1, "the newer message")
        early[1].commit()
        await eventually(lambda: one.ledger.used(user) == 2, "the older one")
        early[0].release("no route")
        early[2].commit()
        await eventually(lambda: one.ledger.used(user) == 3, "the last")
        await eventually(lambda: edge.check(user, NODE).remaining == 47, "the document")
        assert edge.status.duplicates == 0


async def test_held_messages_survive_a_restart_and_can_be_taken_up_again(state: Path) -> None:
    user = known(state, limit=2)
    async with offline(state) as edge:
        first = edge.hold(user, NODE, "first")
        edge.hold(user, NODE, "second")
    with pytest.raises(RuntimeError, match="not open"):
        first.commit()
    async with offline(state) as edge:
        assert edge.check(user, NODE).reason is Reason.QUOTA_EXHAUSTED
        assert (edge.status.held, edge.status.unacknowledged) == (2, 0)
        with edge.hold(user, NODE, "first") as again:
            assert again.remaining == 1
            with pytest.raises(Invalid, match="held already"):
                edge.hold(user, NODE, "first")
        edge.record(user, NODE, "second")
        assert (edge.status.held, edge.status.unacknowledged) == (0, 2)


@pytest.mark.parametrize(("choice", "left", "reported"), [("commit", 0, 1), ("release", 1, 0)])
async def test_a_hold_nobody_resolves_is_resolved_by_the_gates_choice(
    state: Path, user: UUID, choice: str, left: int, reported: int
) -> None:
    async with offline(state) as edge:
        edge.hold(user, NODE)
    async with offline(state, hold_timeout=0.01, on_timeout=choice) as edge:
        await eventually(lambda: edge.status.held == 0, "the end of its time")
        assert edge.check(user, NODE).remaining == left
        assert edge.status.unacknowledged == reported


async def test_a_hold_resolved_after_its_time_counts_as_what_happened(state: Path) -> None:
    user = known(state, limit=2)
    async with offline(state, hold_timeout=0.01, on_timeout="release") as edge:
        late = edge.hold(user, NODE)
        await eventually(lambda: edge.status.held == 0, "the end of its time")
        late.commit()
        late.commit()
        assert not late.release("too late")
        assert (edge.check(user, NODE).remaining, edge.status.unacknowledged) == (1, 1)
    async with offline(state, hold_timeout=0.01) as edge:
        late = edge.hold(user, NODE)
        await eventually(lambda: edge.status.held == 0, "the end of its time")
        assert not late.release("too late")
        late.commit()
        assert (edge.status.unacknowledged, edge.status.duplicates) == (2, 0)
        assert not edge.check(user, NODE)


async def test_the_same_id_counts_once_and_a_released_one_may_be_held_again(state: Path) -> None:
    user = known(state, limit=3)
    async with offline(state) as edge:
        for _ in range(2):
            with edge.hold(user, NODE, "the-same") as hold:
                assert hold
        assert (edge.check(user, NODE).remaining, edge.status.duplicates) == (2, 1)
        for _ in range(2):
            assert edge.hold(user, NODE, "tried").release("no route")
        with edge.hold(user, NODE, "tried") as hold:
            assert hold.message_id == "tried"
        assert (edge.check(user, NODE).remaining, edge.status.unacknowledged) == (1, 2)


async def test_a_refused_message_is_false_and_cannot_be_committed(state: Path, user: UUID) -> None:
    async with offline(state) as edge:
        with edge.hold(uuid4(), NODE) as hold:
            assert (hold.allowed, hold.reason) == (False, Reason.UNKNOWN_USER)
        with pytest.raises(RuntimeError, match="refused message"):
            hold.commit()
        assert not hold.release()
        assert edge.hold(user, NODE, count=2).reason is Reason.QUOTA_EXHAUSTED
        assert edge.status.held == 0
    with pytest.raises(ValueError, match="forget"):
        offline(state, on_timeout="forget")


async def test_a_full_disk_holds_in_memory_and_writes_down_later(state: Path) -> None:
    user = known(state, limit=10)
    async with offline(state) as edge:
        written = [edge.hold(user, NODE) for _ in range(2)]
        fill_disk(edge)
        fill_up(edge)
        held = [edge.hold(user, NODE) for _ in range(4)]
        assert all(held)
        assert edge.check(user, NODE).remaining == 4
        with pytest.raises(NotJournaled):
            held[0].commit()
        with held[1]:
            pass  # the end of a context does not raise
        assert held[2].release("no route")
        assert edge.check(user, NODE).remaining == 5
        resolved: list[Callable[[], object]] = [lambda: written[1].release("no route"), written[0].commit]
        for resolve in resolved:
            try:
                resolve()
            except NotJournaled:
                continue  # as much room as there is
        assert edge.check(user, NODE).remaining == 6
        before = edge.status.unacknowledged
        empty_disk(edge)
        await eventually(lambda: edge.status.unwritten == 0, "the recovery")
        assert (edge.status.held, edge.check(user, NODE).remaining) == (1, 6)
        assert edge.status.unacknowledged > before
    async with offline(state) as edge:
        assert (edge.status.held, edge.check(user, NODE).remaining) == (1, 6)
