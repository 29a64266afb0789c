"""The gate itself: documents in memory, answers without a network, messages counted and reported.

One connection serves everything, since brokers may tie the client id to the user name. It starts clean
every time: a resumed session would not bring retained documents again, and what was queued meanwhile would
be cut short.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from kosmo_billing_daemon.backoff import Quiet
from kosmo_billing_daemon.clock import Clock, utc_now
from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH
from kosmo_billing_daemon.contract.payloads import MAX_COUNT
from kosmo_billing_daemon.contract.topics import Topics, is_name
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate.connection import Connection
from kosmo_billing_daemon.gate.decisions import UNKNOWN_USER, Decision, Entry, user_key
from kosmo_billing_daemon.gate.disk import Disk
from kosmo_billing_daemon.gate.documents import Documents
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.ledger import Ledger
from kosmo_billing_daemon.gate.reports import MessageIds, Reporter
from kosmo_billing_daemon.gate.state import Row, State
from kosmo_billing_daemon.gate.status import GateStatus
from kosmo_billing_daemon.gate.time_requests import TimeRequests
from kosmo_billing_daemon.gate.timekeeping import Timekeeper, since_boot
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.records import record

log = logging.getLogger(__name__)

HOUSEKEEPING = 10.0  # seconds
MARK_SAVED = 6  # every sixth housekeeping: a minute is what a reboot without a clock may lose of the time
REFRESH = 6 * 3600.0  # seconds between readings of everything
JOURNAL_LIMIT = 1_000_000  # messages, about 150 MB of file
ACK_TIMEOUT = 30.0  # seconds until a report is sent again


@record
class _Parts:
    """What an open gate consists of."""

    state: State
    journal: Journal
    ledger: Ledger
    documents: Documents
    reporter: Reporter | None
    disk: Disk
    connection: Connection
    threads: ThreadPoolExecutor


class Gate:
    """Decides at the edge; to be used with ``async with``, on one event loop.

    ``state`` is the file that survives restarts, one per gate. ``reporter`` is the MQTT user name under
    which usage is reported; ``None`` is a bridge, which only checks. ``refresh`` and ``ack_timeout`` are in
    seconds.
    """

    def __init__(
        self,
        broker: Broker,
        state: Path,
        *,
        reporter: str | None = None,
        topics: Topics | None = None,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        journal_limit: int = JOURNAL_LIMIT,
        ack_timeout: float = ACK_TIMEOUT,
        refresh: float = REFRESH,
    ) -> None:
        self._broker = broker
        self._path = state
        self._reporter_name = reporter
        self._topics = topics or Topics()
        self._clock = clock
        self._monotonic = monotonic
        self._journal_limit = journal_limit
        self._ack_timeout = ack_timeout
        self._refresh = refresh
        self._ids = MessageIds()
        self._entries: dict[int, Entry] = {}
        self._elapsed = since_boot if monotonic is time.monotonic else monotonic
        self._time = Timekeeper(0.0, clock, self._elapsed)
        self._open: _Parts | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("the gate is open already")
        async with AsyncExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="gate-disk"))
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(threads, State, self._path)
            stack.push_async_callback(_in, threads, state.close)
            self._time = Timekeeper(state.loaded.mark, self._clock, self._elapsed)
            parts = self._open = self._build(state, threads)
            stack.callback(self._forget)
            self._entries = parts.documents.entries
            stack.push_async_callback(self._save_last)
            for work in (parts.disk.run(), parts.connection.run(), self._keep_house(parts)):
                task = asyncio.create_task(work)
                task.add_done_callback(_tell)
                stack.push_async_callback(_end, task)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def check(self, user_id: UUID | str, node_id: str, *, count: int = 1) -> Decision:
        """Decide about ``count`` messages of a user to a node, now. Reads memory only, from any thread."""
        try:
            entry = self._entries[user_id.int if isinstance(user_id, UUID) else user_key(user_id)]
        except (KeyError, ValueError):
            return UNKNOWN_USER
        return entry.decide(node_id, count, self._time.now())

    def record(
        self,
        user_id: UUID | str,
        node_id: str,
        message_id: str | None = None,
        *,
        count: int = 1,
        sent_at: datetime | None = None,
    ) -> str:
        """Count a message that passed, and report it; returns its id, made if none is given.

        Counts at once, whatever ``check`` would say: it happened. The same message id of a user counts
        once. When it returns, the message survives ``kill -9``; a power cut may lose about the last second,
        see ``durable``. Raises ``NotJournaled`` when it is counted but could not be written down,
        ``Invalid`` when it is no message.
        """
        parts = self._parts
        if parts.reporter is None:
            raise RuntimeError("a gate without a reporter name only checks")
        user = _checked_user(user_id)
        now = self._time.now() if sent_at is None else sent_at.timestamp()
        if message_id is None:
            message_id = self._ids.next(now)
        _check_text("message_id", message_id)
        _check_text("node_id", node_id)
        if not 1 <= count <= MAX_COUNT:
            raise Invalid(f"count: 1 to {MAX_COUNT}", field="count")
        if parts.ledger.record(Row(0, user, message_id, node_id, count, now)):
            parts.disk.wrote()
            parts.reporter.wake()
        return message_id

    async def durable(self) -> None:
        """Wait until everything recorded so far survives a power cut; many waiters share one
        synchronisation.
        """
        await self._parts.disk.durable()

    async def ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  part of the contract
        """Wait until all documents are known, from the broker or from the file; raises ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            await self._parts.documents.ready.wait()

    @property
    def status(self) -> GateStatus:
        """How it stands; reads the file, so not for the hot path."""
        parts = self._parts
        unread = refused = oldest = None
        rejected = 0
        try:
            oldest = parts.journal.oldest_waiting()
            rejected = parts.journal.rejected()
            refused = parts.journal.refused()
        except sqlite3.Error as error:
            unread = f"the state file could not be read: {error}"
        problems = (
            unread,
            None if parts.reporter is None else parts.reporter.refusal,
            parts.documents.disk_error,
            parts.disk.error,
            parts.connection.error,
            *parts.connection.problems(),
            refused,
            self._time.problem(),
        )
        proven_at = self._time.proven_at
        return GateStatus(
            connected=parts.connection.connected,
            documents=len(self._entries),
            complete=parts.documents.complete,
            unacknowledged=parts.journal.waiting_rows,
            oldest_unacknowledged=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
            clock_trusted=self._time.trusted,
            clock_ahead=self._time.ahead,
            clock_proven_at=None if proven_at is None else datetime.fromtimestamp(proven_at, UTC),
            clock_corrected_by=self._time.corrected_by,
            daemon_online=parts.connection.daemon_online,
            malformed=parts.documents.malformed,
            rejected=rejected,
            problems=tuple(problem for problem in problems if problem is not None),
        )

    @property
    def _parts(self) -> _Parts:
        if self._open is None:
            raise RuntimeError("the gate is not open; use `async with`")
        return self._open

    def _build(self, state: State, threads: ThreadPoolExecutor) -> _Parts:
        journal = Journal(state)
        ledger = Ledger(journal, state.loaded.entries, self._journal_limit)
        documents = Documents(state, ledger, self._time)
        disk = Disk(state, threads)
        reporter = ack_topic = None
        name = self._reporter_name or self._broker.username or self._broker.client_id
        times = TimeRequests(self._time, self._topics, name) if is_name(name) else None
        if self._reporter_name is not None:
            ack_topic = self._topics.usage_ack(self._reporter_name)
            reporter = Reporter(
                journal,
                ledger,
                self._time,
                self._topics.usage(self._reporter_name),
                ack_topic,
                ack_timeout=self._ack_timeout,
                monotonic=self._monotonic,
            )
        connection = Connection(
            self._broker,
            self._topics,
            documents=documents,
            times=times,
            reporter=reporter,
            ack_topic=ack_topic,
            refresh=self._refresh,
            monotonic=self._monotonic,
        )
        return _Parts(state, journal, ledger, documents, reporter, disk, connection, threads)

    async def _keep_house(self, parts: _Parts) -> None:
        turn, quiet, saved = 0, Quiet(), 0.0
        while True:
            self._time.look()
            try:
                with parts.state.transaction():
                    if (steady_since := parts.connection.steady_since) is not None:
                        parts.ledger.settle(self._monotonic(), steady_since)
                    if turn % MARK_SAVED == 0 or self._time.mark < saved:
                        saved = self._time.mark
                        parts.state.save_fact("mark", self._time.mark)
                        parts.journal.forget_done()
                        parts.disk.wrote()
            except sqlite3.Error as error:
                if quiet.allows("disk"):
                    log.error("housekeeping of the state file failed: error=%s", error)  # noqa: TRY400  says it all
            turn += 1
            await asyncio.sleep(HOUSEKEEPING)

    async def _save_last(self) -> None:
        parts = self._parts
        try:
            parts.state.save_fact("mark", self._time.mark)
            parts.disk.wrote()
            await parts.disk.durable()
        except (OSError, sqlite3.Error) as error:
            log.error("state file could not be written at the end: error=%s", error)  # noqa: TRY400  says it all

    def _forget(self) -> None:
        self._open = None
        self._entries = {}  # a closed gate allows nothing


async def _in(threads: ThreadPoolExecutor, work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(threads, work)


def _tell(task: asyncio.Task[None]) -> None:
    """Log the defect that ended a part, at once and not only when the gate is closed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a part of the gate failed by a defect", exc_info=error)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for it; what broke it rises."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _checked_user(user_id: UUID | str) -> int:
    try:
        return user_id.int if isinstance(user_id, UUID) else UUID(user_id).int
    except ValueError as error:
        raise Invalid("user_id: a UUID", field="user_id") from error


def _check_text(name: str, value: str) -> None:
    if not 1 <= len(value) <= MAX_ID_LENGTH or "\x00" in value:
        raise Invalid(f"{name}: a text of 1 to {MAX_ID_LENGTH} characters", field=name)
