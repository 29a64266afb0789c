"""Who speaks MQTT and runs the loops: the one daemon that holds an advisory lock in PostgreSQL.

The lock lives as long as its connection, so a killed leader is replaced at once. A frozen one is not
noticed by the server; so the leader asks for a sign of life every other second, and a candidate who
sees the lock's connection silent for long ends that connection. The same connection listens for
notifications, which every daemon wants.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kosmo_billing_daemon.errors import Unavailable
from kosmo_billing_daemon.runtime.backoff import Backoff, LogThrottle
from kosmo_billing_daemon.runtime.health import Check
from kosmo_billing_daemon.store import leader_lock
from kosmo_billing_daemon.store.leader_lock import Term
from kosmo_billing_daemon.store.postgres import Connection, Database

log = logging.getLogger(__name__)

T = TypeVar("T")

UNLED_FOR = 30.0
"""Seconds without a leader after which no daemon is ready: replacing a frozen one takes half of that."""

CANDIDATE_EVERY = 1.0  # seconds between a candidate's tries
SIGN_OF_LIFE_EVERY = 2.0
ANSWER_WITHIN = 5.0  # seconds for the database to answer a sign of life
"""The two together must be less than ``leader_lock.SILENT_FOR``."""


class NotLeading(Unavailable):
    """This daemon does not lead, or not any more."""

    code = "not_leading"


class Leadership:
    """Holds or seeks the lock. ``notified`` receives the payload of every notification and
    the process id of the session that sent it.

    A leader that gave no sign of life for ``silent_for`` seconds counts as frozen.
    """

    def __init__(
        self,
        database: Database,
        notified: Callable[[str, int], None],
        *,
        silent_for: float = leader_lock.SILENT_FOR,
    ) -> None:
        self._database = database
        self._notified = notified
        self._silent_for = silent_for
        self._connection: Connection | None = None
        self._asking = asyncio.Lock()
        self._backoff = Backoff(0.2, 3.0)
        self._led_at = time.monotonic()
        self._throttle = LogThrottle()
        self.leads = False
        self.step_began: float | None = None  # monotonic; for the watchdog

    @property
    def role(self) -> str | None:
        """What this daemon does for the lock; None while it has no connection to hold or seek it with."""
        if self.leads:
            return "leads"
        return None if self._connection is None else "stands by"

    def unled_for(self, is_led: bool | None) -> float:
        """Return the seconds since any daemon was seen to lead; None is told where nothing can be seen."""
        now = time.monotonic()
        if is_led is not False:
            self._led_at = now
        return now - self._led_at

    def health(self, is_led: bool | None) -> tuple[bool, Check]:
        """Say whether any daemon leads, or did a moment ago, and what this one does for the lock."""
        unled, role = self.unled_for(is_led), self.role
        told = role or "no connection to the database for it"
        if unled > 0:
            told += f"; no leader for {unled:.0f} s"
        return unled <= UNLED_FOR, Check(role is not None and unled <= UNLED_FOR, told)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Seek the lock; run ``work`` while it is held, and cancel it when it is lost.

        ``work`` calls ``working`` once it has begun in earnest: a leader whose work fails before waits longer
        and longer until the next try.
        """
        while True:
            self.step_began = time.monotonic()
            try:
                self._connection = await self._database.connect(name="kosmo-billing leader", writable=True)
                try:
                    await leader_lock.listen(self._connection, self._notified)
                    # Whatever was notified while nobody listened is looked for.
                    self._notified("", 0)
                    await self._seek(self._connection)
                    await self._lead(work)
                finally:
                    self.leads = False
                    connection, self._connection = self._connection, None
                    connection.terminate()
            except Unavailable as error:
                if self._throttle.allows("database"):
                    log.warning("no leadership without the database: %s", error)
            await asyncio.sleep(self._backoff.failed())

    async def working(self) -> None:
        """Let everybody know that this daemon's work as leader has begun; raises ``NotLeading``."""
        await self._ask(leader_lock.show_work)
        self._backoff.succeeded()
        log.info("became leader")

    async def still_leading(self) -> Term:
        """Make sure, by asking the database, that this daemon leads; raises ``NotLeading``."""
        term = await self._ask(leader_lock.holds)
        if term is None:
            raise NotLeading("another daemon leads")
        return term

    async def _ask(self, question: Callable[[Connection, str], Awaitable[T]]) -> T:
        connection = self._connection
        if not self.leads or connection is None:
            raise NotLeading("this daemon does not lead")
        try:
            async with self._asking, asyncio.timeout(ANSWER_WITHIN):
                return await question(connection, self._database.schema)
        except (Unavailable, TimeoutError) as error:
            raise NotLeading(f"leadership cannot be confirmed: {error}") from error

    async def _seek(self, connection: Connection) -> None:
        waited = False
        while not await leader_lock.try_lock(connection, self._database.schema):
            if not waited:
                log.info("another daemon is the leader; this one serves HTTP and stands by")
                waited = True
            if await leader_lock.end_silent_leader(connection, self._database.schema, self._silent_for):
                log.warning(
                    "the leader had been silent for %.0f s; its connection was ended", self._silent_for
                )
            await asyncio.sleep(CANDIDATE_EVERY)
            self.step_began = time.monotonic()
            self._backoff.succeeded()  # the connection has lasted, and another daemon leads

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        self.leads = True
        task = asyncio.ensure_future(work())
        try:
            while not task.done():
                self.step_began = time.monotonic()
                await asyncio.wait([task], timeout=SIGN_OF_LIFE_EVERY)
                if not task.done():
                    await self.still_leading()
        finally:
            self.leads = False
            await _ended(task)
        # A leader's work ends only by an error; what is no outage is a bug and ends the process.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            raise error
        if error is not None and self._throttle.allows("leading"):
            log.warning("leading ended: %s", error)


async def _ended(task: asyncio.Future[None]) -> None:
    """Cancel until it is done: a cancellation that some library swallowed must not stop us for good."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=ANSWER_WITHIN)
    if not task.cancelled():
        task.exception()  # whoever is cancelled meanwhile asks for it no more
