-- Messages counted, exactly once each, and the thresholds they cross. Whoever raises messages_used,
-- metering or a gateway with SQL of its own, is announced by the same trigger.

ALTER TABLE subscriptions ADD COLUMN threshold_announced smallint NOT NULL DEFAULT 0
    CONSTRAINT subscriptions_threshold_is_known CHECK (threshold_announced IN (0, 80, 100));

CREATE FUNCTION quota_threshold(used bigint, most bigint) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE quota_state(used, most) WHEN 'exhausted' THEN 100 WHEN 'warning' THEN 80 ELSE 0 END;

-- Each threshold once per subscription: the row that is being written remembers it, so neither a repeat
-- nor a race can announce it again, and a purchase, being a new row, arms both. Rows that have ended
-- are not announced: their users go by another one.
CREATE FUNCTION announce_threshold() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE reached smallint := quota_threshold(NEW.messages_used, NEW.messages_limit);
BEGIN
    INSERT INTO events (type, user_id, data, occurred_at)
    SELECT t.type, NEW.user_id, jsonb_build_object(
        'subscription_id', NEW.id, 'plan_type', NEW.plan_type, 'threshold', t.threshold,
        'messages_used', NEW.messages_used, 'messages_limit', NEW.messages_limit), clock_timestamp()
    FROM (VALUES ('quota.warning', 80), ('quota.exhausted', 100)) AS t (type, threshold)
    WHERE t.threshold > NEW.threshold_announced AND t.threshold <= reached
    ORDER BY t.threshold;
    NEW.threshold_announced := reached;
    RETURN NEW;
END $$;

CREATE TRIGGER subscriptions_threshold_announced BEFORE UPDATE ON subscriptions FOR EACH ROW
    WHEN (NEW.status IN ('active', 'grace')
        AND quota_threshold(NEW.messages_used, NEW.messages_limit) > NEW.threshold_announced)
    EXECUTE FUNCTION announce_threshold();

-- One row per message of a user: the key is what counts each once. Ids and node ids are compared as
-- bytes, which costs a fraction of a language's rules. No foreign key to subscriptions: it would cost
-- a check per message, and subscriptions are never deleted.
CREATE TABLE usage_events (
    user_id         uuid NOT NULL,
    message_id      text COLLATE "C" NOT NULL,
    subscription_id uuid,
    node_id         text COLLATE "C",
    reporter        text COLLATE "C" NOT NULL,
    count           integer NOT NULL,
    over_limit      boolean NOT NULL,
    sent_at         timestamptz NOT NULL,
    received_at     timestamptz NOT NULL,
    CONSTRAINT usage_events_counted_once PRIMARY KEY (user_id, message_id),
    CONSTRAINT usage_events_count_is_positive CHECK (count > 0),
    CONSTRAINT usage_events_sent_before_received CHECK (sent_at <= received_at)
);
CREATE INDEX usage_events_latest ON usage_events (user_id, sent_at);
CREATE INDEX usage_events_by_arrival ON usage_events (received_at);

-- Messages per user and day (UTC), kept with the events, so that reading a month costs thirty rows.
CREATE TABLE usage_days (
    user_id  uuid NOT NULL,
    day      date NOT NULL,
    messages bigint NOT NULL,
    PRIMARY KEY (user_id, day)
) WITH (fillfactor = 80);
CREATE INDEX usage_days_by_day ON usage_days (day);

-- Reports that could not be read, for whoever has to mend their sender.
CREATE TABLE usage_quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reporter    text NOT NULL,
    reason      text NOT NULL,
    payload     bytea NOT NULL,
    size        integer NOT NULL,
    received_at timestamptz NOT NULL,
    CONSTRAINT usage_quarantine_payload_is_bounded CHECK (octet_length(payload) <= 4096)
);
