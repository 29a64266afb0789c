"""What a session must have in force, whatever server, database and role have as defaults.

The rule it keeps: every setting that correctness depends on is requested by us when a session begins (which
overrides postgresql.conf, ALTER DATABASE and ALTER ROLE), and each new session is asked, in one round trip,
whether it has them. One that has not does not talk to PostgreSQL itself: a connection pooler dropped the
request, or shares its own connections between us and others. ``default_transaction_read_only`` alone is not
overridden: operators and hosters stop all writing by it, on purpose.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kosmo_billing_daemon.store.sessions import Session

POOLER = "a connection pooler stands between; connect to PostgreSQL directly"
POOLER_ADVICE = (
    "name PostgreSQL's own host and port in DATABASE_URL: LISTEN, session locks and settings need it"
)

PINNED: Mapping[str, str] = MappingProxyType(
    {
        # A stricter one takes its snapshot before the lock that a transaction begins with is had, and so does
        # not see what the one before it has committed.
        "default_transaction_isolation": "read committed",
        "row_security": "off",  # an error instead of rows that are silently left out
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
        # Our own limit for a statement is that of the driver, which also ends it.
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "1min",
        # Others who write our tables may leave a transaction open: only what needs those rows waits for it.
        "lock_timeout": "500ms",
        # Planned once, since planning takes as long as most of our statements. So a plan must be good
        # for any size of tables that may have been empty when it was made: row by row along an index.
        # (A bitmap reads all of what waits, and never learns that it waits no more.)
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        # Our own: a default in the schema. Each Database has its number, from REMIND_HOURS.
        "kosmo_billing.reminder_hours": "168",
        "jit": "off",  # before 18, a scan that is off counts as dear enough to be compiled
    }
)
"""Requested from each session; values are written as PostgreSQL shows them."""

_REPLICA = "session_replication_role"

# Set by the question itself: an older server that does not know one would refuse the whole session.
_UNLESS_UNKNOWN = ("idle_session_timeout", "transaction_timeout")
_ASKED = """
SELECT name, present FROM (VALUES
    ('backend', pg_backend_pid()::text, {process_id}),
    ('client_encoding', current_setting('client_encoding'), 'UTF8'),
    ('session_replication_role', current_setting('session_replication_role'), 'origin'),
    ('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', false) ELSE 'on' END, 'on'),
    {rows}
) AS settings (name, present, wanted) WHERE present IS DISTINCT FROM wanted
"""


async def find_difference(
    session: Session, requested: Mapping[str, str], *, within: float
) -> tuple[str, str] | None:
    """Return what is wrong with a new session and what to do, or None; costs one round trip.

    Not in a prepared statement: a pooler may not know those, and they take two.
    """
    rows = [
        f"({_literal(name)}, current_setting({_literal(name)}, true), {_literal(requested[name])})"
        for name in requested
    ]
    rows += [
        f"('{name}', CASE WHEN current_setting('{name}', true) IS NULL THEN '0'"
        f" ELSE set_config('{name}', '0', false) END, '0')"
        for name in _UNLESS_UNKNOWN
    ]
    asked = _ASKED.format(process_id=_literal(str(session.get_server_pid())), rows=",\n    ".join(rows))
    found = bytearray()

    async def read(data: bytes) -> None:
        found.extend(data)

    await session.copy_from_query(asked, output=read, timeout=within)
    differing = dict(line.split("\t", 1) for line in found.decode(errors="replace").splitlines())
    if not differing:
        return None
    if set(differing) == {_REPLICA}:
        return (
            f"{_REPLICA} is {differing[_REPLICA]}: no trigger of ours would run",
            f"ALTER DATABASE … RESET {_REPLICA}, or ALTER ROLE … RESET {_REPLICA}, where it was set",
        )
    names = ", ".join(f"{name} is {present}" for name, present in differing.items() if name != "backend")
    return POOLER + (f" ({names})" if names else ""), POOLER_ADVICE


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
