"""Packs that were added to subscriptions (R17); their lots are in the stacks of those."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kosmo_billing_daemon.store.combining import Statement

_APPEND = """
INSERT INTO top_ups (invoice_id, subscription_id, at)
SELECT invoice_id, subscription_id, $3
FROM unnest($1::uuid[], $2::uuid[]) AS row (invoice_id, subscription_id)
"""


def append_statement(added: Sequence[tuple[UUID, UUID]], at: datetime) -> Statement | None:
    """Note which invoice raised which subscription's limit. A second time breaks R1's constraint."""
    return Statement(_APPEND, [*zip(*added, strict=True), at]) if added else None


_REVOKE = """
UPDATE top_ups SET revoked_at = greatest(at, $2) WHERE invoice_id = ANY ($1::uuid[]) AND revoked_at IS NULL
"""


def revoke_statement(invoices: Sequence[UUID], at: datetime) -> Statement | None:
    """Note that packs were taken back."""
    return Statement(_REVOKE, [list(invoices), at]) if invoices else None
