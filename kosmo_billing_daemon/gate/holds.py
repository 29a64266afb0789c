"""Holds: a message is checked and counted in one step, and reported once it is known to have passed.

Between a check and a count somebody else may take the last message, and a message that was allowed may
still fail: the radio refuses it, the mesh drops it. A hold counts from the moment it is given. Then it is
*committed*, which reports it, or *released*, which gives it back. One that nobody resolves in time is
committed or released by the gate's choice: a missing acknowledgement of the mesh is no proof of loss, so
committing is the default.

Holds are in the journal, so they survive a restart. Their time begins anew then, and a program that knows its
message ids may take them up again.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Self

from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.gate.decisions import UNKNOWN_USER, Decision, Reason, UserEntry, allowed
from kosmo_billing_daemon.gate.errors import NotJournaled
from kosmo_billing_daemon.gate.leases import LeaseBook
from kosmo_billing_daemon.gate.ledger import UsageLedger
from kosmo_billing_daemon.gate.rows import Row
from kosmo_billing_daemon.runtime.backoff import LogThrottle

log = logging.getLogger(__name__)


class OnTimeout(StrEnum):
    """What becomes of a hold that nobody resolves."""

    COMMIT = "commit"
    RELEASE = "release"


class HoldAnswer:
    """Whether a message may pass, which its truth says too, and the id under which it is reported; that is
    empty when it was refused and none was given.
    """

    __slots__ = ("decision", "message_id")

    def __init__(self, decision: Decision, message_id: str) -> None:
        self.decision = decision
        self.message_id = message_id

    def __bool__(self) -> bool:
        return self.decision.allowed

    @property
    def allowed(self) -> bool:
        """Whether the message may pass."""
        return self.decision.allowed

    @property
    def reason(self) -> Reason:
        """Why it may not pass, or ``ok``."""
        return self.decision.reason

    @property
    def remaining(self) -> int | None:
        """As in ``Decision``: what was left, this message included."""
        return self.decision.remaining


class Hold(HoldAnswer):
    """One message that may pass, or why it may not; made by ``hold`` of a gate.

    As a context manager it commits at a normal end and releases on an exception, unless either was done
    within. The end never raises for a full or locked disk, which ``status.unwritten`` shows.
    """

    __slots__ = ("_committed", "_holds", "_released", "_row")

    def __init__(self, holds: "Holds", row: Row, decision: Decision, *, committed: bool = False) -> None:
        super().__init__(decision, row.message_id)
        self._holds = holds
        self._row = row
        self._committed = committed
        self._released = False

    def commit(self) -> None:
        """Report the message: it passed. It counts also when it was released before.

        Committing twice is harmless. Raises ``NotJournaled`` as ``record`` does.
        """
        if not self.decision.allowed:
            raise RuntimeError(
                "a refused message cannot be committed; `record` counts what passed all the same"
            )
        if not self._committed:
            self._committed = True
            self._holds.commit(self._row)

    def release(self, reason: str = "") -> bool:
        """Give the message back: it did not pass. False when it counts already, as after its time is over."""
        if self._committed or not self.decision.allowed:
            return False
        self._released = True
        return self._holds.release(self._row, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.decision.allowed or self._committed or self._released:
            return
        if kind is not None:
            self.release(kind.__name__)
            return
        try:
            self.commit()
        except NotJournaled as full:
            self._holds.unwritten(full)


class Holds:
    """The holds of one gate. ``decide_and_hold`` never waits, so nothing comes between check and count."""

    def __init__(
        self,
        ledger: UsageLedger,
        entries: dict[int, UserEntry],
        elapsed: Callable[[], float],
        *,
        timeout: float,
        on_timeout: OnTimeout,
        on_commit: Callable[[], None],
        leases: LeaseBook | None,
    ) -> None:
        self.released = 0
        self._ledger = ledger
        self._entries = entries
        self._elapsed = elapsed
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._on_commit = on_commit
        self._leases = leases
        self._abandoned = set(ledger.held)  # of an earlier life: nobody has them in hand
        self._deadlines = dict.fromkeys(ledger.held, elapsed() + timeout)  # in the order of time
        self._closed = False
        self._throttle = LogThrottle()

    def decide_and_hold(self, row: Row, now: float) -> Hold:
        """Decide about a message and hold it if it may pass; ``Invalid`` when it is held already."""
        user = row.user
        key = user, row.message_id
        entry = self._entries.get(user)
        if entry is None:
            return Hold(self, row, UNKNOWN_USER)
        if key in self._ledger.held:
            return self._take_up(key, entry, now)
        decision = entry.decide(row.node, row.number, now)
        if (book := self._leases) is not None:
            decision = book.decide(user, entry, row.number, decision, now)
            if decision.reason in (Reason.OK, Reason.NO_LEASE):
                row = row._replace(lease=book.take(user, entry, row.number, now))
        if not decision.allowed:
            return Hold(self, row, decision)
        if not self._ledger.hold(row):
            if book is not None:
                book.give_back(user, row.lease, row.number)
            return Hold(self, row, decision, committed=True)
        self._deadlines[key] = self._elapsed() + self._timeout
        return Hold(self, row, decision)

    def commit(self, row: Row) -> None:
        """Let a message be reported; raises ``NotJournaled`` when that could not be written down yet."""
        self._check_open()
        self._forget(row)
        key = row.user, row.message_id
        if self._leases is not None and key not in self._ledger.held and not self._ledger.knows(row):
            # It was given back before, and its lease with it.
            lease = self._leases.take(row.user, self._entries.get(row.user), row.number, row.sent_at)
            row = row._replace(lease=lease)
        try:
            self._ledger.commit(row)
        finally:
            self._on_commit()

    def release(self, row: Row, reason: str) -> bool:
        """Give a message back; false when it is reported already."""
        self._check_open()
        self._forget(row)
        is_held = (row.user, row.message_id) in self._ledger.held
        if not self._ledger.release(row):
            return False
        if is_held and self._leases is not None:
            self._leases.give_back(row.user, row.lease, row.number)
        self.released += 1
        if self._throttle.allows("released"):
            log.info("message did not pass and was released: message=%s reason=%s", row.message_id, reason)
        return True

    def expire(self) -> None:
        """Resolve every hold whose time is over."""
        now = self._elapsed()
        while self._deadlines:
            key, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                return
            row = self._ledger.held.get(key)
            if row is None:
                del self._deadlines[key]
            elif self._on_timeout is OnTimeout.RELEASE:
                self.release(row, "its time was over")
            else:
                try:
                    self.commit(row)
                except NotJournaled as full:
                    self.unwritten(full)

    def close(self) -> None:
        """Resolve nothing any more: what is held waits in the file."""
        self._closed = True

    def unwritten(self, error: NotJournaled) -> None:
        """Say that a message is counted in memory alone, to whom cannot be raised."""
        if self._throttle.allows("disk"):
            log.error("message was counted and could not be written down yet: error=%s", error.message)

    def _take_up(self, key: tuple[int, str], entry: UserEntry, now: float) -> Hold:
        """Give a hold of an earlier life to whoever knows its id."""
        row = self._ledger.held[key]
        if key not in self._abandoned:
            raise Invalid(f"message_id: {row.message_id[:40]!r} is held already", field="message_id")
        weighs = row.number if row.sent_at >= entry.valid_from else 0
        entry.own -= weighs
        decision = entry.decide(row.node, row.number, now)
        entry.own += weighs
        if row.lease is not None and decision.reason is Reason.QUOTA_EXHAUSTED:
            decision = allowed(row.number)  # its lease set it apart
        if decision.allowed:
            self._forget(row)
            self._deadlines[key] = self._elapsed() + self._timeout
        return Hold(self, row, decision)

    def _forget(self, row: Row) -> None:
        key = row.user, row.message_id
        self._deadlines.pop(key, None)
        self._abandoned.discard(key)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the gate is not open; what is held is resolved at its next start")
