"""Time as an argument: whoever needs *now* receives a ``Clock``."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the aware UTC time of the system clock."""
    return datetime.now(UTC)
