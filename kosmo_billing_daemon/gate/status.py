"""What a gate says about itself."""

from datetime import datetime

from kosmo_billing_daemon.records import record


@record(kw_only=True)
class GateStatus:
    """A moment of a gate.

    ``complete``: on this or an earlier connection it had every document that exists.
    ``oldest_unacknowledged``: when the oldest message was sent that the daemon has not confirmed.
    ``clock_trusted``: false while the system clock is known to be wrong and the gate goes by its own.
    ``daemon_online``: ``None`` when nobody said.
    """

    connected: bool
    documents: int
    complete: bool
    unacknowledged: int
    oldest_unacknowledged: datetime | None
    clock_trusted: bool
    daemon_online: bool | None
    malformed: int
    rejected: int
    last_error: str | None
