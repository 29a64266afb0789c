"""Requests that name themselves (``Idempotency-Key``, R10): asked twice, done once, answered alike.

Only what succeeded is kept. A refused or failed request did nothing, so its key is free again.
"""

import hashlib
import json
from datetime import timedelta

from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.idempotency import Bound

KEPT_FOR = timedelta(hours=24)

_CAME_TO_NOTHING = (InvoiceStatus.ABANDONED, InvoiceStatus.EXPIRED, InvoiceStatus.INVALID)


@record
class Key:
    """A key, and a fingerprint of what is asked under it."""

    value: str
    fingerprint: bytes

    @classmethod
    def of(cls, value: str, *asked: str | None) -> "Key":
        """Spelling does not count: two bodies that ask the same are the same."""
        return cls(value, hashlib.sha256(json.dumps(asked).encode()).digest())


def require_same(key: Key, bound: Bound) -> None:
    """Raise ``Invalid`` when something else was asked under the key."""
    if bound.fingerprint != key.fingerprint:
        raise Invalid(
            "this Idempotency-Key was used for another request; take a new key for each purchase",
            code="idempotency_key_reused",
        )


def leads_to(bound: Bound, invoice: Invoice | None) -> bool:
    """Say whether the key still stands for its invoice: not if it cannot be paid and nobody was answered."""
    return invoice is not None and (bound.reply is not None or invoice.status not in _CAME_TO_NOTHING)
