"""What a reported message counts for: when, on which subscription, and which thresholds that crosses.

The database decides the same in sets (the statements of metering and the trigger on ``subscriptions``,
so that a gateway that counts by SQL crosses the same thresholds); tests compare the two.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from kosmo_billing_daemon.domain.entitlements import QuotaState, quota_state
from kosmo_billing_daemon.domain.subscriptions import Subscription, current

ACCEPTED_LATE = timedelta(days=7)
"""How long after sending a message is still counted. Ids are remembered longer, so none counts twice."""

TOO_OLD = "too_old"
"""Why an event is rejected that comes later; part of the contract."""

WARNING_AT, EXHAUSTED_AT = 80, 100
"""The thresholds in percent, each announced once per subscription."""

_REACHED = {QuotaState.OK: 0, QuotaState.WARNING: WARNING_AT, QuotaState.EXHAUSTED: EXHAUSTED_AT}


class Decision(StrEnum):
    """How a message was counted."""

    COUNTED = "counted"
    OVER_LIMIT = "over_limit"  # counted too: it happened
    NO_SUBSCRIPTION = "no_subscription"  # remembered, but nothing to count it on


def counts_as_sent(sent_at: datetime, now: datetime) -> datetime | None:
    """Return when a message counts as sent: never in the future; ``None`` when it is too old to count."""
    if sent_at > now:
        return now
    return sent_at if now - sent_at <= ACCEPTED_LATE else None


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


def ends_shortage(before: Sequence[Subscription], after: Sequence[Subscription]) -> bool:
    """Say whether a purchase took a user from a short quota back to an ample one."""
    old, new = current(before), current(after)
    if old is None or new is None or old.id == new.id:
        return False
    return (
        quota_state(old.messages_used, old.messages_limit) is not QuotaState.OK
        and quota_state(new.messages_used, new.messages_limit) is QuotaState.OK
    )
