"""The tables of the state file, and whether a file has them."""

import sqlite3
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from kosmo_billing_daemon.errors import Misconfigured
from kosmo_billing_daemon.gate.pages import PAGE
from kosmo_billing_daemon.gate.rows import Document, document_sum

APPLICATION = 0x4B4F4742  # "KOGB", so that somebody else's database is not taken for ours
SCHEMA = 3
TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value REAL NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    user BLOB PRIMARY KEY, version INTEGER NOT NULL, refusal TEXT, nodes TEXT, quota INTEGER,
    used INTEGER NOT NULL, subscription BLOB, valid_from REAL NOT NULL, ends REAL NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, user BLOB NOT NULL, message_id TEXT NOT NULL, node TEXT NOT NULL,
    count INTEGER NOT NULL, sent_at REAL NOT NULL, stage INTEGER NOT NULL, lease BLOB,
    checksum INTEGER NOT NULL,
    UNIQUE (user, message_id)
);
CREATE INDEX journal_waiting ON journal (seq) WHERE stage = 0;
CREATE INDEX journal_open ON journal (user, seq) WHERE stage < 2;
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY, user BLOB NOT NULL, message_id TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE leases (
    lease BLOB PRIMARY KEY, user BLOB NOT NULL, subscription BLOB NOT NULL, messages INTEGER NOT NULL,
    expires_at REAL NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE questions (
    request_id TEXT PRIMARY KEY, user BLOB NOT NULL, want INTEGER NOT NULL, lease BLOB, kept INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE openings (seq INTEGER PRIMARY KEY, name TEXT NOT NULL);
"""


class Damaged(Exception):
    """The file is readable for SQLite and still not what was written."""


def create(sql: sqlite3.Connection) -> None:
    sql.execute(f"PRAGMA page_size = {PAGE}")
    sql.executescript(
        f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
    )


def check_schema(sql: sqlite3.Connection, application: int, schema: int, path: Path | None) -> None:
    found = dict(sql.execute("SELECT name, sql FROM sqlite_schema"))
    if application != APPLICATION:
        if not {"documents", "facts", "journal"} <= found.keys():
            raise Misconfigured([f"{path} is a database of another program; name another state file"])
        raise Damaged(f"application {application:#x}")
    if schema != SCHEMA:
        raise Damaged(f"schema {schema}, this version reads {SCHEMA}")
    if found != _own_schema():
        raise Damaged("its tables are not what they should be")


def insert_documents(sql: sqlite3.Connection, documents: Iterable[Document]) -> None:
    sql.executemany(
        "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((*document, document_sum(document)) for document in documents),
    )


@cache
def _own_schema() -> dict[str, str | None]:
    sql = sqlite3.connect(":memory:")
    try:
        sql.executescript(TABLES)
        return dict(sql.execute("SELECT name, sql FROM sqlite_schema"))
    finally:
        sql.close()
