"""Rows of the state file as values, each with a checksum: a flipped bit must not change somebody's rights.

SQLite checks the shape of its pages and not what is in them, so every row that matters carries its own sum.
"""

import json
from enum import IntEnum
from math import isfinite
from struct import Struct, pack
from typing import Any, NamedTuple
from zlib import crc32

from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH
from kosmo_billing_daemon.contract.payloads import MAX_COUNT
from kosmo_billing_daemon.gate.decisions import Reason, UserEntry


class MessageStage(IntEnum):
    """How far a message has come; what is below ``DONE`` weighs in its user's count."""

    HELD = -2
    REFUSED = -1
    WAITING = 0
    COUNTED = 1
    DONE = 2
    RELEASED = 3


class Row(NamedTuple):
    """One message of the journal; ``sent_at`` in epoch seconds. ``seq`` is 0 while it has no place there."""

    seq: int
    user: int
    message_id: str
    node: str
    number: int
    sent_at: float
    stage: MessageStage = MessageStage.WAITING
    lease: bytes | None = None


Document = tuple[bytes, int, str | None, str | None, int | None, int, bytes | None, float, float]
"""A row of ``documents`` without its checksum, in the order of its columns."""


def blob(number: int) -> bytes:
    """A user or subscription as it stands in the file."""
    return number.to_bytes(16)


def message_sum(
    user: bytes, message_id: str, node: str, count: int, sent_at: float, *, lease: bytes | None = None
) -> int:
    """The checksum of a message; its stage changes and is not in it."""
    texts = f"{message_id}\0{node}".encode()
    return crc32(b"%b%b%b%b" % (user, pack("<qd", count, sent_at), texts, lease or b""))


def lease_sum(lease: bytes, user: bytes, subscription: bytes, messages: int, expires_at: float) -> int:
    return crc32(b"%b%b%b%b" % (lease, user, subscription, pack("<qd", messages, expires_at)))


def fact_sum(name: str, value: float) -> int:
    return crc32(name.encode() + pack("<d", value))


_NUMBERS = Struct("<16sqqqdd").pack


def document_sum(document: Document) -> int:
    """The checksum of a document; short because opening a file computes one of each."""
    user, version, refusal, nodes, quota, used, subscription, valid_from, ends = document
    numbers = _NUMBERS(user, version, -1 if quota is None else quota, used, valid_from, ends)
    texts = (
        b"\0" if refusal is nodes is None else b"%b\0%b" % ((refusal or "").encode(), (nodes or "").encode())
    )
    return crc32(numbers + subscription + texts if subscription else numbers + texts)


def document_of(user: int, entry: UserEntry) -> Document:
    """What is written down of a user's rights."""
    return (
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


def entry_of_row(document: Document, same_nodes: dict[str, frozenset[str]]) -> UserEntry:
    """The rights in a row; equal lists of nodes share one set."""
    _, version, refusal, nodes, quota, used, subscription, valid_from, ends = document
    return UserEntry(
        version,
        None if refusal is None else Reason(refusal),
        None if nodes is None else same_nodes.get(nodes) or _nodes(nodes, same_nodes),
        quota,
        used,
        None if subscription is None else int.from_bytes(subscription),
        valid_from,
        ends,
    )


def _nodes(text: str, same_nodes: dict[str, frozenset[str]]) -> frozenset[str]:
    return same_nodes.setdefault(text, frozenset(json.loads(text)))


def is_user(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 16


def is_id(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID_LENGTH


def is_message(user: Any, message_id: Any, node: Any, count: Any, sent_at: Any) -> bool:
    """Say whether values read from a file are a message that can be reported."""
    return (
        is_user(user)
        and is_id(message_id)
        and is_id(node)
        and isinstance(count, int)
        and 1 <= count <= MAX_COUNT
        and isinstance(sent_at, float)
        and isfinite(sent_at)
        and 0.0 <= sent_at < 253_402_300_799.0  # the year 9999
    )
