-- No statement needs it: a key is found by its user, and an invoice with a key is never deleted. Each keyed
-- purchase wrote it twice, once more when the key was forgotten.
DROP INDEX idempotency_keys_by_invoice;
