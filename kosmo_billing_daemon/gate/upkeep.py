"""What an open gate does now and then, and once more when it is closed."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable

from kosmo_billing_daemon.gate.files import sqlite_code
from kosmo_billing_daemon.gate.parts import Parts
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

HOUSEKEEPING = 10.0  # seconds
EVERY = 1.0  # seconds between looks at holds and leases, and attempts to write what could not be written
LAST_ATTEMPTS = 5  # of them when the gate is closed
MARK_SAVED = 6  # every sixth housekeeping: a minute is what a reboot without a clock may lose of the time


class Upkeep:
    """The loops of one open gate."""

    def __init__(self, parts: Parts, timekeeper: Timekeeper, monotonic: Callable[[], float]) -> None:
        self._parts = parts
        self._time = timekeeper
        self._monotonic = monotonic
        self._throttle = LogThrottle()

    async def keep_house(self) -> None:
        """Look at the clock, settle what documents include, and save the time."""
        turn, saved, parts = 0, 0.0, self._parts
        while True:
            self._time.look()
            try:
                if (steady_since := parts.connection.steady_since) is not None:
                    parts.ledger.settle(self._monotonic(), steady_since)
                if turn % MARK_SAVED == 0 or self._time.mark < saved:
                    with parts.state.transaction():
                        saved = self._time.mark
                        parts.state.save_fact("mark", self._time.mark)
                        parts.journal.forget_done()
                    parts.disk.wrote()
            except sqlite3.Error as error:
                if self._throttle.allows("disk"):
                    log.error("housekeeping of the state file failed: error=%s", error)  # noqa: TRY400  says it all
            turn += 1
            await asyncio.sleep(HOUSEKEEPING)

    async def keep_time(self) -> None:
        """Resolve holds and leases whose time is over. Write down what could not be written, as soon as the
        disk is well or somebody's lock is gone.
        """
        parts = self._parts
        while True:
            await asyncio.sleep(EVERY)
            parts.holds.expire()
            with contextlib.suppress(sqlite3.Error):  # it is in the status
                if parts.leases is not None:
                    parts.leases.tidy({row.lease for row in parts.ledger.held.values()})
                if parts.state.error is not None or parts.ledger.unwritten:
                    self._write()

    async def save_last(self) -> None:
        """Write down everything before the file is closed."""
        parts = self._parts
        for attempt in range(1, LAST_ATTEMPTS + 1):
            try:
                self._write()
                parts.disk.wrote()
                if parts.state.path is not None:
                    await parts.disk.durable()
            except (OSError, sqlite3.Error) as error:
                if attempt == LAST_ATTEMPTS or sqlite_code(error) != sqlite3.SQLITE_BUSY:
                    log.error("state file could not be written at the end: error=%s", error)  # noqa: TRY400  says it all
                    return
                await asyncio.sleep(EVERY)
            else:
                return

    def _write(self) -> None:
        parts = self._parts
        parts.documents.save_again()
        while parts.ledger.write_unwritten():
            parts.disk.wrote()
        parts.state.error = None
        if parts.reporter is not None:
            parts.reporter.apply_again()
