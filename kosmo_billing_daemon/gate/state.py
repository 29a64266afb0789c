"""The SQLite file of a gate: newest documents, messages not reported yet, and what time it is at least.

What a crash may lose: ``kill -9`` nothing that was committed, since SQLite has handed it to the kernel. A
power cut only what was committed after the last ``fsync_path`` was synchronised, for ``synchronous=NORMAL``
leaves that to the caller: a commit costs tens of microseconds, a synchronisation milliseconds on an SD
card, so it belongs in another thread, once for many commits. Checkpoints belong there too.

A damaged file never keeps a gate from starting. Everything is checked when it is opened, as a whole by the
seal of an orderly close or else row by row; if anything is wrong, what can be read goes into a new file, and
the old one is set aside, never deleted: it may hold messages nobody else knows of.
"""

import gc
import glob
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.gate.decisions import UserEntry
from kosmo_billing_daemon.gate.errors import StateInUse, StateUnwritable
from kosmo_billing_daemon.gate.files import beside, fsync_path, sqlite_code
from kosmo_billing_daemon.gate.pages import is_log_whole
from kosmo_billing_daemon.gate.replacement import finish_replacing, is_damage, replace
from kosmo_billing_daemon.gate.rows import (
    blob,
    document_of,
    document_sum,
    entry_of_row,
    fact_sum,
    is_message,
    lease_sum,
    message_sum,
)
from kosmo_billing_daemon.gate.schema import SCHEMA, Damaged, check_schema, create, insert_documents
from kosmo_billing_daemon.gate.seal import break_seal, seal

try:
    import fcntl
except ImportError:
    raise ImportError(
        "the gate locks its state file with fcntl, which Windows does not have: run it on Linux or macOS,"
        " or in the Windows Subsystem for Linux"
    ) from None

PATIENCE = 5.0  # seconds for somebody else's lock while the gate is opened; later nothing may wait


class Loaded(NamedTuple):
    """What the file knew at start."""

    entries: dict[int, UserEntry]
    mark: float
    complete: bool
    sequence: int


