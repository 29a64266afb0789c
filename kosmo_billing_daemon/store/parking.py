"""Usage reports that wait until somebody else's transaction gives up a row that they need."""

from collections.abc import Sequence
from datetime import datetime

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection

MOST_PARKED = 10_000
"""Reports: beyond that one more is left to its sender, who repeats what was not answered."""

_PARK = f"""
INSERT INTO parked_reports (reporter, report_id, payload, parked_at)
SELECT reporter, report_id, payload, $4 FROM unnest($1::text[], $2::text[], $3::bytea[])
    AS report (reporter, report_id, payload)
WHERE (SELECT count(*) FROM (SELECT FROM parked_reports LIMIT {MOST_PARKED}) AS p) < {MOST_PARKED}
ON CONFLICT (reporter, report_id) DO NOTHING
"""


async def park(connection: Connection, reports: Sequence[tuple[str, str, bytes]], now: datetime) -> None:
    """Keep reports, given as reporter, id and payload, until they can be counted; a repeat is no second."""
    await connection.execute(_PARK, *zip(*reports, strict=True), now)


@record
class Parked:
    """A report that waits to be counted."""

    id: int
    reporter: str
    payload: bytes


async def load_parked(connection: Connection, limit: int, after: int = 0) -> list[Parked]:
    """Return the parked reports beyond the one with id ``after``, the oldest first."""
    rows = await connection.fetch(
        "SELECT id, reporter, payload FROM parked_reports WHERE id > $2 ORDER BY id LIMIT $1", limit, after
    )
    return [Parked(*row) for row in rows]


async def unpark(connection: Connection, ids: Sequence[int]) -> None:
    """Forget parked reports, in the transaction that counts them."""
    await connection.execute("DELETE FROM parked_reports WHERE id = ANY ($1::bigint[])", ids)
