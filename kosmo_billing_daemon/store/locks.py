"""Who holds locks on our rows: for people, who can end that transaction."""

from kosmo_billing_daemon.store.sessions import Session

# Not who blocks whom: nobody waits any more when this is asked. So it is whoever has been in a transaction
# for longer than we would wait, and holds a lock that writing takes; or waits for the whole of a table, since
# all others queue behind that. PostgreSQL hides the times of other roles' sessions from us unless we are a
# member of pg_read_all_stats.
_HOLDER = """
SELECT a.pid, a.application_name, a.usename, a.state, a.xact_start, blocking.pids, blocking.name
FROM pg_stat_activity AS a
LEFT JOIN LATERAL (
    SELECT string_agg(b.pid::text, ', ') AS pids, min(nullif(b.application_name, '')) AS name
    FROM pg_stat_activity AS b WHERE b.pid = ANY (pg_blocking_pids(a.pid))
) AS blocking ON true
WHERE a.pid <> pg_backend_pid() AND coalesce(a.state, '') <> 'idle'
    AND coalesce(a.xact_start < clock_timestamp() - interval '40 milliseconds', true)
    AND EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation
        WHERE l.pid = a.pid AND (
            l.granted AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'
            OR c.relkind = 'r' AND c.relnamespace = (
                    SELECT oid FROM pg_namespace WHERE nspname = current_schema())
                -- Neither reading nor a vacuum holds up a writer.
                AND CASE WHEN l.granted THEN l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
                    ELSE l.mode IN (
                        'AccessExclusiveLock', 'ExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock')
                END))
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
    told = f"pid {row['pid']} ({name}, role {row['usename']}{state}{since})"
    if row["pids"]:
        told += f", which itself waits for pid {row['pids']}"
        told += f" ({row['name']})" if row["name"] else ""
    return told
