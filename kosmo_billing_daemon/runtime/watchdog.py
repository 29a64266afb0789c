"""Heartbeats for systemd, sent only while there is progress.

A blocked event loop sends none. Beyond that, each watched part reports when its present step began. A part
that waits for an outage to end begins a new step with every try, so an outage of PostgreSQL, broker or
BTCPay is never taken for a hang. When a part is stuck, the heartbeats end: systemd aborts the process and
starts it again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from kosmo_billing_daemon.runtime.records import record

log = logging.getLogger(__name__)

HEARTBEATS_PER_INTERVAL = 3  # two may be late before systemd acts


class Stepping(Protocol):
    """Reports when its present step began: monotonic seconds, ``None`` while it rests."""

    @property
    def step_began(self) -> float | None: ...


@record
class Watched:
    """A part, and the seconds one step of it may take."""

    name: str
    part: Stepping
    within: float


def find_stuck(parts: Sequence[Watched], now: float) -> str | None:
    """Say which part has been at one step for too long, if one has."""
    for watched in parts:
        began = watched.part.step_began
        if began is not None and now - began > watched.within:
            return f"{watched.name} has been at one step for {now - began:.0f} s"
    return None


async def keep_alive(parts: Sequence[Watched], *, interval: float | None, sign: Callable[[], None]) -> None:
    """Send heartbeats, several in ``interval`` seconds, or none if systemd expects none."""
    if interval is None:
        return
    told = False
    while True:
        stuck = find_stuck(parts, time.monotonic())
        if stuck is None:
            sign()
            told = False
        elif not told:
            log.error("%s: heartbeats end, so that systemd restarts the daemon", stuck)
            told = True
        await asyncio.sleep(interval / HEARTBEATS_PER_INTERVAL)
