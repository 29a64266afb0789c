"""Times and days as operators write them."""

from datetime import UTC, date, datetime, time, timedelta

from kosmo_billing_daemon.errors import Invalid


def read_time(given: str, name: str) -> datetime:
    """Read a time, in UTC if it does not say; raises ``Invalid``."""
    try:
        at = datetime.fromisoformat(given.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{given!r} is no time; write it as 2026-03-01T12:00Z", field=name) from None


def read_period(first: str, last: str) -> tuple[datetime, datetime]:
    """Return when a period of whole days (UTC) begins and ends; raises ``Invalid``."""
    begin, end = _midnight(first, "from", days=0), _midnight(last, "to", days=1)
    if end <= begin:
        raise Invalid("the last day must not be before the first one", field="to")
    return begin, end


def _midnight(given: str, name: str, *, days: int) -> datetime:
    """Return the beginning of a day, or of one so many days later."""
    try:
        return datetime.combine(date.fromisoformat(given), time(), UTC) + timedelta(days=days)
    except (ValueError, OverflowError):
        raise Invalid("a day as 2026-03-01 is needed", field=name) from None
