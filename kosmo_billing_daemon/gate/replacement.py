"""A new state file in place of one that is damaged, with everything that can be read of it.

The new file is complete before the old one is moved, so an interruption at any point loses nothing: as long
as the old one is there it is tried again, and where it is not, the new one only needs its name.
"""

import logging
import os
import sqlite3
from pathlib import Path

from kosmo_billing_daemon.gate.files import beside, fsync_path, sqlite_code
from kosmo_billing_daemon.gate.rows import blob, fact_sum, lease_sum, message_sum
from kosmo_billing_daemon.gate.salvage import Salvaged, salvage
from kosmo_billing_daemon.gate.schema import create, insert_documents

log = logging.getLogger(__name__)

_ELSEWHERE = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_FULL}
)
"""Errors that say nothing about the file."""


def is_damage(path: Path, error: Exception) -> bool:
    """Whether another file would help; what SQLite cannot read or write may be the disk's fault."""
    return (
        sqlite_code(error) not in _ELSEWHERE
        and path.is_file()
        and os.access(path.parent, os.W_OK)
        and os.access(path, os.R_OK | os.W_OK)
    )


def replace(path: Path, error: Exception) -> str:
    """Put what can be read into a new file, set the old one aside, and say what became of it."""
    kept = salvage(path)
    fresh = beside(path, ".recovered")
    _discard(fresh)
    _fill(fresh, kept)
    aside = _set_aside(path)
    fresh.rename(path)
    fsync_path(path.parent)
    loss = (
        f"the state file could not be used as it was ({error}) and was set aside as {aside.name};"
        f" kept {len(kept.documents)} documents and {len(kept.unsent)} messages not known to be counted"
        f"{f'; at least {kept.missing} messages are lost' if kept.missing else ''}"
    )
    log.error("state file was damaged and moved aside: error=%s file=%s aside=%s", error, path, aside)
    log.error("what could be read was kept: documents=%d messages=%d", len(kept.documents), len(kept.unsent))
    return loss


def finish_replacing(path: Path) -> None:
    """Go on where a start was interrupted between setting the old file aside and naming the new one."""
    fresh = beside(path, ".recovered")
    if path.exists():
        _discard(fresh)
    elif fresh.exists():
        _set_aside(path)
        fresh.rename(path)
        fsync_path(path.parent)


def _fill(path: Path, kept: Salvaged) -> None:
    sql = sqlite3.connect(path, isolation_level=None)
    try:
        sql.execute("PRAGMA synchronous = FULL")
        create(sql)
        sql.execute("BEGIN")
        insert_documents(sql, kept.documents.values())
        for name, value in kept.facts.items():
            if name != "complete":  # nobody knows whether all documents could be read
                sql.execute("INSERT INTO facts VALUES (?, ?, ?)", (name, value, fact_sum(name, value)))
        for seq in sorted(kept.messages):
            row = kept.messages[seq]
            message = blob(row.user), row.message_id, row.node, row.number, row.sent_at
            sql.execute(
                "INSERT OR IGNORE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (seq, *message, row.stage, row.lease, message_sum(*message, lease=row.lease)),
            )
        if not kept.missing:  # else a lease may have let through more than is known
            for lease in kept.leases.values():
                sql.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?)", (*lease, lease_sum(*lease)))
        for seq, rejected in kept.rejected.items():
            sql.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", (seq, *rejected))
        sql.execute("COMMIT")
    except BaseException:
        sql.close()
        _discard(path)
        raise
    sql.close()


def _set_aside(path: Path) -> Path:
    """Rename the file and then its log: where only the log is left, this was interrupted."""
    number = 1
    while (aside := beside(path, f".unreadable-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        if (part := beside(path, suffix)).exists():
            part.rename(beside(aside, suffix))
    return aside


def _discard(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        beside(path, suffix).unlink(missing_ok=True)