class StateFile:
    """The open file, for one thread at a time; the journal's statements are in ``journal``.

    Without ``path`` it is in memory and ends with the process. ``loss`` tells of files that were set aside,
    ``error`` of writes that failed and were not made up for.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.error: str | None = None
        self.loss: str | None = None
        self._lock = None if path is None else _locked(path)
        try:
            self.sql, self.loaded = _open(None) if path is None else self._open_or_replace(path)
            self.sql.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            self._unlock()
            raise

    @property
    def wal(self) -> Path | None:
        """The write-ahead log."""
        return None if self.path is None else beside(self.path, "-wal")

    def close(self) -> None:
        self.sql.close()
        if self.path is not None:
            seal(self.path)
        self._unlock()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done within; change memory only after it, for it may fail until its end."""
        try:
            self.sql.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.sql.execute("COMMIT")
            except BaseException:
                if self.sql.in_transaction:  # SQLite may have rolled back by itself, as when the disk is full
                    self.sql.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.failed(error)
            raise

    def failed(self, error: sqlite3.Error) -> None:
        """Note that something could not be written, or not be read."""
        self.error = f"the state file could not be written: {error}"
        if sqlite_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            self.error = (
                f"the state file was damaged while in use: {error}; start the gate anew, which repairs it"
            )

    def save_documents(self, entries: Iterable[tuple[int, UserEntry]]) -> None:
        insert_documents(self.sql, (document_of(user, entry) for user, entry in entries))

    def remove_documents(self, users: Iterable[int]) -> None:
        self.sql.executemany("DELETE FROM documents WHERE user = ?", ((blob(user),) for user in users))

    def save_fact(self, name: str, value: float) -> None:
        self.sql.execute(
            "INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (name, value, fact_sum(name, value))
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _open_or_replace(self, path: Path) -> tuple[sqlite3.Connection, Loaded]:
        try:
            finish_replacing(path)
            try:
                opened = _open(path)
            except Misconfigured:
                raise
            except Exception as error:
                if not is_damage(path, error):
                    raise
                self.loss = replace(path, error)
                opened = _open(path)
        except (OSError, sqlite3.Error) as error:
            if sqlite_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise StateInUse(f"{path} is locked by another program: {error}") from error
            raise _unwritable(path, error) from error
        pattern = f"{glob.escape(path.name)}.unreadable-*[0-9]"
        asides = sorted(found.name for found in path.parent.glob(pattern))
        if self.loss is None and asides:
            self.loss = (
                f"{', '.join(asides)}: set aside at an earlier start because of"
                " damage; delete it when it was looked at"
            )
        return opened


def _open(path: Path | None) -> tuple[sqlite3.Connection, Loaded]:
    is_sealed = path is not None and break_seal(path)
    if path is not None and not is_log_whole(beside(path, "-wal")):
        raise Damaged("its write-ahead log is not whole")
    sql = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=PATIENCE)
    try:
        application, schema = _number(sql, "application_id"), _number(sql, "user_version")
        if (application, schema) == (0, 0) and not _number(sql, "page_count"):
            create(sql)
            if path is not None:
                fsync_path(path.parent)
        else:
            check_schema(sql, application, schema, path)
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = NORMAL")
        sql.execute("PRAGMA wal_autocheckpoint = 0")
        sql.execute("PRAGMA cache_size = -2048")  # KiB; what is needed often is in memory anyway
        sql.execute("BEGIN IMMEDIATE")
        sql.execute(
            f"PRAGMA user_version = {SCHEMA}"
        )  # fails where nothing can be written, which BEGIN does not
        sql.execute("ROLLBACK")
        with _collection_paused():
            if not is_sealed:
                _examine(sql)
            return sql, _load(sql)
    except BaseException:
        sql.close()
        raise


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Look for no garbage while a hundred thousand rows are read: none is made, and looking takes as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _examine(sql: sqlite3.Connection) -> None:
    """Raise ``Damaged`` unless the pages have their shape and every row its checksum."""
    (verdict,) = sql.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Damaged(" ".join(str(verdict).replace("*", "").split()))
    for row in sql.execute("SELECT * FROM documents"):
        if document_sum(row[:9]) != row[9]:
            raise Damaged("a document's checksum is wrong")
    for name, value, checksum in sql.execute("SELECT name, value, checksum FROM facts"):
        if checksum != fact_sum(name, value):
            raise Damaged("a fact's checksum is wrong")
    messages = (
        "SELECT user, message_id, node, count, sent_at, lease, checksum FROM journal NOT INDEXED"
        " WHERE stage < 2 OR lease IS NOT NULL"
    )
    for *message, lease, checksum in sql.execute(messages):
        if not is_message(*message) or checksum != message_sum(*message, lease=lease):
            raise Damaged("a message's checksum is wrong")
    for row in sql.execute("SELECT * FROM leases"):
        if lease_sum(*row[:5]) != row[5]:
            raise Damaged("a lease's checksum is wrong")


def _load(sql: sqlite3.Connection) -> Loaded:
    entries: dict[int, UserEntry] = {}
    same_nodes: dict[str, frozenset[str]] = {}
    number = int.from_bytes
    documents = "user, version, refusal, nodes, quota, used, subscription, valid_from, ends"
    for row in sql.execute(f"SELECT {documents} FROM documents"):  # noqa: S608  our own text
        entries[number(row[0])] = entry_of_row(row, same_nodes)
    facts = dict(sql.execute("SELECT name, value FROM facts"))
    return Loaded(
        entries, facts.get("mark", 0.0), bool(facts.get("complete", 0.0)), int(facts.get("sequence", 0))
    )


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise StateInUse(f"{path} is used by another process") from error
        raise _unwritable(path, error) from error
    return descriptor


def _unwritable(path: Path, error: Exception) -> StateUnwritable:
    return StateUnwritable(
        f"the state file {path} cannot be written: {error}; name one in a folder that exists, on a disk with"
        " room, and that this user may write to. Gate(broker, None) decides without a file: then everything"
        " is forgotten when the program ends"
    )


def checkpoint(path: Path) -> None:
    """Move the log into the database on a connection of its own; writers go on meanwhile."""
    sql = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    try:
        sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        sql.close()


def _number(sql: sqlite3.Connection, pragma: str) -> int:
    return int(sql.execute(f"PRAGMA {pragma}").fetchone()[0])
