"""Requests that name themselves (``Idempotency-Key``, R10): asked twice, done once, answered alike.

Only what succeeded is kept. A refused or failed request did nothing, so its key is free again.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from kosmo_billing_daemon.domain.invoices import Invoice, InvoiceStatus
from kosmo_billing_daemon.domain.subscriptions import UserId
from kosmo_billing_daemon.errors import Invalid
from kosmo_billing_daemon.store import idempotency, invoices
from kosmo_billing_daemon.store.idempotency import Bound
from kosmo_billing_daemon.store.postgres import Connection

KEPT_FOR = timedelta(hours=24)

_CAME_TO_NOTHING = (InvoiceStatus.ABANDONED, InvoiceStatus.EXPIRED, InvoiceStatus.INVALID)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and a fingerprint of what is asked under it."""

    value: str
    fingerprint: bytes

    @classmethod
    def of(cls, value: str, *asked: str | None) -> "Key":
        """Spelling does not count: two bodies that ask the same are the same."""
        return cls(value, hashlib.sha256(json.dumps(asked).encode()).digest())


async def recall(connection: Connection, user_id: UserId, key: Key, now: datetime) -> Bound | None:
    """Return what the key is bound to; raises ``Invalid`` when something else was asked under it."""
    bound = await idempotency.load(connection, user_id, key.value, now - KEPT_FOR)
    if bound is not None and bound.fingerprint != key.fingerprint:
        raise Invalid(
            "this Idempotency-Key was used for another request; take a new key for each purchase",
            code="idempotency_key_reused",
        )
    return bound


async def invoice_of(connection: Connection, bound: Bound) -> Invoice | None:
    """Return the invoice a key led to, unless it was never answered and cannot be paid any more."""
    invoice = (await invoices.load(connection, [bound.invoice_id])).get(bound.invoice_id)
    if invoice is None or (bound.reply is None and invoice.status in _CAME_TO_NOTHING):
        return None
    return invoice


async def bind(
    connection: Connection, user_id: UserId, key: Key, invoice: Invoice, *, is_new: bool, now: datetime
) -> None:
    """Bind a free key to the invoice; belongs into the transaction that reserves it."""
    await idempotency.save(
        connection,
        user_id,
        key.value,
        fingerprint=key.fingerprint,
        invoice_id=invoice.id,
        is_new=is_new,
        now=now,
    )
