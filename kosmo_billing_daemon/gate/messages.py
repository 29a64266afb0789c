"""What is a message: ``check`` and ``record`` take the same and refuse the same, with ``Invalid``."""

import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from kosmo_billing_daemon.contract.encoding import MAX_ID_LENGTH
from kosmo_billing_daemon.contract.node_ids import NO_NODE, is_node_id, why_no_node
from kosmo_billing_daemon.contract.payloads import MAX_COUNT
from kosmo_billing_daemon.errors import Invalid

ACCEPTED_LATE = timedelta(days=7)  # the daemon counts nothing older
ACCEPTED_EARLY = timedelta(days=1)  # the clock that a time comes from may differ from the gate's
NODES_KNOWN = 10_000

_ANOTHER_FORM = re.compile(r"(0[xX])?[0-9a-fA-F]{8}|[0-9]+|!.*", re.DOTALL)


def checked_node(node_id: Any, known: dict[str, str]) -> str:
    """A node id as whitelists have it, in lower case; ``known`` remembers the answers."""
    if not isinstance(node_id, str):
        checked_id("node_id", node_id)
    if (same := known.get(node_id)) is not None:
        return same
    checked = checked_id("node_id", node_id.lower())
    if checked in NO_NODE:
        raise Invalid(f"node_id: {why_no_node(checked)}", field="node_id")
    if _ANOTHER_FORM.fullmatch(checked) and not is_node_id(checked):
        raise Invalid(
            f"node_id: {node_id[:40]!r} is a node number in another form; write ! and eight hex digits,"
            ' f"!{number:08x}"',
            field="node_id",
        )
    if len(known) >= NODES_KNOWN:
        known.clear()
    known[node_id] = checked
    return checked


def checked_user(user_id: Any) -> int:
    """A user id as the number that users are kept by."""
    if isinstance(user_id, UUID):
        return user_id.int
    try:
        return UUID(user_id).int
    except (ValueError, TypeError, AttributeError) as error:
        raise Invalid("user_id: a UUID, or its text", field="user_id") from error


def checked_id(name: str, value: Any) -> str:
    if isinstance(value, str) and 1 <= len(value) <= MAX_ID_LENGTH and "\x00" not in value:
        try:
            value.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            pass
        else:
            return value
    raise Invalid(f"{name}: a text of 1 to {MAX_ID_LENGTH} characters", field=name)


def checked_count(count: Any) -> int:
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise Invalid(f"count: a whole number from 1 to {MAX_COUNT}", field="count")
    return count


def checked_time(sent_at: Any, now: float) -> float:
    """A time of sending in epoch seconds; ``now`` is the gate's."""
    if not isinstance(sent_at, datetime) or sent_at.utcoffset() is None:
        raise Invalid("sent_at: a datetime with its time zone, such as datetime.now(UTC)", field="sent_at")
    seconds = sent_at.timestamp()
    if not -ACCEPTED_LATE.total_seconds() <= seconds - now <= ACCEPTED_EARLY.total_seconds():
        raise Invalid(
            f"sent_at: {sent_at.isoformat()} is more than seven days before the gate's time or more"
            " than a day after it; leave it out for now",
            field="sent_at",
        )
    return seconds
