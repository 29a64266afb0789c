"""What a gate says about itself."""

import sqlite3
from datetime import UTC, datetime

from kosmo_billing_daemon.gate.parts import Parts
from kosmo_billing_daemon.gate.timekeeping import Timekeeper
from kosmo_billing_daemon.runtime.records import record


@record(kw_only=True)
class GateStatus:
    """A moment of a gate.

    ``complete``: on this or an earlier connection it had every document that exists.
    ``oldest_unacknowledged``: when the oldest message was sent that the daemon has not confirmed.
    ``clock_trusted``: false while the system clock is known to be wrong and the gate goes by its own.
    ``clock_ahead``: how many seconds the system clock is ahead of the gate's time; negative is behind.
    ``clock_proven_at``: when the daemon last told the time; ``None`` is not since the gate was opened.
    ``clock_corrected_by``: by how many seconds the daemon's time last moved the gate's, if by more than a
    minute; negative when it had run ahead.
    ``daemon_online``: ``None`` when nobody said.
    ``held``: messages that may pass and were neither committed nor released yet.
    ``leased``: messages that a strict gate may still let through by its leases.
    ``released``: messages since the gate was opened that did not pass after all and were given back.
    ``duplicates``: messages since the gate was opened that were not counted, for their ids were known here or
    at the daemon: they were recorded twice, or ids are used again, as packet ids after a reboot of the radio.
    ``unwritten``: messages that are in memory alone until the disk takes them.
    ``loss``: what was lost with a damaged state file, as long as the file set aside is there.
    ``problems``: everything that is wrong now, in words, the gravest first.
    """

    connected: bool
    documents: int
    complete: bool
    unacknowledged: int
    oldest_unacknowledged: datetime | None
    clock_trusted: bool
    clock_ahead: float
    clock_proven_at: datetime | None
    clock_corrected_by: float | None
    daemon_online: bool | None
    malformed: int
    rejected: int
    held: int
    leased: int
    released: int
    duplicates: int
    unwritten: int
    loss: str | None
    problems: tuple[str, ...]

    @property
    def last_error(self) -> str | None:
        """The gravest problem."""
        return self.problems[0] if self.problems else None


def status_of(parts: Parts, timekeeper: Timekeeper) -> GateStatus:
    """Ask every part of an open gate."""
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
        parts.state.error,
        parts.disk.error,
        parts.connection.error,
        *parts.connection.problems(),
        refused,
        parts.state.loss,
        timekeeper.problem(),
    )
    proven_at = timekeeper.proven_at
    return GateStatus(
        connected=parts.connection.connected,
        documents=len(parts.documents.entries),
        complete=parts.documents.complete,
        unacknowledged=parts.journal.waiting_rows,
        oldest_unacknowledged=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
        clock_trusted=timekeeper.trusted,
        clock_ahead=timekeeper.ahead,
        clock_proven_at=None if proven_at is None else datetime.fromtimestamp(proven_at, UTC),
        clock_corrected_by=timekeeper.corrected_by,
        daemon_online=parts.connection.daemon_online,
        malformed=parts.documents.malformed,
        rejected=rejected,
        held=len(parts.ledger.held),
        leased=0 if parts.leases is None else parts.leases.left,
        released=parts.holds.released,
        duplicates=parts.ledger.repeated + (0 if parts.reporter is None else parts.reporter.duplicates),
        unwritten=parts.ledger.unwritten,
        loss=parts.state.loss,
        problems=tuple(problem for problem in problems if problem is not None),
    )
