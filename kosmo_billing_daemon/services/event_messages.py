"""Events in the words of the contract."""

import hashlib

from kosmo_billing_daemon.contract.cloud_events import cloud_event
from kosmo_billing_daemon.store.outbox import OutboxEvent


def message(event: OutboxEvent, database: str) -> bytes:
    """Write the CloudEvent of one event of a database.

    Its id is the same for the same event, and never that of another: numbers come again in a database that
    went back.
    """
    said = f"{event.type} {event.user_id} {event.occurred_at.isoformat()} {event.data}"
    return cloud_event(
        event_id=f"{database}/{event.id}-{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}",
        event_type=event.type,
        subject=str(event.user_id),
        time=event.occurred_at,
        data=event.data,
    )
