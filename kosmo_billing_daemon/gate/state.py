"""The SQLite file of a gate: newest documents, messages not reported yet, and what time it is at least.

What a crash may lose: ``kill -9`` nothing that was committed, since SQLite has handed it to the kernel. A
power cut only what was committed after the last ``fsync_path`` was synchronised, for ``synchronous=NORMAL``
leaves that to the caller: a commit costs tens of microseconds, a synchronisation milliseconds on an SD
card, so it belongs in another thread, once for many commits. Checkpoints belong there too.

A file that cannot be read is moved aside, never deleted: it may hold messages nobody else knows of.
"""

import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.gate.decisions import Entry, Reason
from kosmo_billing_daemon.gate.errors import StateInUse

log = logging.getLogger(__name__)

APPLICATION = 0x4B4F4742  # "KOGB", so that somebody else's database is not taken for ours
SCHEMA = 1
TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    user BLOB PRIMARY KEY, version INTEGER NOT NULL, refusal TEXT, nodes TEXT, quota INTEGER,
    used INTEGER NOT NULL, subscription BLOB, valid_from REAL NOT NULL, ends REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, message_id TEXT NOT NULL, node TEXT NOT NULL,
    count INTEGER NOT NULL, sent_at REAL NOT NULL, stage INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user, message_id)
);
CREATE INDEX journal_waiting ON journal (seq) WHERE stage = 0;
CREATE INDEX journal_open ON journal (user, seq) WHERE stage < 2;
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, message_id TEXT NOT NULL, reason TEXT NOT NULL
);
"""


class Row(NamedTuple):
    """One message of the journal; ``sent_at`` in epoch seconds."""

    seq: int
    user: int
    message_id: str
    node: str
    number: int
    sent_at: float


class Loaded(NamedTuple):
    """What the file knew at start."""

    entries: dict[int, Entry]
    mark: float
    complete: bool
    sequence: int


class State:
    """The open file, for one thread at a time; the journal's statements are in ``journal``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wal = path.with_name(path.name + "-wal")
        self._lock = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateInUse(f"{path} is used by another process") from error
            self.sql, self.loaded = self._open_or_start_again()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        self.sql.close()
        os.close(self._lock)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:  # SQLite may have rolled back by itself, as when the disk is full
                self.sql.execute("ROLLBACK")
            raise

    def save_documents(self, entries: Iterable[tuple[int, Entry]]) -> None:
        self.sql.executemany(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    blob(user),
                    entry.version,
                    None if entry.refusal is None else str(entry.refusal.reason),
                    None if entry.nodes is None else json.dumps(sorted(entry.nodes)),
                    entry.limit,
                    entry.used,
                    None if entry.subscription is None else blob(entry.subscription),
                    entry.valid_from,
                    entry.ends,
                )
                for user, entry in entries
            ),
        )

    def remove_documents(self, users: Iterable[int]) -> None:
        self.sql.executemany("DELETE FROM documents WHERE user = ?", ((blob(user),) for user in users))

    def save_fact(self, name: str, value: float) -> None:
        self.sql.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _open_or_start_again(self) -> tuple[sqlite3.Connection, Loaded]:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise  # no rights, no disk space: another file would not help
            aside = _free_name(self.path)
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            log.error(  # noqa: TRY400  the traceback says nothing more
                "state file was unreadable and moved aside; starting without: error=%s file=%s aside=%s",
                error,
                self.path,
                aside,
            )
            return self._open()

    def _open(self) -> tuple[sqlite3.Connection, Loaded]:
        sql = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            application, schema = _number(sql, "application_id"), _number(sql, "user_version")
            if (application, schema) == (0, 0) and not _number(sql, "page_count"):
                self._create(sql)
            elif application != APPLICATION:
                raise Misconfigured(
                    [f"{self.path} is a database of another program; name another state file"]
                )
            elif schema != SCHEMA:
                raise sqlite3.DatabaseError(f"schema {schema}, this version reads {SCHEMA}")
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute("PRAGMA synchronous = NORMAL")
            sql.execute("PRAGMA wal_autocheckpoint = 0")
            sql.execute("PRAGMA cache_size = -2048")  # KiB; what is needed often is in memory anyway
            return sql, _load(sql)
        except BaseException:
            sql.close()
            raise

    def _create(self, sql: sqlite3.Connection) -> None:
        sql.executescript(
            f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
        )
        fsync_path(self.path.parent)


def fsync_path(path: Path) -> None:
    """Wait until the kernel has written a file or directory to the disk. Never for a database file itself:
    closing it would drop SQLite's locks on it; its ``-wal`` carries none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint(path: Path) -> None:
    """Move the log into the database on a connection of its own; writers go on meanwhile."""
    sql = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    try:
        sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        sql.close()


def _load(sql: sqlite3.Connection) -> Loaded:
    entries: dict[int, Entry] = {}
    number = int.from_bytes
    same_nodes: dict[str, frozenset[str]] = {}
    for user, version, refusal, nodes, quota, used, subscription, valid_from, ends in sql.execute(
        "SELECT user, version, refusal, nodes, quota, used, subscription, valid_from, ends FROM documents"
    ):
        entries[number(user)] = Entry(
            version,
            None if refusal is None else Reason(refusal),
            None if nodes is None else same_nodes.setdefault(nodes, frozenset(json.loads(nodes))),
            quota,
            used,
            None if subscription is None else number(subscription),
            valid_from,
            ends,
        )
    facts = dict(sql.execute("SELECT name, value FROM facts"))
    sql.execute("SELECT max(seq), count(*) FROM journal").fetchone()  # reads it, so that damage shows now
    return Loaded(
        entries, facts.get("mark", 0.0), bool(facts.get("complete", 0.0)), int(facts.get("sequence", 0))
    )


def blob(number: int) -> bytes:
    """A user or subscription as it stands in the file."""
    return number.to_bytes(16)


def _number(sql: sqlite3.Connection, pragma: str) -> int:
    return int(sql.execute(f"PRAGMA {pragma}").fetchone()[0])


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return "no such" in str(error) or "malformed" in str(error)


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    return aside
