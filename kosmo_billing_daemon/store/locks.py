"""Who holds locks on our rows: for people, who can end that transaction."""

from kosmo_billing_daemon.store.sessions import Session

# Not who blocks whom: nobody waits any more when this is asked. So it is whoever has been in a transaction
# for longer than we would wait, and holds a lock that writing takes. PostgreSQL hides the times of other
# roles' sessions from us unless we are a member of pg_read_all_stats.
_HOLDER = """
SELECT a.pid, a.application_name, a.usename, a.state, a.xact_start
FROM pg_stat_activity AS a
WHERE a.pid <> pg_backend_pid() AND coalesce(a.state, '') <> 'idle'
    AND coalesce(a.xact_start < clock_timestamp() - interval '40 milliseconds', true)
    AND EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation
        WHERE l.pid = a.pid AND l.granted AND (
            l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'
            OR c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
                AND l.mode NOT IN ('AccessShareLock')))
ORDER BY a.xact_start NULLS LAST LIMIT 1
"""


async def find_holder(session: Session) -> str | None:
    """Return who has locked our rows for longest, in words; ``None`` where nobody is seen any more."""
    row = await session.fetchrow(_HOLDER)
    if row is None:
        return None
    since = f" since {row['xact_start']:%Y-%m-%d %H:%M:%S} UTC" if row["xact_start"] is not None else ""
    state = f", {row['state']}" if row["state"] else ""
    name = row["application_name"] or "a program without application_name"
    return f"pid {row['pid']} ({name}, role {row['usename']}{state}{since})"
