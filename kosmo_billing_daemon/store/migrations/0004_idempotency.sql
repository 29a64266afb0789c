-- R10: what was answered under an Idempotency-Key. A key is bound to its invoice in the transaction that
-- reserves it, so a crash or a second daemon finds the same one; the answer is added when there is one.

CREATE TABLE idempotency_keys (
    user_id      uuid NOT NULL,
    key          text COLLATE "C" NOT NULL,
    fingerprint  bytea NOT NULL,
    invoice_id   uuid NOT NULL REFERENCES btcpay_invoices (id),
    is_new       boolean NOT NULL,
    reply_status smallint,
    reply_body   bytea,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, key),
    CONSTRAINT idempotency_keys_key_is_bounded CHECK (octet_length(key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_keys_reply_is_whole CHECK ((reply_status IS NULL) = (reply_body IS NULL))
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_by_invoice ON idempotency_keys (invoice_id);
