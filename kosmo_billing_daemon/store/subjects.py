"""What this database holds of one user, table by table: what an export shows, and what an erasure finds.

The rule it keeps: every table is in ``HELD`` or in ``HOLDS_NOBODY``, which a test compares with the schema.
So whoever adds a table decides here what becomes of it.
"""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection

PREFETCHED = 500  # rows that an export has in memory at once


@record
class HeldRows:
    """Rows about a user: what they are, and how they are sorted and found.

    They are those of the table's column ``user_id``, or what ``found`` finds; ``$1`` is the user. Of rows
    that are ``is_kept`` an erasure keeps the money, under a pseudonym; the others it deletes.
    """

    about: str
    order: str = "user_id"
    found: str = "SELECT * FROM {table} WHERE user_id = $1"
    is_kept: bool = False

    def query(self, table: str) -> str:
        """Return the query that finds them in order."""
        return f"{self.found.format(table=table)} ORDER BY {self.order}"


_INVOICES = "SELECT id FROM btcpay_invoices WHERE user_id = $1"
_OF_EVENTS = "SELECT * FROM {table} WHERE event_id IN (SELECT id FROM events WHERE user_id = $1)"

_OLD_ROWS = f"""
SELECT a.* FROM adopted_rows AS a
WHERE a.id IN (SELECT id FROM subscriptions WHERE user_id = $1 UNION ALL {_INVOICES}) OR EXISTS (
    SELECT FROM adoptions, jsonb_to_recordset(users_in) AS t (part text, of_user text)
    WHERE t.part = a.part AND a.old ->> t.of_user IN (
        SELECT old_id FROM adopted_users WHERE user_id = $1 UNION ALL SELECT $1::uuid::text))
"""

HELD: Final = {
    "btcpay_invoices": HeldRows("Invoices: what was asked for and paid", "created_at, id", is_kept=True),
    "subscriptions": HeldRows(
        "What was bought or granted, and how much of it was used",
        "s.number",
        "SELECT s.*, q.plan_type, q.amount AS price, q.currency FROM subscriptions AS s"
        " JOIN quotes AS q ON q.id = s.quote_id WHERE s.user_id = $1",
        is_kept=True,
    ),
    "top_ups": HeldRows(
        "Packs of messages, and which subscription they were added to",
        "at, invoice_id",
        f"SELECT * FROM top_ups WHERE invoice_id IN ({_INVOICES})",
        is_kept=True,
    ),
    "extended_users": HeldRows(
        "Days that operators gave, such as after an outage",
        "u.at",
        "SELECT e.days, e.reason, u.at FROM extended_users AS u JOIN extensions AS e ON e.id = u.extension_id"
        " WHERE u.user_id = $1",
    ),
    "extensions": HeldRows(
        "Such days, where the reason names the user",
        "begun_at",
        "SELECT days, begun_at FROM extensions WHERE reason ~* $1::text",
    ),
    "ledger": HeldRows("Every movement of money; the sum is the credit", "id", is_kept=True),
    "refunds": HeldRows("Refunds that were ordered", "id", is_kept=True),
    "auto_renewals": HeldRows("Whether plans are renewed from credit"),
    "lapses": HeldRows("A plan that has run out and waits to be renewed"),
    "adopted_users": HeldRows("The id that the user had in KosmoConnect v0.1"),
    "adopted_rows": HeldRows("What KosmoConnect v0.1 knew of the user", "a.part, a.id", _OLD_ROWS),
    "attention_cases": HeldRows("Payments that an operator had to decide about", "id", is_kept=True),
    "audit_log": HeldRows("What operators did about the user, and why", "id", is_kept=True),
    "recounts": HeldRows("Whether what was carried over waits to be counted again", is_kept=True),
    "entitlements": HeldRows("The version of the document that gateways have of the user"),
    "outbox": HeldRows(
        "What waits to be published to gateways about the user",
        "id",
        "SELECT kind, id, queued_at FROM outbox WHERE $1 = ANY (users)",
    ),
    "events": HeldRows("What was told to other programs about the user", "id"),
    "hook_deliveries": HeldRows(
        "Events that wait to be sent to the operator's endpoints", "hook_id, event_id", _OF_EVENTS
    ),
    "hook_answers": HeldRows("What those endpoints answered", "hook_id, id", _OF_EVENTS),
    "whitelisted_nodes": HeldRows("The nodes that the user listed, with labels", "added_at, node_id"),
    "node_additions": HeldRows("Which nodes were listed as new in about the last day", "added_at, node_id"),
    "usage_events": HeldRows(
        "Single messages: when, by which gateway and to which node; never what was said",
        "sent_at, message_id",
    ),
    "usage_days": HeldRows("Messages per day (UTC)", "day"),
    "leases": HeldRows("Messages of the quota that were set apart for gateways", "granted_at, id"),
    "idempotency_keys": HeldRows(
        "Keys of purchase requests, for a day",
        "created_at, key",
        "SELECT key, invoice_id, is_new, reply_status, created_at FROM idempotency_keys WHERE user_id = $1",
    ),
    "renewal_links": HeldRows(
        "Renewal links; the link itself is not kept",
        "issued_at",
        "SELECT generation, issued_at, revoked_at FROM renewal_links WHERE user_id = $1",
    ),
    "webhook_deliveries": HeldRows(
        "What BTCPay Server reported about the user's invoices",
        "d.received_at, d.delivery_id",
        "SELECT d.* FROM btcpay_invoices AS i JOIN webhook_deliveries AS d"
        " ON d.btcpay_invoice_id = i.btcpay_invoice_id OR d.order_id = i.id::text WHERE i.user_id = $1",
    ),
    "usage_quarantine": HeldRows(
        "Reports of gateways that name the user and could not be read; they may name others too",
        "id",
        "SELECT id, reporter, received_at FROM usage_quarantine"
        " WHERE encode(payload, 'escape') || reason ~* $1::text",
    ),
    "parked_reports": HeldRows(
        "Reports of gateways that name the user and wait to be counted; they may name others too",
        "id",
        "SELECT id, reporter, parked_at FROM parked_reports WHERE encode(payload, 'escape') ~* $1::text",
    ),
    "reporter_cases": HeldRows(
        "Gateways that reported too much of the user",
        "id",
        "SELECT id, reporter, opened_at FROM reporter_cases WHERE detail ~* $1::text",
    ),
}

