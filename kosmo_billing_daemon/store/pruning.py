"""Removes rows that no rule needs any more, where no index tells their age: a page of the table at a time.

An index by age would cost every purchase. So each statement looks at one page beyond a key, and returns where
the next one begins. Money is kept: nothing goes on which any was ever seen.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

from kosmo_billing_daemon.runtime.records import record
from kosmo_billing_daemon.store.postgres import Connection, changed


@record
class PrunedPage:
    """How many rows went, and the last key of the page; ``None`` beyond the last row."""

    removed: int
    last: Any


Prune: TypeAlias = Callable[[Connection, Any, datetime, int], Awaitable[PrunedPage]]
"""Prunes the page beyond a key of what ended before a time."""

# Who has no current subscription, and since when. Each user is looked up alone, however many are expected.
_HAS_LAPSED = """
coalesce((SELECT max(coalesce(ended_at, 'infinity')) FROM (
    SELECT ended_at FROM subscriptions WHERE user_id = p.user_id OFFSET 0) AS s), {since}) < $2
"""

# A purchase meanwhile has raised the version, and the row stays. Queued users without a row are cleared.
_DOCUMENTS = f"""
WITH page AS MATERIALIZED (
    SELECT user_id, version, changed_at FROM entitlements WHERE user_id > $1 ORDER BY user_id LIMIT $3
), removed AS (
    DELETE FROM entitlements AS e USING page AS p
    WHERE e.user_id = p.user_id AND e.version = p.version AND {_HAS_LAPSED.format(since="p.changed_at")}
    RETURNING e.user_id
), queued AS (
    SELECT queue_users('repeat', array_agg(user_id ORDER BY user_id)) FROM removed HAVING count(*) > 0
)
SELECT (SELECT count(*) FROM removed) + 0 * (SELECT count(*) FROM queued) AS removed,
    (SELECT user_id FROM page ORDER BY user_id DESC LIMIT 1) AS last
"""


async def documents(connection: Connection, after: Any, before: datetime, limit: int) -> PrunedPage:
    """Have the documents cleared of users who lapsed before a time.

    A gate then knows such a user as little as one who never bought; the next purchase makes a new document,
    with a version above all there were. Late usage counts for seven days after the end, and raises it too.
    """
    return _page(await connection.fetch(_DOCUMENTS, after, before, limit))


_LINKS = f"""
WITH page AS MATERIALIZED (
    SELECT token_hash, user_id, issued_at, revoked_at FROM renewal_links WHERE token_hash > $1
    ORDER BY token_hash LIMIT $3
), removed AS (
    DELETE FROM renewal_links AS l USING page AS p
    WHERE l.token_hash = p.token_hash AND l.revoked_at IS NULL AND p.issued_at < $2
        AND {_HAS_LAPSED.format(since="p.issued_at")}
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed) AS removed,
    (SELECT token_hash FROM page ORDER BY token_hash DESC LIMIT 1) AS last
"""


async def links(connection: Connection, after: Any, before: datetime, limit: int) -> PrunedPage:
    """Forget links of users who lapsed before a time.

    Not those that were revoked: tokens are computed, and by these rows a revoked one is not given out again.
    """
    return _page(await connection.fetch(_LINKS, after, before, limit))


# Each invoice is looked up by itself (OFFSET 0). A planned poll, an operator's case, anything in
# the books, or a settlement under way keeps it. What an erased user left open is declined.
_INVOICES = """
WITH page AS MATERIALIZED (
    SELECT id FROM btcpay_invoices WHERE id > $1 ORDER BY id LIMIT $3
), old AS MATERIALIZED (
    SELECT i.id, i.user_id FROM page AS p, LATERAL (
        SELECT * FROM btcpay_invoices WHERE id = p.id OFFSET 0) AS i
    WHERE i.status IN ('expired', 'abandoned') AND i.payment = 'none' AND i.effect IN ('none', 'declined')
        AND i.created_at < $2 AND i.next_check_at IS NULL AND i.late_unconfirmed_at IS NULL
        AND coalesce(i.paid_amount, 0) = 0 AND i.received = 0 AND i.adjusted = 0
        AND (SELECT true FROM ledger WHERE user_id = i.user_id AND invoice_id = i.id LIMIT 1) IS NULL
        AND (SELECT true FROM refunds WHERE user_id = i.user_id AND invoice_id = i.id LIMIT 1) IS NULL
        AND (SELECT true FROM attention_cases WHERE invoice_id = i.id LIMIT 1) IS NULL
        AND (SELECT true FROM subscriptions WHERE invoice_id = i.id LIMIT 1) IS NULL
), free AS MATERIALIZED (
    SELECT id FROM old WHERE pg_try_advisory_xact_lock(1802465134, hashtext(user_id::text))
), removed AS (
    DELETE FROM btcpay_invoices AS i USING free AS f
    WHERE i.id = f.id AND i.status IN ('expired', 'abandoned') AND i.payment = 'none' AND i.received = 0
    RETURNING i.btcpay_invoice_id
), detached AS (
    DELETE FROM attachments AS a USING removed AS r WHERE a.btcpay_invoice_id = r.btcpay_invoice_id
)
SELECT (SELECT count(*) FROM removed) AS removed, (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last
"""


async def invoices(connection: Connection, after: Any, before: datetime, limit: int) -> PrunedPage:
    """Forget expired and abandoned invoices that were created before a time and saw no money.

    If one is paid after all, BTCPay's webhook opens a case for an unknown order (R13).
    """
    return _page(await connection.fetch(_INVOICES, after, before, limit))


_ADDITIONS = """
WITH page AS MATERIALIZED (
    SELECT user_id, node_id FROM node_additions WHERE (user_id, node_id) > ($1, '~') ORDER BY user_id, node_id
    LIMIT $3
), removed AS (
    DELETE FROM node_additions AS n USING page AS p
    WHERE n.user_id = p.user_id AND n.node_id = p.node_id AND n.added_at < $2 RETURNING 1
)
SELECT (SELECT count(*) FROM removed) AS removed,
    (SELECT user_id FROM page ORDER BY user_id DESC LIMIT 1) AS last
"""


async def additions(connection: Connection, after: Any, before: datetime, limit: int) -> PrunedPage:
    """Forget which nodes were listed as new before a time: the limit of a day counts them no more."""
    return _page(await connection.fetch(_ADDITIONS, after, before, limit))


def _page(rows: Any) -> PrunedPage:
    return PrunedPage(rows[0]["removed"], rows[0]["last"])


_LOOKUPS: Final = """
DELETE FROM lookups AS l
WHERE due_at <= $1 AND (SELECT true FROM btcpay_invoices WHERE id = l.invoice_id LIMIT 1) IS NULL
"""


async def lookups(connection: Connection, now: datetime) -> int:
    """Take lookups that are due out of the queue if their invoice is gone: a webhook may come meanwhile."""
    return int((await connection.execute(_LOOKUPS, now)).rpartition(" ")[2])


# Ids rise with time but for the last moments. What the broker has not acknowledged is kept.
_EVENTS = """
DELETE FROM events WHERE id IN (
    SELECT id FROM (SELECT id, occurred_at FROM events ORDER BY id LIMIT $2) AS oldest
    WHERE occurred_at < $1 AND id < coalesce(
        (SELECT events[1] FROM outbox WHERE kind = 'event' ORDER BY id LIMIT 1), id + 1))
"""


async def events(connection: Connection, before: datetime, limit: int) -> int:
    """Forget events of long ago; returns how many. No rule reads them: they are told, and listed."""
    return changed(await connection.execute(_EVENTS, before, limit))
