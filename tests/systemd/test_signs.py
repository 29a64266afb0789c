"""What systemd hears: ready, signs of life as long as there is progress, and that the end has begun."""

import asyncio
import logging
import signal
import time
from dataclasses import dataclass

import pytest

from kosmo_billing_daemon.runtime.watchdog import Watched, find_stuck, keep_alive
from tests.support.processes import eventually
from tests.systemd.served import Manager


@dataclass
class Part:
    step_began: float | None


async def test_outages_are_no_hang_and_the_end_is_announced_before_it_comes(lost: Manager) -> None:
    """With database, broker and BTCPay away it serves, says so in words, and gives its signs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        lost.notes.clear()
        await lost.start()
        await lost.until(lambda: lost.notes.count("WATCHDOG=1") >= 4, "four signs of life")
        assert any(note.startswith("STATUS=unready") and "database" in note for note in lost.notes)
        lost.send(number)
        assert await lost.ended() == 0
        assert "WATCHDOG=1" not in lost.notes[lost.notes.index("STOPPING=1") :]


def test_a_part_is_stuck_when_one_step_takes_too_long() -> None:
    resting, quick, slow = Part(None), Part(90.0), Part(60.0)
    parts = [Watched("resting", resting, 1.0), Watched("quick", quick, 20.0)]
    assert find_stuck(parts, 100.0) is None
    assert find_stuck([*parts, Watched("slow", slow, 20.0)], 100.0) == "slow has been at one step for 40 s"


async def test_no_sign_is_given_while_a_part_is_stuck_and_it_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = Part(time.monotonic())
    signs: list[float] = []
    turned = asyncio.Event()

    def sign() -> None:
        signs.append(time.monotonic())
        turned.set()

    watching = asyncio.create_task(keep_alive([Watched("settlement", part, 5.0)], interval=0.03, sign=sign))
    try:
        await asyncio.wait_for(turned.wait(), 5)
        part.step_began = time.monotonic() - 6
        with caplog.at_level(logging.ERROR):
            await eventually(lambda: bool(caplog.records), "the alarm")
            given = len(signs)
            await asyncio.sleep(0.1)  # ten turns
        assert len(signs) == given
        assert [record.message.partition(" for ")[0] for record in caplog.records] == [
            "settlement has been at one step"
        ]
        turned.clear()
        part.step_began = None
        await asyncio.wait_for(turned.wait(), 5)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_where_no_watchdog_waits_none_is_fed() -> None:
    await asyncio.wait_for(keep_alive([], interval=None, sign=pytest.fail), 5)
