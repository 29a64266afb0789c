"""On which subscription a message counts and which thresholds that crosses: the rule, for one at a time.

The database decides it in sets; tests compare the two.
"""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.contract.payloads import QuotaState
from kosmo_billing_daemon.domain.entitlements import quota_state
from kosmo_billing_daemon.domain.subscriptions import Subscription

WARNING_AT, EXHAUSTED_AT = 80, 100
"""The thresholds in percent, each announced once per subscription."""

_REACHED = {QuotaState.OK: 0, QuotaState.WARNING: WARNING_AT, QuotaState.EXHAUSTED: EXHAUSTED_AT}


def attributed(history: Sequence[Subscription], sent_at: datetime, now: datetime) -> Subscription | None:
    """Return the purchase that a message counts on: the newest one valid when it was sent.

    ``history`` is in the order of fulfilment. A revoked purchase counts what was sent until then. What begins
    in the future was bought before the clock was set back, and is valid already.
    """
    for row in reversed(history):
        if min(row.valid_from, now) <= sent_at < (row.ended_at or row.end):
            return row
    return None


def thresholds_crossed(announced: int, used: int, limit: int | None) -> tuple[int, ...]:
    """Return the thresholds to announce now; a jump over both is both."""
    reached = _REACHED[quota_state(used, limit)]
    return tuple(at for at in (WARNING_AT, EXHAUSTED_AT) if announced < at <= reached)