HOLDS_NOBODY: Final = {
    "quotes": "plans and prices as they were sold",
    "attachments": "which invoice of BTCPay is which of ours",
    "lookups": "which invoices are asked for at BTCPay, and when",
    "inquiries": "what else BTCPay is asked about",
    "installation": "one row",
    "lease_files": "files of gateways",
    "hooks": "endpoints of operators",
    "console_logins": "operators",
    "console_sessions": "operators",
    "adoptions": "that v0.1 was moved in, and how",
    "figures": "sums for metrics",
    "takings": "sums by day",
    "ledger_days": "sums by day",
    "pseudonyms": "random ids, and nothing that they belong to",
    "erased_users": "fingerprints, from which no id follows",
    "kosmo_billing_migrations": "which migrations were applied",
}
"""Tables without any user, and what is in them."""

_COUNTS: Final = " UNION ALL ".join(
    f"SELECT '{name}' AS name, count(*) AS number FROM ({held.query(name)}) AS held"
    for name, held in HELD.items()
)


async def count(connection: Connection, user_id: UUID) -> dict[str, int]:
    """Count the rows about a user by table."""
    return {row["name"]: row["number"] for row in await connection.fetch(_COUNTS, user_id)}


_EXPORT: Final = " UNION ALL ".join(
    f"SELECT '{name}' AS name, to_jsonb(held)::text AS row FROM ({held.query(name)}) AS held"
    for name, held in HELD.items()
)


async def stream(connection: Connection, user_id: UUID) -> AsyncIterator[tuple[str, str]]:
    """Give every row about a user as its table and JSON, in the order of ``HELD``, as of one moment.

    Within a transaction.
    """
    async for row in connection.cursor(_EXPORT, user_id, prefetch=PREFETCHED):
        yield row["name"], row["row"]
