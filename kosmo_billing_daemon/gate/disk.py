"""Waiting for the disk, in a thread of its own: one synchronisation serves every commit before it.

``kill -9`` loses nothing that was committed. A power cut loses what was committed in about the last second,
unless ``durable`` was awaited: synchronising each message at once would wear an SD card out.
"""

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from kosmo_billing_daemon.gate.errors import NotJournaled
from kosmo_billing_daemon.gate.files import fsync_path
from kosmo_billing_daemon.gate.state import StateFile, checkpoint
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)

PACE = 1.0  # seconds between synchronisations nobody waits for
LOG_SIZE = 1 << 20  # bytes of write-ahead log worth a checkpoint


class Disk:
    """Makes commits to ``state`` durable."""

    def __init__(self, state: StateFile, threads: ThreadPoolExecutor) -> None:
        self.error: str | None = None
        self._state = state
        self._threads = threads
        self._written = 0
        self._synchronised = 0
        self._dirty = asyncio.Event()
        self._turn = asyncio.Lock()
        self._throttle = LogThrottle()

    def wrote(self) -> None:
        """Note that something was committed."""
        self._written += 1
        self._dirty.set()

    async def durable(self) -> None:
        """Return when everything committed so far survives a power cut; raises ``OSError`` when it cannot,
        ``NotJournaled`` without a file.
        """
        wal = self._state.wal
        if wal is None:
            raise NotJournaled("this gate has no state file, so nothing it counts outlives the program")
        mine = self._written
        async with self._turn:
            if self._synchronised >= mine:
                return
            everything = self._written
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, fsync_path, wal)
            self._synchronised = everything

    async def run(self) -> None:
        """Synchronise at leisure, and keep the write-ahead log short."""
        loop = asyncio.get_running_loop()
        path, wal = self._state.path, self._state.wal
        if path is None or wal is None:
            return
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.durable()
                if wal.stat().st_size > LOG_SIZE:
                    await loop.run_in_executor(self._threads, checkpoint, path)
                self.error = None
            except (OSError, sqlite3.Error) as error:
                self._dirty.set()  # try again, and see when it is over
                self.error = f"the state file could not be synchronised: {error}"
                if self._throttle.allows("disk"):
                    log.error("state file could not be synchronised: error=%s", error)  # noqa: TRY400  says it all
            await asyncio.sleep(PACE)
