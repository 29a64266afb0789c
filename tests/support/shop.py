"""A shop after years: the rows of any number of invoices, written by SQL in seconds."""

import asyncpg

# Each user bought several times: the last purchase but one was replaced by the last, which is current.
_FILL = """
SET synchronous_commit = off;
SET session_replication_role = replica;  -- no triggers: what they would write is written here
CREATE TEMP TABLE people AS
SELECT n AS number, md5('user ' || n)::uuid AS user_id FROM generate_series(1, {users}) AS n;
CREATE TEMP TABLE bought AS
SELECT n AS number, md5('invoice ' || n)::uuid AS id, user_id, now() - interval '1 day' * ({each} - place)
    - interval '1 ms' * n AS at, place, place >= {each} - 1 AS is_paid
FROM generate_series(1, {invoices}) AS n, LATERAL (SELECT (n - 1) / {users} + 1 AS place) AS p,
    LATERAL (SELECT md5('user ' || ((n - 1) % {users} + 1))::uuid AS user_id) AS u;
INSERT INTO quotes (plan_type, amount, currency, period, quota, scope, features)
SELECT 'guardian', n, 'USD', '30 days', 500, 'any_node', '{{}}' FROM generate_series(1, 100) AS n;
INSERT INTO btcpay_invoices (
    id, user_id, quote_id, status, effect, btcpay_invoice_id, checkout_url, created_at, expires_at,
    settled_at)
SELECT id, user_id, quote_id('guardian', 12, 'USD', '30 days', 500, 'any_node', '{{}}'),
    CASE WHEN is_paid THEN 'settled' ELSE 'expired' END, CASE WHEN is_paid THEN 'fulfilled' ELSE 'none' END,
    'B' || left(md5('invoice ' || number), 21), 'https://pay.example/i/' || number, at,
    at + interval '15 minutes', CASE WHEN is_paid THEN at END
FROM bought;
INSERT INTO attachments SELECT btcpay_invoice_id, id FROM btcpay_invoices;
INSERT INTO subscriptions (
    id, user_id, invoice_id, source, quote_id, status, valid_from, valid_until, ended_at, messages_limit,
    carried_rule, carried_time, carried_messages)
SELECT md5('subscription ' || number)::uuid, user_id, id, 'btcpay',
    quote_id('guardian', 12, 'USD', '30 days', 500, 'any_node', '{{}}'),
    CASE place WHEN {each} THEN 'active' ELSE 'replaced' END, at, at + interval '30 days',
    CASE place WHEN {each} THEN NULL ELSE at + interval '1 day' END, 1000000000, 'fresh', '0', 0
FROM bought WHERE is_paid ORDER BY number;
UPDATE subscriptions SET status = 'expired', ended_at = now() WHERE status = 'active' AND number % 100 = 50;
UPDATE subscriptions SET messages_used = messages_limit, threshold_announced = 100
WHERE status = 'active' AND number % 100 = 25;
INSERT INTO webhook_deliveries (
    delivery_id, received_at, type, btcpay_invoice_id, order_id, store_id, outcome)
SELECT 'delivery-' || md5(number::text), at, 'InvoiceSettled', 'B' || left(md5('invoice ' || number), 21),
    id::text, 'BenchStore', 'ours'
FROM bought;
INSERT INTO lookups (due_at, invoice_id)
SELECT now() + interval '1 ms' * number, id FROM bought WHERE number % 5 = 0;
INSERT INTO events (type, user_id, data, occurred_at)
SELECT 'invoice.created', user_id, jsonb_build_object('order_id', id), at FROM bought;
INSERT INTO usage_events (
    user_id, message_id, subscription_id, node_id, reporter, count, over_limit, sent_at, received_at)
SELECT user_id, 'message-' || number, md5('subscription ' || number)::uuid, '!0a1b2c3d', 'gateway', 1, false,
    at, at + interval '1 s'
FROM bought;
INSERT INTO usage_days (user_id, day, messages)
SELECT user_id, (at AT TIME ZONE 'UTC')::date AS day, count(*) FROM bought GROUP BY user_id, day;
INSERT INTO entitlements (user_id, version, first_version, changed_at)
SELECT user_id, number + 1, number + 1, now() FROM people;
SELECT setval('entitlement_versions', {users} + 1);
INSERT INTO outbox (kind, users) SELECT 'usage', ARRAY[user_id] FROM people WHERE number % 40 = 0;
INSERT INTO attention_cases (invoice_id, user_id, kind, detail, amount, opened_at, closed_at, resolution)
SELECT id, user_id, 'late_payment', 'late', 12, at, at + interval '1 hour', 'refunded' FROM bought
WHERE number % 10 = 0;
INSERT INTO attention_cases (
    kind, detail, amount, btcpay_invoice_id, currency, opened_at, closed_at, resolution)
SELECT 'unknown_order', 'lost', 12, 'lost ' || number, 'USD', at, at + interval '1 hour', 'refunded'
FROM bought WHERE number % 100 = 0;
INSERT INTO attention_cases (user_id, kind, detail, amount, currency, opened_at)
SELECT user_id, 'negative_balance', 'spent', 12, 'USD', now() FROM people
WHERE number % 500 = 0 OR number < 3;
INSERT INTO inquiries (btcpay_invoice_id, pull_payment_id, due_at)
SELECT 'lost ' || number, '', now() + interval '1 ms' * number FROM bought WHERE number % 20 = 0;
INSERT INTO ledger (at, user_id, kind, amount, currency, invoice_id)
SELECT at, user_id, kind, amount, 'USD', id
FROM bought, (VALUES ('received', 12), ('sold', -12)) AS e (kind, amount) WHERE is_paid;
INSERT INTO refunds (
    user_id, invoice_id, btcpay_invoice_id, amount, currency, ordered_at, tried_at, pull_payment_id, link)
SELECT user_id, id, 'refunded ' || number, 1, 'USD', at, at, 'pull payment ' || number, 'https://pay.example'
FROM bought WHERE number % 50 = 0;
INSERT INTO auto_renewals (user_id, is_on, chosen_at)
SELECT user_id, number % 4 = 0, now() FROM people WHERE number % 2 = 0;
INSERT INTO lapses SELECT user_id, now() FROM people WHERE number % 400 = 0;
INSERT INTO extensions (id, days, reason, begun_at, all_at)
SELECT md5('extension ' || n)::uuid, n, 'outage', now() - interval '1 day' * n, now() - interval '1 day' * n
FROM generate_series(1, 100) AS n;
INSERT INTO extended_users (extension_id, user_id, subscription_id, at)
SELECT md5('extension ' || number % 3 + 1)::uuid, user_id, user_id, now() FROM people;
INSERT INTO recounts SELECT user_id FROM people WHERE number % 100 = 0;
INSERT INTO idempotency_keys (
    user_id, key, fingerprint, invoice_id, is_new, reply_status, reply_body, created_at)
SELECT user_id, 'key-' || number, 'bytes'::bytea, id, true, 201, 'reply'::bytea, at FROM bought;
INSERT INTO whitelisted_nodes (user_id, node_id, label, added_at)
SELECT user_id, '!' || left(md5(number::text), 8), 'base', now() FROM people WHERE number % 2 = 0;
INSERT INTO node_additions (user_id, node_id, added_at)
SELECT user_id, '!' || left(md5(number::text), 8), now() FROM people WHERE number % 2 = 0;
INSERT INTO audit_log (at, who, action, user_id, subject, reason)
SELECT at, 'operator', 'grant', user_id, 'subscription', 'asked for it' FROM bought WHERE number % 10 = 0;
INSERT INTO usage_quarantine (reporter, reason, payload, size, received_at)
SELECT 'gateway', 'not JSON', 'bytes'::bytea, 1, at FROM bought WHERE number % 100 = 0;
INSERT INTO top_ups (invoice_id, subscription_id, at)
SELECT id, md5('subscription ' || number)::uuid, at FROM bought WHERE number % 50 = 0;
INSERT INTO leases (
    id, reporter, request_id, user_id, subscription_id, messages, used, granted_at, expires_at)
SELECT id, 'gateway', number::text, user_id, md5('subscription ' || number)::uuid, 20,
    CASE WHEN number % 50 = 0 THEN 10 ELSE 20 END, at, at + interval '1 day'
FROM bought WHERE is_paid;
INSERT INTO lease_files SELECT 'gateway-' || number, ARRAY['opening'] FROM people;
INSERT INTO reporter_cases (reporter, detail, opened_at, last_at, closed_at)
SELECT 'gateway-' || number, 'too much', at, at, CASE WHEN number % 500 = 0 THEN NULL ELSE at END FROM bought
WHERE number % 10 = 0;
INSERT INTO parked_reports (reporter, report_id, payload, parked_at)
SELECT 'gateway', number::text, 'bytes'::bytea, at FROM bought WHERE number % 100 = 0;
INSERT INTO hooks (url, events, secret, allow_private, added_at)
SELECT 'https://example.org/' || n, '{{*}}', 'whsec_', false, now() FROM generate_series(1, 3) AS n;
INSERT INTO hook_deliveries (hook_id, event_id) SELECT 1 + id % 3, id FROM events;
INSERT INTO hook_answers (hook_id, event_id, at, accepted, answer)
SELECT 1 + n % 3, n, now(), true, '200 OK' FROM generate_series(1, 300) AS n;
INSERT INTO renewal_links (token_hash, user_id, generation, issued_at)
SELECT sha256(user_id::text::bytea), user_id, 1, now() FROM people;
INSERT INTO console_logins (token_hash, who, expires_at)
SELECT sha256(user_id::text::bytea), 'operator', now() FROM people;
INSERT INTO console_sessions (token_hash, who, started_at, seen_at)
SELECT sha256(user_id::text::bytea), 'operator', now(), now() FROM people;
INSERT INTO takings SELECT current_date - 40 - n, 'wanderer', 'USD', 12, 1 FROM generate_series(1, 400) AS n;
INSERT INTO ledger_days
SELECT current_date - 40 - n, 'sold', 'USD', -12, 1, n, n FROM generate_series(1, 400) AS n;
INSERT INTO figures SELECT 'active', 'plan ' || n, n FROM generate_series(1, 10) AS n;
INSERT INTO pseudonyms SELECT md5('pseudonym ' || number)::uuid FROM people;
INSERT INTO erased_users SELECT sha256(user_id::text::bytea), now()::date - number % 40 FROM people;
INSERT INTO adopted_users SELECT user_id, number FROM people;
INSERT INTO adopted_rows SELECT 'invoices', id, false, 0, jsonb_build_object('id', number) FROM bought;
INSERT INTO adoptions (at, who, map, counts, moved, users_in, last_entry, last_audit)
SELECT now(), 'operator', 'map', '{{}}', '[]', '[]', 0, 0 FROM generate_series(1, 10);
SET session_replication_role = DEFAULT;
DROP TABLE people, bought;
ANALYZE;
"""


async def fill(connection: asyncpg.Connection, *, invoices: int, users: int) -> None:
    """Write a migrated, empty database full, as its superuser; every user has equally many invoices."""
    await connection.execute(_FILL.format(invoices=invoices, users=users, each=invoices // users))
