"""Erasing a user: what is about the user goes, what is about money stays under a random id.

The rule it keeps: nothing that stays leads from the user to the pseudonym or back, and no amount changes.
What the ledger allows for this is written in its trigger.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

from kosmo_billing_daemon.store.adoptions import forget_statement
from kosmo_billing_daemon.store.combining import Statement
from kosmo_billing_daemon.store.postgres import Connection, changed

KEPT = "erased"
"""What stands where somebody had written about the user."""

COUNTING = "SELECT pg_advisory_xact_lock_shared(1802465135)"
"""Usage is counted without its users' locks, so no user is erased meanwhile."""

PATIENCE = "5s"  # other transactions of a user take milliseconds


def erasing(user_id: UUID) -> str:
    """Return the statement that a transaction begins with in which this user is erased."""
    return f"SET LOCAL lock_timeout = '{PATIENCE}'; SELECT hold_users('{{{user_id}}}')"


_BEGIN = """
WITH pseudonym AS (INSERT INTO pseudonyms VALUES ($2))
INSERT INTO erased_users (fingerprint, erased_on) VALUES (user_fingerprint($1::uuid), $3)
ON CONFLICT (fingerprint) DO UPDATE SET erased_on = EXCLUDED.erased_on
"""
_HOOK_DELIVERIES = """
DELETE FROM hook_deliveries WHERE event_id IN (SELECT id FROM events WHERE user_id = $1)
"""
_HOOK_ANSWERS = """
DELETE FROM hook_answers WHERE event_id IN (SELECT id FROM events WHERE user_id = $1) OR answer ~* $2
"""
_DELIVERIES = """
DELETE FROM webhook_deliveries AS d USING btcpay_invoices AS i
WHERE i.user_id = $1 AND (d.btcpay_invoice_id = i.btcpay_invoice_id OR d.order_id = i.id::text)
"""
# Nothing is given any more for what is paid later, or is settled again (R8): that money is listed, or credit.
_INVOICES = """
UPDATE btcpay_invoices SET user_id = $2, redirect_url = NULL,
    adjusted = CASE WHEN effect = 'revoked' THEN 0 ELSE adjusted END,
    effect = CASE WHEN effect IN ('none', 'revoked') THEN 'declined' ELSE effect END
WHERE user_id = $1
"""
_SUBSCRIPTIONS = """
UPDATE subscriptions SET user_id = $2, reason = CASE WHEN reason IS NOT NULL THEN $4 END,
    status = CASE WHEN status IN ('active', 'grace') THEN 'expired' ELSE status END,
    ended_at = CASE WHEN status IN ('active', 'grace') THEN greatest($3, valid_from) ELSE ended_at END
WHERE user_id = $1
"""
_REFUNDS = "UPDATE refunds SET user_id = $2 WHERE user_id = $1"
_CASES = """
UPDATE attention_cases SET user_id = $2, detail = $3,
    resolution = CASE WHEN resolution IS NOT NULL THEN $3 END
WHERE user_id = $1
"""
_RECOUNTS = "UPDATE recounts SET user_id = $2 WHERE user_id = $1"
_AUDIT = """
UPDATE audit_log SET user_id = $2, subject = $3, reason = $3 WHERE user_id = $1
"""
_EXTENSIONS = "UPDATE extensions SET reason = $2 || ' ' || id WHERE reason ~* $1"
# The publisher clears the document of whoever is queued and has none.
_DOCUMENT = """
WITH queued AS (SELECT queue_users('rights', ARRAY[user_id]) FROM entitlements WHERE user_id = $1)
SELECT pg_notify('kosmo_billing', 'entitlements') FROM queued
"""


def _unnaming(table: str, *columns: str) -> str:
    """Return the statement that writes ``$2`` for the user in texts and payloads of others' rows."""
    texts = {name: "encode(payload, 'escape')" if name == "payload" else name for name in columns}
    written = {name: f"regexp_replace({text}, $1, $2, 'gi')" for name, text in texts.items()}
    if "payload" in written:
        written["payload"] = f"decode({written['payload']}, 'escape')"
    changes = ", ".join(f"{name} = {text}" for name, text in written.items())
    return f"UPDATE {table} SET {changes} WHERE {' OR '.join(f'{text} ~* $1' for text in texts.values())}"


