-- 'infinity' and years beyond 9999 are no times to our language and have no form in a document: one row of them, by
-- whatever hand, would end every daemon that reads it. Usage messages are written by us alone, and are too many to
-- look at.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT c.relname AS of_table, a.attname AS name
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND c.relname IN (
                'subscriptions', 'btcpay_invoices', 'webhook_deliveries', 'attention_cases', 'events',
                'whitelisted_nodes', 'entitlements', 'audit_log', 'parked_reports')
            AND c.relkind = 'r' AND a.atttypid = 'timestamptz'::regtype AND NOT a.attisdropped
        ORDER BY c.relname, a.attnum
    LOOP
        EXECUTE format(
            'ALTER TABLE %1$I ADD CONSTRAINT %3$I'
            ' CHECK (%2$I >= ''1900-01-01 00:00+00'' AND %2$I < ''9999-12-01 00:00+00'')',
            one.of_table, one.name, one.of_table || '_' || one.name || '_is_a_time');
    END LOOP;
END
$$;
-- It is a level of a topic: with a wildcard in it, the broker would end the connection over which all is published.
ALTER TABLE events ADD CONSTRAINT events_type_is_a_name CHECK (type ~ '^[a-z0-9_.-]{1,100}$');
