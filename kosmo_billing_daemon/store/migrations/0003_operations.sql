-- What operators did by hand: who, when, what and why. Rows are added and never changed.

CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    who        text NOT NULL,
    action     text NOT NULL,
    user_id    uuid,
    subject    text NOT NULL,
    reason     text NOT NULL,
    CONSTRAINT audit_log_has_a_reason CHECK (btrim(reason) <> ''),
    CONSTRAINT audit_log_names_somebody CHECK (btrim(who) <> '')
);
CREATE INDEX audit_log_by_user ON audit_log (user_id, id);
