"""Events in the words of the contract."""

import hashlib
from uuid import UUID

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.store.events import StoredEvent


def event_id(event: StoredEvent, database: UUID | str) -> str:
    """Return the same id for the same event, and never that of another: numbers come again in a database that
    went back.
    """
    said = f"{event.type} {event.user_id} {event.occurred_at.isoformat()} {event.data}"
    return f"{database}/{event.id}-{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}"


def message(event: StoredEvent, database: UUID | str, data: str | None = None) -> bytes:
    """Write the CloudEvent of one event of a database, or with other ``data``."""
    return cloud_event(
        event_id=event_id(event, database),
        event_type=event.type,
        subject=None if event.user_id is None else str(event.user_id),
        time=event.occurred_at,
        data=event.full_data if data is None else data,
    )
