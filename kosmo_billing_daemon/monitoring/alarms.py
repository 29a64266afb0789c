"""Tells operators when the service got worse, or well again, for longer than a minute.

The rule it keeps: what operators were told is what the last such event says, so a new leader neither repeats
nor forgets. Without the database nothing can be told; then it is told afterwards, as of when it was.
"""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from kosmo_billing_daemon.contract.encoding import ANY_UUID, rfc3339
from kosmo_billing_daemon.runtime.clock import Clock
from kosmo_billing_daemon.runtime.loop import Loop
from kosmo_billing_daemon.store import events
from kosmo_billing_daemon.store.combining import combine
from kosmo_billing_daemon.store.events import Event
from kosmo_billing_daemon.store.postgres import Connection, Pool
from kosmo_billing_daemon.web.health import Readiness

EVERY: Final = 10.0  # seconds between looks at the state
LASTS: Final = 60.0  # seconds after which a change is told

DEGRADED: Final = "billing.degraded"
RECOVERED: Final = "billing.recovered"


class Alarms:
    """Every daemon watches itself; the one that leads tells what it saw. ``changed`` wakes the publisher."""

    def __init__(
        self,
        *,
        pool: Pool,
        clock: Clock,
        readiness: Callable[[], Awaitable[Readiness]],
        leads: Callable[[], bool],
        changed: Callable[[], None],
        instance: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._readiness = readiness
        self._leads = leads
        self._changed = changed
        self._instance = instance
        self._monotonic = monotonic
        self._failing: dict[str, float] = {}  # since when, by the monotonic clock
        self._well_since: float | None = None
        self._untold: tuple[frozenset[str], Event] | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        await Loop("alarms", self.run_once, clock=self._clock, poll=EVERY).run()

    async def run_once(self) -> int:
        """Look, and tell what has lasted; returns how many events that made."""
        readiness = await self._readiness()
        lasting = self._observe(readiness)
        if lasting:
            self._untold = lasting, self._degraded(readiness, lasting)
        if not self._leads():
            if "database" not in self._failing:
                self._untold = None  # whoever leads tells it
            return 0
        async with self._pool.transaction() as connection:
            told = await self._tell(connection)
        self._untold = None
        if told:
            self._changed()
        return told

    def _observe(self, readiness: Readiness) -> frozenset[str]:
        """Return the checks that have been failing for long enough to be told."""
        now = self._monotonic()
        failing = {name for name, check in readiness.checks.items() if not check.ok}
        self._failing = {name: self._failing.get(name, now) for name in failing}
        if failing:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        return frozenset(name for name, since in self._failing.items() if now - since >= LASTS)

    def _degraded(self, readiness: Readiness, lasting: frozenset[str]) -> Event:
        now = self._clock()
        began = min(self._failing[name] for name in lasting)
        return self._event(
            DEGRADED,
            now,
            status=readiness.status,
            since=now - timedelta(seconds=self._monotonic() - began),
            problems={name: ANY_UUID.sub("…", readiness.checks[name].detail) for name in sorted(lasting)},
        )

    async def _tell(self, connection: Connection) -> int:
        last = await events.load_last(connection, (DEGRADED, RECOVERED))
        told = frozenset(last.data["problems"]) if last is not None and last.type == DEGRADED else frozenset()
        new: list[Event] = []
        if self._untold is not None and not self._untold[0] <= told:
            new.append(self._untold[1])
            told, last = self._untold
        is_well = self._well_since is not None and self._monotonic() - self._well_since >= LASTS
        if told and is_well and last is not None:
            now = self._clock()
            new.append(self._event(RECOVERED, now, status="ready", since=last.data["since"]))
        await combine(connection, [events.append_statement(new)])
        return len(new)

    def _event(self, event_type: str, now: datetime, *, since: datetime | str, **more: object) -> Event:
        written = since if isinstance(since, str) else rfc3339(since)
        facts = {**more, "since": written, "instance": self._instance}
        return Event(type=event_type, user_id=None, data=facts, occurred_at=now)