def statements(user_id: UUID, pseudonym: UUID, now: datetime) -> list[Statement]:
    """Erase a user, whose lock is held, by these statements one after another.

    Usage waits from the middle on: what counting never touches comes before, however long it takes.
    """
    named = str(user_id).replace("-", "-?")  # people also write it without
    return [
        Statement(_BEGIN, [user_id, pseudonym, now.date()]),
        Statement(_HOOK_DELIVERIES, [user_id]),
        Statement(_HOOK_ANSWERS, [user_id, named]),
        Statement(_DELIVERIES, [user_id]),
        forget_statement(user_id),
        Statement(_INVOICES, [user_id, pseudonym]),
        Statement("SELECT erase_from_ledger($1, $2)", [user_id, pseudonym]),
        Statement(_REFUNDS, [user_id, pseudonym]),
        Statement(_CASES, [user_id, pseudonym, KEPT]),
        Statement(_AUDIT, [user_id, pseudonym, KEPT]),
        Statement(_unnaming("audit_log", "subject", "reason"), [named, KEPT]),
        Statement(_unnaming("attention_cases", "detail", "resolution"), [named, KEPT]),
        Statement(_unnaming("hooks", "off_because"), [named, KEPT]),
        Statement(_unnaming("whitelisted_nodes", "label"), [named, KEPT]),
        Statement("DELETE FROM auto_renewals WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM lapses WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM extended_users WHERE user_id = $1", [user_id]),
        Statement(_EXTENSIONS, [named, KEPT]),
        Statement("DELETE FROM idempotency_keys WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM renewal_links WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM node_additions WHERE user_id = $1", [user_id]),
        Statement("SELECT pg_advisory_xact_lock(1802465135)", []),
        Statement(_SUBSCRIPTIONS, [user_id, pseudonym, now, KEPT]),
        Statement(_RECOUNTS, [user_id, pseudonym]),
        Statement(_unnaming("reporter_cases", "detail"), [named, KEPT]),
        Statement(_unnaming("usage_quarantine", "reason", "payload"), [named, KEPT]),
        Statement(_unnaming("parked_reports", "payload"), [named, KEPT]),
        Statement("DELETE FROM leases WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM whitelisted_nodes WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM usage_events WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM usage_days WHERE user_id = $1", [user_id]),
        Statement("DELETE FROM events WHERE user_id = $1", [user_id]),
        Statement(_DOCUMENT, [user_id]),
        Statement("DELETE FROM entitlements WHERE user_id = $1", [user_id]),
    ]


_IS_PSEUDONYM = "SELECT EXISTS (SELECT FROM pseudonyms WHERE user_id = $1)"


async def is_pseudonym(connection: Connection, user_id: UUID) -> bool:
    """Say whether this id stands for somebody who was erased."""
    return bool(await connection.fetchval(_IS_PSEUDONYM, user_id))


_ERASED = """
SELECT user_id FROM erased_among($1) AS e (user_id)
"""


async def load_erased(connection: Connection, users: Iterable[UUID]) -> set[UUID]:
    """Return those of these users who were erased."""
    return {row["user_id"] for row in await connection.fetch(_ERASED, list(users))}


_IS_QUEUED = "SELECT EXISTS (SELECT FROM outbox WHERE $1 = ANY (users))"


async def is_queued(connection: Connection, user_id: UUID) -> bool:
    """Say whether the user's document still waits to be cleared."""
    return bool(await connection.fetchval(_IS_QUEUED, user_id))


_FORGET = """
DELETE FROM erased_users WHERE fingerprint IN (
    SELECT fingerprint FROM erased_users WHERE erased_on < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def forget(connection: Connection, before: date, limit: int) -> int:
    """Forget who was erased before that day; returns how many."""
    return changed(await connection.execute(_FORGET, before, limit))


def redacted(text: bytes, users: Sequence[UUID]) -> bytes:
    """Write a text without the ids of these users."""
    for user_id in users:
        for form in (str(user_id), str(user_id).upper()):
            text = text.replace(form.encode(), KEPT.encode())
    return text
