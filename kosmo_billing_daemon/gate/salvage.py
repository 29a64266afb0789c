"""What can still be read of a state file that is damaged, or was set aside.

Only rows whose checksum holds are taken; the rows of the first versions had none and must look right.
"""

import contextlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from kosmo_billing_daemon.gate.pages import records
from kosmo_billing_daemon.gate.rows import (
    Document,
    MessageStage,
    Row,
    document_sum,
    entry_of_row,
    fact_sum,
    is_id,
    is_message,
    is_user,
    lease_sum,
    message_sum,
)

LARGEST_GAP = 1000
_UNREPORTED = frozenset(MessageStage) - {MessageStage.WAITING, MessageStage.COUNTED}
"""The stages in which a message is not to be reported; any other may be damaged."""
_FINAL = _UNREPORTED - {MessageStage.HELD}


@dataclass
class Salvaged:
    """Everything that could be read. ``messages`` are keyed by their place in the journal."""

    documents: dict[bytes, Document] = field(default_factory=dict)
    messages: dict[int, Row] = field(default_factory=dict)
    rejected: dict[int, tuple[bytes, str, str]] = field(default_factory=dict)
    leases: dict[bytes, tuple[bytes, bytes, bytes, int, float]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def unsent(self) -> list[Row]:
        """Messages that are not known to be counted, oldest first; reporting one twice is harmless."""
        return self._at(MessageStage.WAITING)

    @property
    def held(self) -> list[Row]:
        """Messages that were held: whether they passed is not known."""
        return self._at(MessageStage.HELD)

    def _at(self, stage: MessageStage) -> list[Row]:
        return [row for _, row in sorted(self.messages.items()) if row.stage is stage]

    @property
    def missing(self) -> int:
        """How many messages are missing at least; a gap that no few pages could hold is a wrong number."""
        order = sorted(self.messages)
        gaps = (after - before - 1 for before, after in pairwise(order))
        return sum(gap for gap in gaps if gap < LARGEST_GAP)


def salvage(path: Path) -> Salvaged:
    """Read what is left of a state file that no gate has open; the file is not changed.

    ``unsent`` of the result are the messages to hand to a gate's ``record`` again, with their ids. Raises
    ``OSError`` when there is no such file.
    """
    found = Salvaged()
    for rowid, values in records(path):
        match len(values):
            case 7 | 8 | 9 if rowid is not None:
                _message(found, rowid, values[1:])
            case 9 | 10:
                _document(found, values)
            case 6:
                _lease(found, values)
            case 4 if rowid is not None:
                _, user, message_id, reason = values
                if is_user(user) and is_id(message_id) and isinstance(reason, str):
                    found.rejected[rowid] = user, message_id, reason
            case 2 | 3:
                _fact(found, values)
    return found


def _document(found: Salvaged, values: tuple[Any, ...]) -> None:
    try:
        user, version, refusal, nodes, quota, used, subscription, valid_from, ends = values[:9]
        document = user, version, refusal, nodes, quota, used, subscription, float(valid_from), float(ends)
        if not is_user(user) or (len(values) == 10 and document_sum(document) != values[9]):
            return
        entry_of_row(document, {})
    except (AttributeError, ValueError, TypeError, ArithmeticError, struct.error):
        return
    held = found.documents.get(user)
    if held is None or held[1] <= version:
        found.documents[user] = document


def _message(found: Salvaged, seq: int, values: Iterable[Any]) -> None:
    user, message_id, node, count, sent_at, stage, *more = values
    lease, checksum = more[0] if len(more) == 2 else None, more[-1:]
    sent_at = float(sent_at) if isinstance(sent_at, int) else sent_at
    if not is_message(user, message_id, node, count, sent_at):
        return
    if checksum and checksum[0] != message_sum(user, message_id, node, count, sent_at, lease=lease):
        return
    if (known := found.messages.get(seq)) is not None and known.stage in _FINAL:
        return  # this one is an older copy
    at = MessageStage(stage) if stage in _UNREPORTED else MessageStage.WAITING
    found.messages[seq] = Row(seq, int.from_bytes(user), message_id, node, count, sent_at, at, lease)


def _lease(found: Salvaged, values: tuple[Any, ...]) -> None:
    lease, user, subscription, messages, expires_at, checksum = values
    with contextlib.suppress(TypeError, struct.error):
        row = lease, user, subscription, messages, float(expires_at)
        if is_user(lease) and is_user(user) and is_user(subscription) and lease_sum(*row) == checksum:
            known = found.leases.get(lease)
            if known is None or messages <= known[3]:  # what was handed back is not there any more
                found.leases[lease] = row


def _fact(found: Salvaged, values: tuple[Any, ...]) -> None:
    name, value, *checksum = values
    if not isinstance(name, str) or not isinstance(value, int | float):
        return
    if not checksum or checksum[0] == fact_sum(name, float(value)):
        found.facts[name] = float(value)
