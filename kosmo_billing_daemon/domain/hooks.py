"""How long an endpoint that does not accept events is tried, and when it is switched off."""

from datetime import datetime, timedelta
from typing import Final

GIVEN_UP_AFTER: Final = timedelta(hours=24)
FIRST_WAIT: Final = timedelta(seconds=1)
LONGEST_WAIT: Final = timedelta(minutes=15)
GONE: Final = 410
"""The status by which an endpoint says that it wants no more events (Standard Webhooks)."""


def wait_after(failures: int, share: float, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after so many failures in a row.

    ``share`` between 0 and 1 is drawn at random, so that endpoints of one server are not tried in step.
    ``asked`` is what the endpoint itself asked for, by Retry-After.
    """
    ceiling = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 32))
    return min(LONGEST_WAIT, max(ceiling * (0.5 + share / 2), asked or timedelta()))


def reason_to_give_up(failing_since: datetime, now: datetime, status: int | None, answer: str) -> str | None:
    """Return why an endpoint that has just failed is to be switched off; ``None`` while it is tried again."""
    if status == GONE:
        return f"it wants no more events: {answer}"
    if now - failing_since >= GIVEN_UP_AFTER:
        return f"it accepted nothing for {GIVEN_UP_AFTER.total_seconds() / 3600:.0f} hours: {answer}"
    return None


def without_query(url: str) -> str:
    """Return a URL as it may be shown: a query may hold the token of whoever receives."""
    address, mark, _ = url.partition("?")
    return f"{address}?…" if mark else address
