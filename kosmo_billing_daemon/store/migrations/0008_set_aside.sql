-- What could not be handled is tried again later; every daemon must see that the leader knows of it, or each would
-- take the queue for stuck.
ALTER TABLE webhook_deliveries ADD COLUMN set_aside_at timestamptz, ADD COLUMN set_aside_why text;

-- Usage reports that could not be counted because somebody else's transaction holds a row they need. They are
-- acknowledged to the broker, whose window they would block, and counted from here.
CREATE TABLE parked_reports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reporter text NOT NULL,
    report_id text NOT NULL,
    payload bytea NOT NULL,
    parked_at timestamptz NOT NULL,
    CONSTRAINT one_parked_report_per_id UNIQUE (reporter, report_id)
);
