"""Brings the schema forward at the start of a daemon, and waits for a database that is not there yet."""

import asyncio
import contextlib
import logging

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.store.migrations import migrate
from kosmo_billing_daemon.store.postgres import Database

log = logging.getLogger(__name__)


class SchemaUpgrade:
    """``waits_for`` says why the schema is not there yet; ``None`` once it is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.waits_for: str | None = "waiting for the database"

    async def run(self) -> None:
        """Return when the schema is the one that this version needs."""
        backoff, throttle = Backoff(0.2, 3.0), LogThrottle()
        while True:
            try:
                connection = await self._database.connect(name="kosmo-billing migrations")
                try:
                    for name in await migrate(connection, self._database.schema):
                        log.info("migration %s applied", name)
                finally:
                    with contextlib.suppress(Exception):
                        await connection.close(timeout=2)
            except Unavailable as error:
                self.waits_for = error.message
                if throttle.allows("database"):
                    log.warning("waiting for the database: %s", error)
                await asyncio.sleep(backoff.failed())
            else:
                self.waits_for = None
                return
