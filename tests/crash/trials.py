"""Runs trials: arm, act, die, start again, heal."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from kosmo_billing_daemon.store.postgres import Connection
from tests.crash.audit import Expected, retained_is_the_database
from tests.crash.paths import PATHS, Trial
from tests.crash.process import CrashingDaemon
from tests.support.daemon import WEBHOOK_SECRET, settings_for
from tests.support.mosquitto import Mosquitto
from tests.support.world import World, until, world_around

LATE = 1.5  # seconds a death may come after everything is done: a watermark waits for its second

_THROTTLE = """
SELECT NOT EXISTS (SELECT FROM lookups WHERE hinted_at IS NOT NULL)
    AND NOT EXISTS (SELECT FROM outbox)
"""


@dataclass(frozen=True)
class Plan:
    """On ``path``, die at the ``nth`` passage of ``line``: before or after, and the point."""

    path: str
    line: str
    nth: int = 1


class Range:
    """One installation whose daemon dies and comes again, and everybody who went through that."""

    def __init__(self, world: World, daemon: CrashingDaemon, connection: Connection) -> None:
        self.world = world
        self._daemon = daemon
        self._connection = connection
        self._past: list[tuple[Trial, Expected]] = []
        self._deaths: list[float] = []  # monotonic; noted when the next daemon listens
        self._keeping = asyncio.create_task(self._keep_alive())

    async def record(self, path: str, late: float = LATE) -> Counter[str]:
        """Go a path unharmed; count what is passed on it, and in the ``late`` seconds after its end."""
        await self._go(path)
        await asyncio.wait({self._keeping}, timeout=late)
        return Counter(self._daemon.passages())

    async def run(self, plan: Plan) -> float | None:
        """Run one trial; returns the seconds from death to health, ``None`` if the point was not passed.

        Fails when anything was lost or done twice.
        """
        before = len(self._deaths)
        trial = await self._go(plan.path, plan)
        with contextlib.suppress(AssertionError):
            await until(lambda: self._has_died(before), "a death", LATE)
        self._daemon.disarm()
        if not self._has_died(before):
            return None
        await self._until_healed(trial, plan.path)
        return time.monotonic() - self._deaths[before]

    async def tried(self, plan: Plan) -> float | str | None:
        """The same, with the failure as a text, so that the next trial can follow."""
        try:
            return await self.run(plan)
        except (AssertionError, TimeoutError) as error:
            self._past.pop()
            self._daemon.disarm()
            return str(error) or "an answer did not come"

    async def audit(self) -> None:
        """Look at everybody again, after all that died later; fail with everything that is not right."""
        wrong = [
            complaint
            for trial, expected in self._past
            if (complaint := await trial.complaint(expected, in_the_past=True)) is not None
        ]
        assert not wrong, wrong
        await until(self._is_everybody_told, "what is retained is the database")

    async def close(self) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def _go(self, path_name: str, plan: Plan | None = None) -> Trial:
        path = PATHS[path_name]
        observer = self.world.observer
        observer.messages.clear()
        observer.versions.clear()
        trial = Trial(self.world, self._daemon, self._connection)
        self._past.append((trial, path.end))
        invoice_id = await path.begin(trial)
        await self.world.simulator.drained()
        await until(self._is_quiet, "rest before the path")
        if path.at_start:
            await self.close()
            self._daemon.kill()
            await path.act(trial, invoice_id)
        self._daemon.forget_passages()
        if plan is not None:
            self._daemon.arm(plan.line, plan.nth)
        if path.at_start:
            self._daemon.launch()
            self._keeping = asyncio.create_task(self._keep_alive())
        else:
            await path.act(trial, invoice_id)
        await self._until_healed(trial, path_name)
        return trial

    async def _until_healed(self, trial: Trial, path_name: str) -> None:
        await trial.until_ended_as(PATHS[path_name].end)
        if PATHS[path_name].repairs_everybody:
            await until(self._is_everybody_told, "what is retained is the database")

    async def _is_quiet(self) -> bool:
        return bool(await self._connection.fetchval(_THROTTLE))

    async def _is_everybody_told(self) -> bool:
        rows = await self._connection.fetch("SELECT user_id FROM entitlements")
        users = [row["user_id"] for row in rows]
        return await retained_is_the_database(self.world, self._connection, users)

    def _has_died(self, before: int) -> bool:
        if self._keeping.done():
            self._keeping.result()
        return len(self._deaths) > before

    async def _keep_alive(self) -> None:
        while True:
            self._deaths.append(await self._daemon.revived())


@contextlib.asynccontextmanager
async def range_around(directory: Path, database_url: str) -> AsyncIterator[Range]:
    """A range whose daemon is ready."""
    async with (
        Mosquitto(max_queued_messages=0) as broker,
        world_around(directory, database_url, broker) as world,
        world.sql() as connection,
    ):
        settings = settings_for(
            database_url=database_url, broker=broker, btcpay_url=world.simulator.url, INSTANCE_NAME="crashing"
        )
        daemon = CrashingDaemon(directory, settings)
        world.daemons.append(daemon)
        await daemon.start()
        world.simulator.add_webhook(daemon.webhook_url, WEBHOOK_SECRET)
        await world.until_ready(daemon)
        crashes = Range(world, daemon, connection)
        try:
            yield crashes
        finally:
            await crashes.close()
