"""When a reported message counts as sent, how it was counted, and when a shortage of messages ends.

On which subscription messages count, and which thresholds that crosses, the database decides in sets: in the
statements of ``store/usage.py`` and in the trigger on ``subscriptions``, so that a gateway that counts by SQL
crosses the same thresholds.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from kosmo_billing_daemon.contract.payloads import QuotaState
from kosmo_billing_daemon.domain.entitlements import quota_state
from kosmo_billing_daemon.domain.subscriptions import Subscription, current

ACCEPTED_LATE = timedelta(days=7)
"""How long after sending a message is still counted. Ids are remembered longer, so none counts twice."""

TOO_OLD = "too_old"
"""Why an event is rejected that comes later; part of the contract."""

USER_ERASED = "user_erased"
"""Why an event is rejected whose user was erased a short time ago; part of the contract."""


class UsageDecision(StrEnum):
    """How a message was counted."""

    COUNTED = "counted"
    OVER_LIMIT = "over_limit"  # counted too: it happened
    NO_SUBSCRIPTION = "no_subscription"  # remembered, but nothing to count it on


def counts_as_sent(sent_at: datetime, now: datetime) -> datetime | None:
    """Return when a message counts as sent: never in the future; ``None`` when it is too old to count."""
    if sent_at > now:
        return now
    return sent_at if now - sent_at <= ACCEPTED_LATE else None


def ends_shortage(before: Sequence[Subscription], after: Sequence[Subscription]) -> bool:
    """Say whether a purchase took a user from a short quota back to an ample one."""
    old, new = current(before), current(after)
    if old is None or new is None or old.id == new.id:
        return False
    return (
        quota_state(old.messages_used, old.messages_limit) is not QuotaState.OK
        and quota_state(new.messages_used, new.messages_limit) is QuotaState.OK
    )
