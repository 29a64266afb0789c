"""What a gate says about itself."""

from datetime import datetime

from kosmo_billing_daemon.records import record


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
    problems: tuple[str, ...]

    @property
    def last_error(self) -> str | None:
        """The gravest problem."""
        return self.problems[0] if self.problems else None
