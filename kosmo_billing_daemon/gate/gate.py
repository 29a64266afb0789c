"""The gate itself: documents in memory, answers without a network, messages counted and reported.

One connection serves everything, since brokers may tie the client id to the user name. It starts clean
every time: a resumed session would not bring retained documents again, and what was queued meanwhile would
be cut short.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Literal, Self, TypedDict
from uuid import UUID

from kosmo_billing_daemon.contract.topics import Topics, is_name
from kosmo_billing_daemon.gate.connection import Connection
from kosmo_billing_daemon.gate.decisions import UNKNOWN_USER, Decision, UserEntry
from kosmo_billing_daemon.gate.disk import Disk
from kosmo_billing_daemon.gate.documents import Documents
from kosmo_billing_daemon.gate.holds import Hold, Holds, OnTimeout
from kosmo_billing_daemon.gate.journal import Journal
from kosmo_billing_daemon.gate.lease_rows import LeaseRows, check_owner
from kosmo_billing_daemon.gate.leases import LeaseBook
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.messages import (
    checked_count,
    checked_id,
    checked_node,
    checked_time,
    checked_user,
)
from kosmo_billing_daemon.gate.parts import Parts
from kosmo_billing_daemon.gate.reports import MessageIds, Reporter
from kosmo_billing_daemon.gate.rows import MessageStage, Row
from kosmo_billing_daemon.gate.state import StateFile
from kosmo_billing_daemon.gate.status import GateStatus, status_of
from kosmo_billing_daemon.gate.time_requests import TimeRequests
from kosmo_billing_daemon.gate.timekeeping import Timekeeper, since_boot
from kosmo_billing_daemon.gate.upkeep import Upkeep
from kosmo_billing_daemon.link import Broker
from kosmo_billing_daemon.runtime.clock import Clock, utc_now

log = logging.getLogger(__name__)

REFRESH = 6 * 3600.0  # seconds between readings of everything
JOURNAL_LIMIT = 1_000_000  # messages, about 150 MB of file
ACK_TIMEOUT = 30.0  # seconds until a report is sent again
HOLD_TIMEOUT = 120.0  # seconds until a hold that nobody resolves is resolved: a mesh retries for a minute

_ONE = 1  # the very object, which True and 1.0 are not: the quickest way past the check of a count


class GateOptions(TypedDict, total=False):
    """What ``Gate`` takes by name."""

    reporter: str | None
    topics: Topics | None
    clock: Clock
    monotonic: Callable[[], float]
    journal_limit: int
    ack_timeout: float
    refresh: float
    hold_timeout: float
    on_timeout: OnTimeout | Literal["commit", "release"]
    strict: bool


class Gate:
    """Decides at the edge; to be used with ``async with``, on one event loop.

    ``state`` is the file that survives restarts, one per gate. ``None`` is for a machine without a disk to
    write to: everything is in memory, so a restart forgets what was not reported, and a gate that starts
    without the broker allows nobody anything. ``reporter`` is the MQTT user name under
    which usage is reported; ``None`` is a bridge, which only checks. A hold that nobody resolved within
    ``hold_timeout`` is dealt with as ``on_timeout`` says: ``"commit"`` or ``"release"``. Times are seconds.
    A ``strict`` gate lets messages of a limited plan pass by leases alone, so that it never oversells
    together with other strict ones.
    """

    def __init__(
        self,
        broker: Broker,
        state: Path | None,
        *,
        reporter: str | None = None,
        topics: Topics | None = None,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        journal_limit: int = JOURNAL_LIMIT,
        ack_timeout: float = ACK_TIMEOUT,
        refresh: float = REFRESH,
        hold_timeout: float = HOLD_TIMEOUT,
        on_timeout: OnTimeout | Literal["commit", "release"] = OnTimeout.COMMIT,
        strict: bool = False,
    ) -> None:
        if strict and reporter is None:
            raise ValueError("a strict gate needs the name that it reports under; a bridge needs no leases")
        self._broker = broker
        self._path = None if state is None else Path(state)
        self._reporter_name = reporter
        self._topics = topics or Topics()
        self._clock = clock
        self._monotonic = monotonic
        self._journal_limit = journal_limit
        self._ack_timeout = ack_timeout
        self._refresh = refresh
        self._hold_timeout = hold_timeout
        self._on_timeout = OnTimeout(on_timeout)
        self._strict = strict
        self._leases: LeaseBook | None = None
        self._ids = MessageIds()
        self._nodes: dict[str, str] = {}  # each id as it was given → as whitelists have it
        self._entries: dict[int, UserEntry] = {}
        self._elapsed = since_boot if monotonic is time.monotonic else monotonic
        self._time = Timekeeper(0.0, clock, self._elapsed)
        self._open: Parts | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("the gate is open already")
        async with AsyncExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="gate-disk"))
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(threads, StateFile, self._path)
            stack.push_async_callback(_in, threads, state.close)
            self._time = Timekeeper(state.loaded.mark, self._clock, self._elapsed)
            parts = self._open = self._build(state, threads)
            stack.callback(self._forget)
            self._entries, self._leases = parts.documents.entries, parts.leases
            upkeep = Upkeep(parts, self._time, self._monotonic)
            stack.push_async_callback(upkeep.save_last)
            works = (
                parts.disk.run(),
                parts.connection.run(),
                upkeep.keep_house(),
                upkeep.keep_time(),
            )
            for work in works:
                task = asyncio.create_task(work)
                task.add_done_callback(_tell)
                stack.push_async_callback(_end, task)
            stack.callback(parts.connection.close)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    def check(self, user_id: UUID | str, node_id: str, *, count: int = 1) -> Decision:
        """Decide about ``count`` messages of a user to a node, now. Reads memory only, from any thread.

        For asking, not for sending: until the message is counted, somebody else may take the last one.
        ``hold`` does both in one step. Raises ``Invalid`` for what ``record`` would not take.
        """
        if count is not _ONE:
            checked_count(count)
        try:
            node = self._nodes[node_id]
            if isinstance(user_id, UUID):
                entry = self._entries[user_id.int]
            elif len(user_id) == 36:
                entry = self._entries[int(user_id.replace("-", ""), 16)]
            else:
                entry = self._entries[checked_user(user_id)]
        except (AttributeError, KeyError, TypeError, ValueError):
            node = checked_node(node_id, self._nodes)
            found = self._entries.get(checked_user(user_id))
            if found is None:
                return UNKNOWN_USER
            entry = found
        decision = entry.decide(node, count, now := self._time.now())
        if self._leases is not None:
            return self._leases.decide(checked_user(user_id), entry, count, decision, now)
        return decision

    def hold(
        self, user_id: UUID | str, node_id: str, message_id: str | None = None, *, count: int = 1
    ) -> Hold:
        """Decide about a message and count it in one step, so that nobody else can take what it holds.

        ``commit`` of the result reports it, ``release`` gives it back; as a context manager it commits at a
        normal end and releases on an exception. What is held survives ``kill -9``. The same message id of a
        user counts once: one that is counted already may pass again, one that is held now is ``Invalid``, and
        one that was held before a restart is taken up again.
        """
        parts = self._parts
        if parts.reporter is None:
            raise RuntimeError("a gate without a reporter name only checks")
        node, user = checked_node(node_id, self._nodes), checked_user(user_id)
        checked_count(count)
        now = self._time.now()
        message_id = self._ids.next(now) if message_id is None else checked_id("message_id", message_id)
        row = Row(0, user, message_id, node, count, now, MessageStage.HELD)
        return parts.holds.decide_and_hold(row, now)

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

        Counts at once, whatever ``check`` would say: it happened. So it cannot promise that the quota is
        kept: of two tasks that checked before either recorded, both may have sent the last message, and what
        the radio refused counts as well. ``hold`` keeps both promises. The same message id of a user counts
        once. When it returns, the message survives ``kill -9``; a power cut may lose about the last second,
        see ``durable``. ``sent_at`` carries its time zone and lies between seven days before now and a day
        after it. Raises ``NotJournaled`` when it is counted but not written down yet, which the gate does
        later; ``Invalid`` when it is no message.
        """
        parts = self._parts
        if parts.reporter is None:
            raise RuntimeError("a gate without a reporter name only checks")
        user = checked_user(user_id)
        node = checked_node(node_id, self._nodes)
        checked_count(count)
        now = self._time.now()
        at = now if sent_at is None else checked_time(sent_at, now)
        if message_id is None:
            message_id = self._ids.next(at)
        checked_id("message_id", message_id)
        lease = None if parts.leases is None else parts.leases.take(user, self._entries.get(user), count, now)
        if parts.ledger.record(Row(0, user, message_id, node, count, at, lease=lease)):
            parts.disk.wrote()
            parts.reporter.wake()
        return message_id

    async def leased(self, user_id: UUID | str, timeout: float | None = None) -> None:  # noqa: ASYNC109  part of the contract
        """Wait until this strict gate holds a lease of the user, after ``hold`` said ``no_lease``; not where
        none is needed, or none would help. Raises ``TimeoutError``.
        """
        async with asyncio.timeout(timeout):
            if self._parts.leases is not None:
                await self._parts.leases.available(checked_user(user_id))

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
        return status_of(self._parts, self._time)

    @property
    def _parts(self) -> Parts:
        if self._open is None:
            raise RuntimeError("the gate is not open; use `async with`")
        return self._open

    def _build(self, state: StateFile, threads: ThreadPoolExecutor) -> Parts:
        journal = Journal(state)
        ledger = UsageLedger(journal, state.loaded.entries, self._journal_limit)
        documents = Documents(state, ledger, self._time)
        disk = Disk(state, threads)
        reporter = leases = None
        name = self._reporter_name or self._broker.username or self._broker.client_id
        times = TimeRequests(self._time, self._topics, name) if is_name(name) else None
        if self._reporter_name is not None:
            reporter = Reporter(
                journal,
                ledger,
                self._time,
                self._topics.usage(self._reporter_name),
                self._topics.usage_ack(self._reporter_name),
                ack_timeout=self._ack_timeout,
                monotonic=self._monotonic,
            )
        if self._strict and self._reporter_name is not None:
            check_owner(state, self._reporter_name)
            leases = LeaseBook(
                LeaseRows(state),
                documents.entries,
                self._topics,
                self._reporter_name,
                now=self._time.now,
                elapsed=self._elapsed,
            )

        def on_commit() -> None:
            disk.wrote()
            if reporter is not None:
                reporter.wake()

        holds = Holds(
            ledger,
            documents.entries,
            self._elapsed,
            timeout=self._hold_timeout,
            on_timeout=self._on_timeout,
            on_commit=on_commit,
            leases=leases,
        )
        connection = Connection(
            self._broker,
            self._topics,
            documents=documents,
            times=times,
            reporter=reporter,
            leases=leases,
            refresh=self._refresh,
            monotonic=self._monotonic,
        )
        return Parts(state, journal, ledger, holds, leases, documents, reporter, disk, connection)

    def _forget(self) -> None:
        self._parts.holds.close()
        self._open = self._leases = None
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
