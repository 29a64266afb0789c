-- What a transaction of ours begins with, so that it is one round trip together with BEGIN.

-- Serialises changes of users' purchases until the transaction ends. In order, so that two batches cannot
-- deadlock; a class of their own, or a user whose hash met the leader's would wait for as long as it leads.
CREATE FUNCTION lock_users(users uuid[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1802465134, key)
    FROM (SELECT DISTINCT hashtext(user_id::text) AS key FROM unnest(users) AS u (user_id) ORDER BY key) AS ordered;
END $$;

CREATE FUNCTION lock_owners(invoices uuid[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lock_users(ARRAY(SELECT user_id FROM btcpay_invoices WHERE id = ANY (invoices)));
END $$;

-- What was published, word for word, so that a broker that lost it can be given it again without asking anybody
-- what it would say today. Empty where an earlier release published it.
ALTER TABLE entitlements ADD COLUMN published_document text;
