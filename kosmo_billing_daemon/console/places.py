"""Where a list goes on: the time and number of its last row, as they stand in an address."""

from datetime import datetime
from typing import Final

from kosmo_billing_daemon.admin.times import read_time
from kosmo_billing_daemon.errors import Invalid

_SEPARATOR: Final = "~"

Place = tuple[datetime, int]


def read_place(cursor: str) -> Place | None:
    """Return where a list goes on, ``None`` at its beginning; raises ``Invalid``."""
    if not cursor:
        return None
    at, _, number = cursor.partition(_SEPARATOR)
    try:
        place = read_time(at, "from"), int(number)
    except (Invalid, ValueError):
        place = None
    if place is None or not 0 <= place[1] < 2**63:
        raise Invalid("The address is none of ours: start with the first page.")
    return place


def write_place(place: Place) -> str:
    """Write it so that it needs no escaping in an address."""
    at, number = place
    return f"{at.isoformat().replace('+00:00', 'Z')}{_SEPARATOR}{number}"
