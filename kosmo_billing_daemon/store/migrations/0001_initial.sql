-- Tables, constraints and triggers. The invariants of R1 and R12 live here.
--
-- Quotes, invoices, subscriptions, lookups, deliveries and cases; events; entitlements and their versions; usage; operators;
-- hooks; renewal; moving in; what a transaction begins with.

-- A quote's id follows from its content, so whoever writes it down knows it, and the same content is one row. The
-- daemon computes the same (Plan.quote_id).
CREATE FUNCTION quote_id(
    plan_type text, amount numeric, currency text, period interval, quota bigint, scope text, features text[],
    fits text[] DEFAULT '{}'
) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(substring(sha256(convert_to(jsonb_build_array(
    plan_type, amount::text, currency, (extract(epoch FROM period) * 1000000)::bigint, quota, scope, features,
    fits)::text,
    'UTF8')) FOR 16), 'hex')::uuid;

-- Plans and packs as they were sold: written once, referred to by invoices and subscriptions.
CREATE TABLE quotes (
    id        uuid PRIMARY KEY
        GENERATED ALWAYS AS (quote_id(plan_type, amount, currency, period, quota, scope, features, fits)) STORED,
    plan_type text NOT NULL,
    amount    numeric NOT NULL,
    currency  text NOT NULL,
    period    interval NOT NULL,
    quota     bigint,
    scope     text NOT NULL,
    features  text[] NOT NULL,
    fits      text[] NOT NULL DEFAULT '{}',  -- of a pack: the plans whose limit it raises (R17)
    CONSTRAINT quotes_pack_adds_messages_alone CHECK (fits = '{}' OR period = '0' AND quota > 0),
    CONSTRAINT quotes_amount_is_positive CHECK (amount > 0),
    CONSTRAINT quotes_scope_is_known CHECK (scope IN ('any_node', 'whitelist', 'none'))
);

CREATE TABLE btcpay_invoices (
    id                  uuid PRIMARY KEY,
    user_id             uuid NOT NULL,
    quote_id            uuid NOT NULL,  -- saved by the same statement; a reference would lock it for each invoice
    status              text NOT NULL,
    payment             text NOT NULL DEFAULT 'none',
    effect              text NOT NULL DEFAULT 'none',
    btcpay_invoice_id   text,
    checkout_url        text,
    redirect_url        text,
    paid_amount         numeric,
    created_at          timestamptz NOT NULL,
    expires_at          timestamptz,
    settled_at          timestamptz,
    late_unconfirmed_at timestamptz,
    observed_at         timestamptz,
    observation         bigint NOT NULL DEFAULT 0,
    next_check_at       timestamptz,  -- of its poll in lookups
    is_released         boolean NOT NULL DEFAULT false,  -- a reservation that nobody is completing any more
    credit_used         numeric NOT NULL DEFAULT 0,  -- of the price; BTCPay is asked for the rest
    received            numeric NOT NULL DEFAULT 0,  -- in the ledger: confirmed by BTCPay
    adjusted            numeric NOT NULL DEFAULT 0,  -- granted, or written off if negative; not while revoked
    CONSTRAINT btcpay_invoices_status_is_known CHECK (
        status IN ('reserved', 'new', 'processing', 'settled', 'expired', 'invalid', 'abandoned')),
    CONSTRAINT btcpay_invoices_payment_is_known CHECK (payment IN ('none', 'partial', 'over', 'late', 'marked')),
    -- What an operator withdrew, or declined without giving any rights, no mark at BTCPay gives again.
    CONSTRAINT btcpay_invoices_effect_is_known CHECK (
        effect IN ('none', 'fulfilled', 'revoked', 'credited', 'withdrawn', 'declined')),
    CONSTRAINT btcpay_invoices_attached_unless_reserved CHECK (
        btcpay_invoice_id IS NOT NULL OR status IN ('reserved', 'abandoned')
        OR credit_used > 0 AND status = 'settled')  -- nothing was left to ask BTCPay for
) WITH (fillfactor = 30);  -- a reservation doubles when it is attached, and nothing that changes is in an index: HOT
-- Numbers lookups at BTCPay in the order in which they were asked for, by all daemons and whatever their
-- clocks say: an answer that comes late must not undo what a later lookup observed.
CREATE SEQUENCE observations;
CREATE INDEX btcpay_invoices_by_user ON btcpay_invoices (user_id, created_at DESC, id DESC);

-- Which of our invoices an invoice at BTCPay is: one at most. A table of its own, because an index on a column that is
-- written later would make that update rewrite every index.
CREATE TABLE attachments (
    btcpay_invoice_id text COLLATE "C" NOT NULL,
    invoice_id        uuid NOT NULL,
    CONSTRAINT btcpay_invoices_attached_once PRIMARY KEY (btcpay_invoice_id)
);

CREATE FUNCTION attach_invoice() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO attachments (btcpay_invoice_id, invoice_id) VALUES (NEW.btcpay_invoice_id, NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER btcpay_invoices_attached AFTER UPDATE ON btcpay_invoices FOR EACH ROW
    WHEN (NEW.btcpay_invoice_id IS DISTINCT FROM OLD.btcpay_invoice_id) EXECUTE FUNCTION attach_invoice();
CREATE TRIGGER btcpay_invoices_inserted AFTER INSERT ON btcpay_invoices FOR EACH ROW
    WHEN (NEW.btcpay_invoice_id IS NOT NULL) EXECUTE FUNCTION attach_invoice();

CREATE TABLE subscriptions (
    id                   uuid PRIMARY KEY,
    number               bigint GENERATED ALWAYS AS IDENTITY,
    user_id              uuid NOT NULL,
    quote_id             uuid NOT NULL REFERENCES quotes (id),
    invoice_id           uuid,  -- fulfilled ones are never deleted; a reference would lock it for each purchase
    source               text NOT NULL,
    status               text NOT NULL,
    valid_from           timestamptz NOT NULL,
    valid_until          timestamptz NOT NULL,
    grace_until          timestamptz,
    ended_at             timestamptz,
    revoked_at           timestamptz,
    cashed_at            timestamptz,  -- when what was left of it became credit
    messages_limit       bigint,
    messages_used        bigint NOT NULL DEFAULT 0,
    carried_rule         text NOT NULL,
    carried_from         uuid,
    carried_time         interval NOT NULL,
    carried_messages     bigint NOT NULL,
    stack                jsonb,  -- its lots; NULL: nothing but its own payment
    reason               text,
    -- How long before its end the next reminder is due; 0 where none is left. Sessions of ours say with how many it begins.
    reminder_hours       smallint NOT NULL
        DEFAULT coalesce(nullif(current_setting('kosmo_billing.reminder_hours', true), '')::smallint, 168),
    -- When time next changes anything: a reminder, the end, or the end of grace.
    next_deadline        timestamptz GENERATED ALWAYS AS (CASE status
        WHEN 'grace' THEN grace_until
        WHEN 'active' THEN greatest(
            valid_from, (valid_until AT TIME ZONE 'UTC' - reminder_hours * interval '1 hour') AT TIME ZONE 'UTC')
        END) STORED,
    threshold_announced  smallint NOT NULL DEFAULT 0,
    -- R1: one effect per invoice, for ever.
    CONSTRAINT subscriptions_one_per_invoice UNIQUE (invoice_id),
    CONSTRAINT subscriptions_source_is_known CHECK (
        source IN ('btcpay', 'manual', 'grant', 'credit', 'adopted')),
    CONSTRAINT subscriptions_paid_or_granted CHECK (
        invoice_id IS NOT NULL OR source IN ('grant', 'adopted')),
    CONSTRAINT subscriptions_status_is_known CHECK (
        status IN ('active', 'grace', 'replaced', 'expired', 'revoked')),
    CONSTRAINT subscriptions_period_is_forward CHECK (valid_until > valid_from),
    CONSTRAINT subscriptions_end_is_forward CHECK (ended_at >= valid_from),
    CONSTRAINT subscriptions_ended_unless_current CHECK (
        (ended_at IS NULL) = (status IN ('active', 'grace'))),
    CONSTRAINT subscriptions_grace_is_timed CHECK (status <> 'grace' OR grace_until IS NOT NULL),
    CONSTRAINT subscriptions_use_is_counted_up CHECK (messages_used >= 0),
    CONSTRAINT subscriptions_rule_is_known CHECK (carried_rule IN ('fresh', 'added', 'converted')),
    CONSTRAINT subscriptions_reminder_is_before_the_end CHECK (reminder_hours >= 0),
    CONSTRAINT subscriptions_threshold_is_known CHECK (threshold_announced IN (0, 80, 100))
) WITH (fillfactor = 80);  -- room for HOT updates of messages_used
-- R12: at most one current subscription per user. What is included lets operators list and count all of them without
-- reading the rows; an index of its own would cost every purchase a tenth.
CREATE UNIQUE INDEX subscriptions_one_current_per_user ON subscriptions (user_id) INCLUDE (valid_until, quote_id)
    WHERE status IN ('active', 'grace');
CREATE INDEX subscriptions_by_user ON subscriptions (user_id, number);
CREATE INDEX subscriptions_by_deadline ON subscriptions (next_deadline) WHERE next_deadline IS NOT NULL;
-- Who has used up a plan; counting other messages does not change it.
CREATE INDEX subscriptions_exhausted ON subscriptions (user_id)
    WHERE status IN ('active', 'grace') AND threshold_announced = 100;

-- Packs, and whose limit they raise (R17). The lot is in that subscription's stack, under the invoice's id.
CREATE TABLE top_ups (
    invoice_id      uuid NOT NULL,
    subscription_id uuid NOT NULL,
    at              timestamptz NOT NULL,
    revoked_at      timestamptz,
    CONSTRAINT top_ups_forward CHECK (revoked_at >= at)
);
-- R1: an invoice raises one limit, until it is taken back.
CREATE UNIQUE INDEX top_ups_one_per_invoice ON top_ups (invoice_id) WHERE revoked_at IS NULL;

-- Time that operators gave, such as after an outage: so many days for a reason. Who got it is written with it, so that
-- a run that was cut off continues and nobody gets it twice.
CREATE TABLE extensions (
    id       uuid PRIMARY KEY,
    days     integer NOT NULL,
    reason   text NOT NULL,
    begun_at timestamptz NOT NULL,
    all_at   timestamptz,  -- who had a plan then is meant, where everybody is
    CONSTRAINT extensions_days_are_positive CHECK (days > 0),
    CONSTRAINT extensions_one_per_reason UNIQUE (reason, days)
);

CREATE TABLE extended_users (
    extension_id    uuid NOT NULL REFERENCES extensions (id),
    user_id         uuid NOT NULL,
    subscription_id uuid NOT NULL,
    at              timestamptz NOT NULL,
    CONSTRAINT extended_users_once PRIMARY KEY (user_id, extension_id)
);

-- Users whose earlier subscriptions were used more, or held by leases less, than was known when a later one took over the
-- rest.
CREATE TABLE recounts (user_id uuid PRIMARY KEY);

CREATE FUNCTION queue_recount() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO recounts (user_id) VALUES (NEW.user_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER subscriptions_used_late AFTER UPDATE ON subscriptions FOR EACH ROW
    WHEN (NEW.messages_used <> OLD.messages_used
        AND (NEW.status IN ('replaced', 'revoked') OR NEW.cashed_at IS NOT NULL))
    EXECUTE FUNCTION queue_recount();

-- R13: every cent that came in, was sold, granted, refunded or written off. The user's credit is the sum.
CREATE TABLE ledger (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    user_id    uuid NOT NULL,
    kind       text NOT NULL,
    amount     numeric NOT NULL,  -- what it does to the user's credit
    currency   text NOT NULL,
    invoice_id uuid,    -- no foreign key: it would cost a check per entry, and invoices with money are never deleted
    purchase   uuid,    -- whose sale is taken back in part, where no invoice is
    reverses   bigint REFERENCES ledger (id),
    who        text,
    reason     text,
    CONSTRAINT ledger_kind_is_known CHECK (kind IN ('received', 'granted', 'sold', 'refunded', 'written_off')),
    CONSTRAINT ledger_amount_is_something CHECK (amount <> 0),
    CONSTRAINT ledger_operator_has_a_reason CHECK (who IS NULL OR btrim(reason) <> ''),
    CONSTRAINT ledger_is_for_something CHECK (invoice_id IS NOT NULL OR purchase IS NOT NULL OR who IS NOT NULL)
);
CREATE INDEX ledger_by_user ON ledger (user_id, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed; reverse them with another', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER ledger_is_append_only BEFORE DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- How people write a user's id, as a regular expression: also in capitals, and without its hyphens.
CREATE FUNCTION written_user(user_id uuid) RETURNS text LANGUAGE sql IMMUTABLE
RETURN '(?i)' || replace(user_id::text, '-', '-?');

CREATE FUNCTION without_user(said text, user_id uuid) RETURNS text LANGUAGE sql IMMUTABLE
RETURN regexp_replace(said, written_user(user_id), 'erased', 'g');

-- Random ids under which the money of erased users is kept. Nothing says whose they were, nor when they were given.
CREATE TABLE pseudonyms (user_id uuid PRIMARY KEY);

-- The one change of an entry: whose it is, when its user is erased (erase_from_ledger), and with it what an operator
-- wrote about the user; of an entry of somebody else, the id that was written there. Columns are compared as they are
-- written, so new ones are covered, and no amount changes its decimals.
CREATE FUNCTION refuse_change_of_entry() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    pseudonym text := nullif(current_setting('kosmo_billing.pseudonym', true), '');
    gone text := nullif(current_setting('kosmo_billing.gone', true), '');
BEGIN
    IF EXISTS (SELECT FROM pseudonyms WHERE user_id = pseudonym::uuid)
        AND (to_jsonb(NEW) - '{user_id,reason}'::text[])::text = (to_jsonb(OLD) - '{user_id,reason}'::text[])::text
        AND (NEW.user_id = OLD.user_id AND NEW.reason = without_user(OLD.reason, gone::uuid)
            OR NEW.user_id::text = pseudonym
            AND NOT EXISTS (SELECT FROM pseudonyms WHERE user_id = OLD.user_id)
            AND NEW.reason IS NOT DISTINCT FROM (CASE WHEN OLD.reason IS NOT NULL THEN 'erased' END))
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'rows of ledger are never changed; reverse them with another'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER ledger_entries_stay BEFORE UPDATE ON ledger FOR EACH ROW EXECUTE FUNCTION refuse_change_of_entry();

CREATE FUNCTION erase_from_ledger(gone uuid, pseudonym uuid) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('kosmo_billing.pseudonym', pseudonym::text, true),
        set_config('kosmo_billing.gone', gone::text, true);
    UPDATE ledger SET user_id = pseudonym, reason = CASE WHEN reason IS NOT NULL THEN 'erased' END
    WHERE user_id = gone;
    UPDATE ledger SET reason = without_user(reason, gone) WHERE reason ~* written_user(gone);
    PERFORM set_config('kosmo_billing.pseudonym', '', true), set_config('kosmo_billing.gone', '', true);
END $$;

-- Refunds that operators ordered. The credit is taken with the order; BTCPay's pull payment is attached later. Of an
-- unknown order there is no credit: its case is closed with the order.
CREATE TABLE refunds (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         uuid,
    invoice_id      uuid,  -- one with money, which is never deleted
    btcpay_invoice_id text COLLATE "C" NOT NULL,  -- which received the money
    amount          numeric NOT NULL,
    currency        text NOT NULL,
    pull_payment_id text,
    link            text,
    ordered_at      timestamptz NOT NULL,
    tried_at        timestamptz NOT NULL,  -- when BTCPay was last asked for it
    is_recorded     boolean NOT NULL DEFAULT false,  -- made in BTCPay's own pages
    cancelled_at    timestamptz,
    paid_at         timestamptz,  -- when BTCPay was seen to have paid all of it
    CONSTRAINT refunds_of_somebody CHECK (user_id IS NOT NULL OR invoice_id IS NULL),
    CONSTRAINT refunds_amount_is_positive CHECK (amount > 0),
    CONSTRAINT refunds_link_is_whole CHECK ((pull_payment_id IS NULL) = (link IS NULL)),
    CONSTRAINT refunds_booked_once UNIQUE (pull_payment_id)
);
-- At most one open refund of ours per invoice, so that repeating an order finds it.
CREATE UNIQUE INDEX refunds_one_open_per_invoice ON refunds (btcpay_invoice_id)
    WHERE cancelled_at IS NULL AND paid_at IS NULL AND NOT is_recorded;
CREATE INDEX refunds_by_user ON refunds (user_id, id);
CREATE INDEX refunds_by_invoice ON refunds (btcpay_invoice_id);

-- The queue of lookups: which invoices are asked for at BTCPay, and when. Rows are inserted and deleted. A webhook adds
-- one that is due at once; an open invoice has one at next_check_at. There is no reference to the invoice: it would lock
-- the invoice's row for each webhook. Housekeeping removes rows of invoices that it has removed.
CREATE TABLE lookups (
    due_at         timestamptz NOT NULL,
    invoice_id     uuid NOT NULL,
    hinted_at      timestamptz,  -- when the webhook came; of a poll null
    claimed_status text,         -- only with WEBHOOK_TRUST=body: what the body says of the invoice
    -- What could not be settled is tried again later. Every daemon must see that the leader knows of it, or each would
    -- take the queue for stuck.
    set_aside_at   timestamptz,
    set_aside_why  text
) WITH (
    -- Vacuumed by the number of dead rows alone, which may be a hundred times that of the living.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
    fillfactor = 90  -- room for what is set aside
);
-- Not unique: a second row for the same time is as harmless as a second lookup, and is not looked for at each insert.
CREATE INDEX lookups_due ON lookups (due_at, invoice_id);

-- The log of deliveries: rows are inserted, and deleted when they are old. What became of an invoice is told by the invoice.
CREATE TABLE webhook_deliveries (
    delivery_id       text COLLATE "C" PRIMARY KEY,
    received_at       timestamptz NOT NULL,
    type              text NOT NULL,
    btcpay_invoice_id text,
    order_id          text,
    store_id          text,
    outcome           text NOT NULL,
    CONSTRAINT webhook_deliveries_outcome_is_known CHECK (outcome IN ('ours', 'not ours'))
);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (received_at);
CREATE INDEX webhook_deliveries_not_ours ON webhook_deliveries (received_at) WHERE outcome = 'not ours';

-- What signed webhooks hint at beside our invoices: an order in the form of ours that this database does not know, or a
-- refund. BTCPay is asked about each.
CREATE TABLE inquiries (
    btcpay_invoice_id text COLLATE "C" NOT NULL,
    pull_payment_id   text COLLATE "C" NOT NULL,  -- of the refund; empty where the order is not known
    due_at            timestamptz NOT NULL,
    PRIMARY KEY (btcpay_invoice_id, pull_payment_id)
);
CREATE INDEX inquiries_due ON inquiries (due_at);

CREATE TABLE attention_cases (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invoice_id        uuid REFERENCES btcpay_invoices (id),  -- missing where no invoice of ours is behind it
    user_id           uuid,  -- missing as long as nobody knows whose the money is
    kind              text NOT NULL,
    detail            text NOT NULL,
    amount            numeric,
    decided           numeric NOT NULL DEFAULT 0,  -- of the amount of an unknown order: what operators decided about
    btcpay_invoice_id text COLLATE "C",  -- of an unknown order
    currency          text,  -- where no invoice of ours says it
    opened_at         timestamptz NOT NULL,
    closed_at         timestamptz,
    resolution        text,
    CONSTRAINT attention_cases_one_per_kind UNIQUE (invoice_id, kind),
    CONSTRAINT attention_cases_are_about_something CHECK (CASE kind
        WHEN 'unknown_order' THEN btcpay_invoice_id IS NOT NULL AND currency IS NOT NULL AND amount IS NOT NULL
        WHEN 'negative_balance' THEN user_id IS NOT NULL AND currency IS NOT NULL
        ELSE invoice_id IS NOT NULL AND user_id IS NOT NULL END),
    CONSTRAINT attention_cases_closed_with_reason CHECK ((closed_at IS NULL) = (resolution IS NULL))
);
CREATE UNIQUE INDEX attention_cases_one_per_order ON attention_cases (btcpay_invoice_id)
    WHERE btcpay_invoice_id IS NOT NULL;
CREATE UNIQUE INDEX attention_cases_one_negative_balance ON attention_cases (user_id, currency)
    WHERE kind = 'negative_balance' AND closed_at IS NULL;
CREATE INDEX attention_cases_open ON attention_cases (opened_at, id) WHERE closed_at IS NULL;
CREATE INDEX attention_cases_closed ON attention_cases (closed_at, id) WHERE closed_at IS NOT NULL;
CREATE INDEX attention_cases_by_user ON attention_cases (user_id);

-- R14: credit below zero is a case until it is paid back, whoever writes the entry that makes it so.
CREATE FUNCTION watch_balances() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM new_rows GROUP BY user_id, currency HAVING sum(amount) < 0)
        OR EXISTS (SELECT FROM attention_cases WHERE kind = 'negative_balance' AND closed_at IS NULL)
    THEN
        WITH balances AS (
            SELECT n.user_id, n.currency, n.at, (
                SELECT sum(amount) FROM ledger WHERE user_id = n.user_id AND currency = n.currency) AS amount
            FROM (SELECT user_id, currency, max(at) AS at FROM new_rows GROUP BY user_id, currency) AS n
        ), closed AS (
            UPDATE attention_cases AS c SET closed_at = b.at, resolution = 'paid back' FROM balances AS b
            WHERE c.user_id = b.user_id AND c.currency = b.currency AND b.amount >= 0
                AND c.kind = 'negative_balance' AND c.closed_at IS NULL
        )
        INSERT INTO attention_cases AS c (user_id, kind, detail, amount, currency, opened_at)
        SELECT user_id, 'negative_balance', 'money was taken back that the user had spent', -amount, currency, at
        FROM balances WHERE amount < 0
        ON CONFLICT (user_id, currency) WHERE kind = 'negative_balance' AND closed_at IS NULL
            DO UPDATE SET amount = EXCLUDED.amount WHERE c.amount <> EXCLUDED.amount;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_balances_watched AFTER INSERT ON ledger
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION watch_balances();

-- Written once and never changed: what was published of it is known by the outbox.
CREATE TABLE events (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type         text NOT NULL,
    user_id      uuid,  -- missing where it is about the service
    data         jsonb NOT NULL,
    occurred_at  timestamptz NOT NULL,
    -- A level of a topic: with a wildcard in it, the broker would end the connection over which all is published.
    -- A pattern that counts to a hundred takes PostgreSQL seventy times as long: a tenth of a purchase.
    CONSTRAINT events_type_is_a_name CHECK (type !~ '[^a-z0-9_.-]' AND length(type) BETWEEN 1 AND 100)
);
CREATE INDEX events_by_user ON events (user_id, id);

CREATE TABLE whitelisted_nodes (
    user_id  uuid NOT NULL,
    node_id  text NOT NULL,
    label    text,
    added_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, node_id),
    CONSTRAINT whitelisted_nodes_id_is_meshtastic CHECK (node_id ~ '^![0-9a-f]{8}$'),
    -- The broadcast address would be a list of all nodes.
    CONSTRAINT whitelisted_nodes_is_one_node CHECK (node_id NOT IN ('!00000000', '!ffffffff'))
);
CREATE INDEX whitelisted_nodes_by_node ON whitelisted_nodes (node_id, user_id);

-- What users listed as new in about the last day, also when it was taken off again: so many are allowed a day.
CREATE TABLE node_additions (
    user_id  uuid NOT NULL,
    node_id  text NOT NULL,
    added_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, node_id)
);

-- The version of each user's document. Only a trigger changes it, and no index names what changes, so that each
-- update stays on its page (HOT). What the document says is read from the other tables.
CREATE TABLE entitlements (
    user_id       uuid PRIMARY KEY,
    version       bigint NOT NULL,
    first_version bigint NOT NULL,  -- a row of the outbox with a smaller id makes the user's first document
    changed_at    timestamptz NOT NULL
) WITH (fillfactor = 50);  -- room on the page for HOT updates

-- Numbers versions, and the rows of the outbox before the versions that they announce: a change that is still to be
-- published has a version above the id of its row.
CREATE SEQUENCE entitlement_versions;

-- What the broker has not acknowledged yet, one row for up to a hundred users or events that one statement changed.
-- Rows are inserted by triggers and deleted after the acks. Kinds: 'rights' goes at once, the newest first; 'event' in
-- order; 'usage' at most once a second per user; 'repeat' when nothing else waits.
CREATE TABLE outbox (
    kind      text COLLATE "C" NOT NULL,
    id        bigint NOT NULL DEFAULT nextval('entitlement_versions'),
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    users     uuid[],
    events    bigint[],
    CONSTRAINT outbox_pkey PRIMARY KEY (kind, id),
    CONSTRAINT outbox_kind_is_known CHECK (kind IN ('rights', 'event', 'usage', 'repeat')),
    CONSTRAINT outbox_has_members CHECK (
        CASE kind WHEN 'event' THEN users IS NULL AND cardinality(events) > 0
            ELSE events IS NULL AND cardinality(users) > 0 END)
) WITH (
    -- Nearly every row is dead: without this the publisher would read through them.
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 1000000000
);

-- One row: which database this is, so that documents of another one are noticed on the broker; and the ceiling of
-- versions. No version above it was ever published: it is raised here, then in the broker's watermark, and only then
-- are greater versions published. So a database that went back, by a backup or a promoted standby, still learns from
-- one of the two what it must not speak below.
CREATE TABLE installation (
    is_only         boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    database_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    version_ceiling bigint NOT NULL DEFAULT 0
);
INSERT INTO installation DEFAULT VALUES;

CREATE FUNCTION quota_state(used bigint, most bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN most IS NULL THEN 'ok'
    WHEN used >= most THEN 'exhausted'
    WHEN used * 5 >= most * 4 THEN 'warning'
    ELSE 'ok'
END;

-- Queues users or events whose order is that of the arrays: rows of a hundred members, the first with the smallest id.
-- The transaction has its number before an id is drawn, so that whoever sees all transactions up to a number ended
-- has seen the ids that were drawn before that number was given.
CREATE FUNCTION queue_users(of_kind text, members uuid[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_current_xact_id();
    INSERT INTO outbox (kind, users)
    SELECT of_kind, array_agg(m.member ORDER BY m.place)
    FROM unnest(members) WITH ORDINALITY AS m (member, place) GROUP BY (m.place - 1) / 100 ORDER BY min(m.place);
END $$;

CREATE FUNCTION queue_events() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO outbox (kind, events)
    SELECT 'event', array_agg(n.id ORDER BY n.id)
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM new_rows) AS n
    GROUP BY (n.place - 1) / 100 ORDER BY min(n.place);
    RETURN NULL;
END $$;

CREATE TRIGGER events_queued AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_events();

-- Raises the version of users, given in order so that concurrent writers cannot deadlock, queues their documents
-- and wakes the daemons. A session that wakes them itself sets kosmo_billing.quiet.
CREATE FUNCTION raise_versions(users uuid[], urgent boolean[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE rights uuid[]; used uuid[];
BEGIN
    IF EXISTS (SELECT FROM pseudonyms AS p WHERE p.user_id = ANY (users)) THEN
        -- Whose money they have was erased, and had a document by which they could be recognised.
        SELECT array_agg(u.user_id ORDER BY u.place), array_agg(u.urgent ORDER BY u.place) INTO users, urgent
        FROM unnest(users, urgent) WITH ORDINALITY AS u (user_id, urgent, place)
        WHERE NOT EXISTS (SELECT FROM pseudonyms AS p WHERE p.user_id = u.user_id);
    END IF;
    IF users IS NULL THEN
        RETURN;
    END IF;
    SELECT array_agg(u.user_id) FILTER (WHERE u.urgent), array_agg(u.user_id) FILTER (WHERE NOT u.urgent)
    INTO rights, used FROM unnest(users, urgent) AS u (user_id, urgent);
    IF rights IS NOT NULL THEN
        PERFORM queue_users('rights', rights);
    END IF;
    IF used IS NOT NULL THEN
        PERFORM queue_users('usage', used);
    END IF;
    INSERT INTO entitlements AS e (user_id, version, first_version, changed_at)
    SELECT u.user_id, v.version, v.version, clock_timestamp()
    FROM unnest(users) AS u (user_id),
        LATERAL (SELECT nextval('entitlement_versions') AS version WHERE u.user_id IS NOT NULL) AS v
    ON CONFLICT (user_id) DO UPDATE SET
        version = greatest(e.version + 1, EXCLUDED.version), changed_at = EXCLUDED.changed_at;
    IF coalesce(current_setting('kosmo_billing.quiet', true), '') <> 'on' THEN
        PERFORM pg_notify('kosmo_billing', 'entitlements');
    END IF;
END $$;

-- Gives these users' documents new versions and queues them, to be published when nothing else waits. Returns all but
-- those users whose row a writer holds.
CREATE FUNCTION repeat_documents(users uuid[]) RETURNS SETOF uuid LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE free uuid[];
BEGIN
    SELECT array_agg(locked.user_id) INTO free FROM (
        SELECT user_id FROM entitlements WHERE user_id = ANY (users) ORDER BY user_id FOR UPDATE SKIP LOCKED
    ) AS locked;
    IF free IS NOT NULL THEN
        PERFORM queue_users('repeat', free);
        UPDATE entitlements SET version = greatest(version + 1, nextval('entitlement_versions'))
        WHERE user_id = ANY (free);
    END IF;
    RETURN QUERY SELECT u.user_id FROM unnest(users) AS u (user_id)
        WHERE u.user_id = ANY (free) OR NOT EXISTS (SELECT FROM entitlements AS e WHERE e.user_id = u.user_id);
END $$;

CREATE FUNCTION subscriptions_inserted() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE users uuid[]; urgent boolean[];
BEGIN
    SELECT array_agg(user_id ORDER BY user_id), array_agg(true)
    INTO users, urgent FROM (SELECT DISTINCT user_id FROM new_rows) AS changed;
    PERFORM raise_versions(users, urgent);
    RETURN NULL;
END $$;

CREATE FUNCTION subscriptions_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE users uuid[]; urgent boolean[];
BEGIN
    SELECT array_agg(user_id ORDER BY user_id), array_agg(true)
    INTO users, urgent FROM (SELECT DISTINCT user_id FROM old_rows) AS changed;
    PERFORM raise_versions(users, urgent);
    RETURN NULL;
END $$;

-- A change of use alone is not urgent unless it crosses a threshold; columns that no document shows
-- raise nothing.
-- PL/pgSQL keeps the plan of its first call: made for one row that is a nested loop, which compares every row of a
-- thousand with every other.
CREATE FUNCTION subscriptions_updated() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_nestloop = off AS $$
DECLARE users uuid[]; urgent boolean[];
BEGIN
    SELECT array_agg(user_id ORDER BY user_id), array_agg(is_urgent ORDER BY user_id)
    INTO users, urgent
    FROM (
        SELECT user_id, bool_or(is_urgent) AS is_urgent
        FROM (
            SELECT who.user_id,
                (n.user_id, n.quote_id, n.status, n.messages_limit, n.valid_from, n.valid_until, n.grace_until,
                 n.ended_at)
                IS DISTINCT FROM
                (o.user_id, o.quote_id, o.status, o.messages_limit, o.valid_from, o.valid_until, o.grace_until,
                 o.ended_at)
                OR n.messages_used < o.messages_used
                OR quota_state(n.messages_used, n.messages_limit)
                   <> quota_state(o.messages_used, o.messages_limit) AS is_urgent,
                n.messages_used <> o.messages_used AS is_used
            FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id,
                LATERAL (VALUES (n.user_id), (o.user_id)) AS who (user_id)  -- two only if it was moved
        ) AS compared
        WHERE is_urgent OR is_used
        GROUP BY user_id
    ) AS changed;
    PERFORM raise_versions(users, urgent);
    RETURN NULL;
END $$;

CREATE TRIGGER subscriptions_inserted AFTER INSERT ON subscriptions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_inserted();
CREATE TRIGGER subscriptions_updated AFTER UPDATE ON subscriptions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_updated();
CREATE TRIGGER subscriptions_deleted AFTER DELETE ON subscriptions
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_deleted();

-- The whitelist matters to users with a current whitelist plan; the others see no change. Nor does
-- anybody see the labels.
CREATE FUNCTION whitelist_changed() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE users uuid[]; urgent boolean[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT array_agg(DISTINCT user_id ORDER BY user_id) INTO users FROM old_rows;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT array_agg(DISTINCT user_id ORDER BY user_id) INTO users FROM (
            (SELECT user_id, node_id FROM old_rows EXCEPT SELECT user_id, node_id FROM new_rows)
            UNION ALL
            (SELECT user_id, node_id FROM new_rows EXCEPT SELECT user_id, node_id FROM old_rows)
        ) AS moved;
    ELSE
        SELECT array_agg(DISTINCT user_id ORDER BY user_id) INTO users FROM new_rows;
    END IF;
    SELECT array_agg(s.user_id ORDER BY s.user_id), array_agg(true)
    INTO users, urgent FROM subscriptions AS s JOIN quotes AS q ON q.id = s.quote_id
    WHERE s.user_id = ANY (users) AND s.status IN ('active', 'grace') AND q.scope = 'whitelist';
    PERFORM raise_versions(users, urgent);
    RETURN NULL;
END $$;

CREATE TRIGGER whitelist_inserted AFTER INSERT ON whitelisted_nodes
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION whitelist_changed();
CREATE TRIGGER whitelist_updated AFTER UPDATE ON whitelisted_nodes
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION whitelist_changed();
CREATE TRIGGER whitelist_deleted AFTER DELETE ON whitelisted_nodes
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION whitelist_changed();

-- Messages counted, exactly once each, and the thresholds they cross. Whoever raises messages_used, metering or a
-- gateway with SQL of its own, is announced by the same trigger.

CREATE FUNCTION quota_threshold(used bigint, most bigint) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE quota_state(used, most) WHEN 'exhausted' THEN 100 WHEN 'warning' THEN 80 ELSE 0 END;

-- Each threshold once per subscription: the row that is being written remembers it, so neither a repeat
-- nor a race can announce it again. A purchase, being a new row, arms both; a pack those it leads below. Rows that have ended
-- are not announced: their users go by another one.
CREATE FUNCTION announce_threshold() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE reached smallint := quota_threshold(NEW.messages_used, NEW.messages_limit);
BEGIN
    INSERT INTO events (type, user_id, data, occurred_at)
    SELECT t.type, NEW.user_id, jsonb_build_object(
        'subscription_id', NEW.id, 'plan_type', q.plan_type, 'threshold', t.threshold,
        'messages_used', NEW.messages_used, 'messages_limit', NEW.messages_limit), clock_timestamp()
    FROM (VALUES ('quota.warning', 80), ('quota.exhausted', 100)) AS t (type, threshold)
        JOIN quotes AS q ON q.id = NEW.quote_id
    WHERE t.threshold > NEW.threshold_announced AND t.threshold <= reached
    ORDER BY t.threshold;
    NEW.threshold_announced := reached;
    RETURN NEW;
END $$;

CREATE TRIGGER subscriptions_threshold_announced BEFORE UPDATE ON subscriptions FOR EACH ROW
    WHEN (NEW.status IN ('active', 'grace')
        AND quota_threshold(NEW.messages_used, NEW.messages_limit) > NEW.threshold_announced)
    EXECUTE FUNCTION announce_threshold();

-- One row per message of a user: the key is what counts each once. By message before user: ids of a gate rise with
-- time, so that new ones meet at the end of the index, however many there are, instead of one page per user. Ids and
-- node ids are compared as bytes, which costs a fraction of a language's rules. No foreign key to subscriptions: it would cost
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
    -- What an operator took back. The row stays, so that the message sent again counts as little.
    voided_at       timestamptz,
    CONSTRAINT usage_events_counted_once PRIMARY KEY (message_id, user_id),
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

-- Reports that could not be read, for whoever has to fix their sender.
CREATE TABLE usage_quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reporter    text NOT NULL,
    reason      text NOT NULL,
    payload     bytea NOT NULL,
    size        integer NOT NULL,
    received_at timestamptz NOT NULL,
    CONSTRAINT usage_quarantine_payload_is_bounded CHECK (octet_length(payload) <= 4096)
);

-- What is set apart of quotas for single gates: they may let it through by themselves, also while they are cut off.
-- Of a current subscription, what is used and what is leased never exceed the limit together.
CREATE TABLE leases (
    id              uuid PRIMARY KEY,
    reporter        text COLLATE "C" NOT NULL,
    request_id      text COLLATE "C" NOT NULL,
    user_id         uuid NOT NULL,
    subscription_id uuid NOT NULL REFERENCES subscriptions (id),
    messages        bigint NOT NULL,
    used            bigint NOT NULL DEFAULT 0,
    granted_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    -- A question asked twice is answered with the same lease.
    CONSTRAINT leases_one_per_request UNIQUE (reporter, request_id),
    CONSTRAINT leases_are_not_negative CHECK (messages >= 0 AND used >= 0)
) WITH (fillfactor = 80);
CREATE INDEX leases_outstanding ON leases (subscription_id) WHERE used < messages;
CREATE INDEX leases_by_age ON leases (granted_at);

-- What was leased when a later subscription took over the rest, and is not needed after all, is carried over late.
CREATE FUNCTION lease_shrunk() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO recounts (user_id)
    SELECT user_id FROM subscriptions
    WHERE id = OLD.subscription_id AND (status IN ('replaced', 'revoked') OR cashed_at IS NOT NULL)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER leases_shrunk AFTER UPDATE OF messages ON leases FOR EACH ROW
    WHEN (NEW.messages < OLD.messages) EXECUTE FUNCTION lease_shrunk();
CREATE TRIGGER leases_removed AFTER DELETE ON leases FOR EACH ROW
    WHEN (OLD.used < OLD.messages) EXECUTE FUNCTION lease_shrunk();

-- The file in which a strict gate keeps its leases, by the names of its last openings: a copy goes on from one that is
-- not the last.
CREATE TABLE lease_files (
    reporter text COLLATE "C" PRIMARY KEY,
    openings text[] NOT NULL,
    CONSTRAINT lease_files_were_opened CHECK (cardinality(openings) BETWEEN 1 AND 100)
);

-- Reporters that sent more than a mesh can carry: what they sent is in quarantine until an operator decides.
CREATE TABLE reporter_cases (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reporter   text NOT NULL,
    detail     text NOT NULL,
    opened_at  timestamptz NOT NULL,
    last_at    timestamptz NOT NULL,
    closed_at  timestamptz,
    CONSTRAINT reporter_cases_last_is_forward CHECK (last_at >= opened_at)
);
CREATE UNIQUE INDEX reporter_cases_one_open ON reporter_cases (reporter) WHERE closed_at IS NULL;

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

-- R10: what was answered under an Idempotency-Key. A key is bound to its invoice in the transaction that
-- reserves it, so a crash or a second daemon finds the same one; the answer is added when there is one.

CREATE TABLE idempotency_keys (
    user_id      uuid NOT NULL,
    key          text COLLATE "C" NOT NULL,
    fingerprint  bytea NOT NULL,
    invoice_id   uuid NOT NULL,  -- no reference: each removal of an invoice would look through the keys
    is_new       boolean NOT NULL,
    reply_status smallint,
    reply_body   bytea,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, key),
    CONSTRAINT idempotency_keys_key_is_bounded CHECK (octet_length(key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_keys_reply_is_whole CHECK ((reply_status IS NULL) = (reply_body IS NULL))
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- Hooks: events sent to operators' own endpoints. What waits is a narrow row per endpoint and event, deleted when the
-- endpoint has accepted it; the endpoint's own state is written when it changes for the worse or the better.

CREATE TABLE hooks (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url           text NOT NULL,
    events        text[] NOT NULL,   -- types, or beginnings of types followed by *
    secret        text NOT NULL,     -- signs what is sent, so it cannot be stored as a hash
    texts         text,              -- how events become short texts, as TOML; without it they are sent as CloudEvents
    allow_private boolean NOT NULL,
    added_at      timestamptz NOT NULL,
    failing_since timestamptz,
    failures      integer NOT NULL DEFAULT 0,
    next_try_at   timestamptz,
    off_since     timestamptz,
    off_because   text,
    CONSTRAINT hooks_one_per_url UNIQUE (url),
    CONSTRAINT hooks_want_something CHECK (cardinality(events) > 0),
    CONSTRAINT hooks_failures_have_a_beginning CHECK ((failing_since IS NULL) = (failures = 0)),
    CONSTRAINT hooks_off_for_a_reason CHECK ((off_since IS NULL) = (off_because IS NULL))
);

-- No foreign keys: they would let the removal of a hook or an event wait for, or fail, a transaction about money.
CREATE TABLE hook_deliveries (
    hook_id  integer NOT NULL,
    event_id bigint NOT NULL,
    PRIMARY KEY (hook_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- The last answers of each endpoint, a hundred at most.
CREATE TABLE hook_answers (
    hook_id  integer NOT NULL,
    id       bigint GENERATED ALWAYS AS IDENTITY,
    event_id bigint NOT NULL,
    at       timestamptz NOT NULL,
    accepted boolean NOT NULL,
    answer   text NOT NULL,
    PRIMARY KEY (hook_id, id)
);

CREATE FUNCTION hook_wants(patterns text[], type text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN EXISTS (
    SELECT FROM unnest(patterns) AS pattern
    WHERE pattern = type OR right(pattern, 1) = '*' AND starts_with(type, left(pattern, -1)));

-- In the transaction of the event, whoever writes it, so that none is lost.
CREATE FUNCTION queue_for_hooks() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM hooks WHERE off_since IS NULL) THEN
        INSERT INTO hook_deliveries (hook_id, event_id)
        SELECT h.id, e.id FROM hooks AS h, new_rows AS e
        WHERE h.off_since IS NULL AND hook_wants(h.events, e.type);
        IF FOUND THEN
            PERFORM pg_notify('kosmo_billing', 'hooks');
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER events_queued_for_hooks AFTER INSERT ON events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_for_hooks();

-- Renewal links: whoever has one sees the plan that it renews, and may open an invoice for it. A token is computed from a
-- secret of the settings, the user and how often links were revoked; only its hash is kept.

CREATE TABLE renewal_links (
    token_hash bytea PRIMARY KEY,
    user_id    uuid NOT NULL,
    generation integer NOT NULL,
    issued_at  timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT renewal_links_hash_is_whole CHECK (octet_length(token_hash) = 32)
);
CREATE INDEX renewal_links_by_user ON renewal_links (user_id);

-- Operators at the console: the links that let one in once, and the sessions they lead to. Only hashes are kept, so who
-- reads the database can use none of them.

CREATE TABLE console_logins (
    token_hash bytea PRIMARY KEY,
    who        text NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT console_logins_hash_is_whole CHECK (octet_length(token_hash) = 32),
    CONSTRAINT console_logins_name_somebody CHECK (btrim(who) <> '')
);
CREATE TABLE console_sessions (
    token_hash bytea PRIMARY KEY,
    who        text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    CONSTRAINT console_sessions_hash_is_whole CHECK (octet_length(token_hash) = 32),
    CONSTRAINT console_sessions_name_somebody CHECK (btrim(who) <> '')
);

-- Who chose to have the plan renewed from credit when it ends (R15), and which renewal was announced last.

CREATE TABLE auto_renewals (
    user_id   uuid PRIMARY KEY,
    is_on     boolean NOT NULL,
    chosen_at timestamptz NOT NULL,
    announced uuid  -- the subscription: each renewal is announced once, also if it was switched off meanwhile
);

-- Those of them whose subscription has run out, whoever noticed: a settlement, an operator's command, the timer. It is
-- renewed, or found not to be, by the timer.
CREATE TABLE lapses (
    user_id uuid PRIMARY KEY,
    at      timestamptz NOT NULL
);

CREATE FUNCTION queue_lapse() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO lapses (user_id, at)
    SELECT user_id, NEW.valid_until FROM auto_renewals WHERE user_id = NEW.user_id AND is_on
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- What an operator turned into credit is not to be bought again with it.
CREATE TRIGGER subscriptions_lapsed AFTER UPDATE ON subscriptions FOR EACH ROW
    WHEN (OLD.status IN ('active', 'grace') AND NEW.status = 'expired' AND NEW.cashed_at IS NULL)
    EXECUTE FUNCTION queue_lapse();

-- Moved in from KosmoConnect v0.1 (kosmo-billing adopt): what was done, whom old ids mean, and the old rows, from which
-- the views for an old gateway (schema kosmo_compat) take what we do not keep.

CREATE TABLE adoptions (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    who        text NOT NULL,
    map        text NOT NULL,   -- adopt.toml, as it was used
    counts     jsonb NOT NULL,
    moved      jsonb NOT NULL,  -- the old tables: from which schema, and their names
    users_in   jsonb NOT NULL,  -- where users' ids stand in them: part, name of the table, name of the column
    last_entry bigint NOT NULL, -- of the ledger, when it was done
    last_audit bigint NOT NULL
);

-- Only where old ids are no UUIDs.
CREATE TABLE adopted_users (
    user_id uuid PRIMARY KEY,
    old_id  text COLLATE "C" NOT NULL,
    CONSTRAINT adopted_users_id_is_one_user UNIQUE (old_id)
);

CREATE TABLE adopted_rows (
    part          text NOT NULL,
    id            uuid,              -- of our row, where there is one
    is_history    boolean NOT NULL,  -- shown as it was
    messages_used bigint,            -- when it was moved in
    old           jsonb NOT NULL,
    CONSTRAINT adopted_rows_part_is_known CHECK (part IN ('subscriptions', 'invoices'))
);
CREATE UNIQUE INDEX adopted_rows_by_id ON adopted_rows (id) WHERE id IS NOT NULL;

-- What an old gateway writes to its subscriptions. Messages that it adds are counted as usage of the current subscription;
-- columns that only it knows are kept; what has ended is left alone; everything else is refused. It writes with our rights,
-- so nothing in it is dynamic. Arguments: the columns of user, use, status and end; the values of status that are active;
-- the kind of the end and its time zone; the columns that are ours.
CREATE FUNCTION write_for_old_gateway() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    was jsonb; said jsonb; changed text[]; ours text[]; of_user text; whose uuid; ends timestamptz; current record;
    added numeric; moment timestamptz := clock_timestamp();
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'kosmo-billing: no % on %: purchases make and end subscriptions', TG_OP, TG_TABLE_NAME
            USING HINT = 'buy through the REST API, or use: kosmo-billing user grant, kosmo-billing user revoke';
    END IF;
    was := to_jsonb(OLD);
    said := to_jsonb(NEW);
    SELECT coalesce(array_agg(n.key), '{}') INTO changed
    FROM jsonb_each(said) AS n WHERE n.value IS DISTINCT FROM was -> n.key;
    BEGIN
        ends := CASE TG_ARGV[5]
            WHEN 'zoned' THEN (was ->> TG_ARGV[3])::timestamptz
            WHEN 'text' THEN (was ->> TG_ARGV[3])::timestamptz
            WHEN 'naive' THEN (was ->> TG_ARGV[3])::timestamp AT TIME ZONE TG_ARGV[6]
            WHEN 'date' THEN (was ->> TG_ARGV[3])::timestamp AT TIME ZONE TG_ARGV[6]
            ELSE to_timestamp((was ->> TG_ARGV[3])::float8
                / CASE WHEN (was ->> TG_ARGV[3])::float8 >= 1e11 THEN 1000 ELSE 1 END) END;
    EXCEPTION WHEN data_exception THEN
        ends := NULL;  -- a row of v0.1 that could not be read is none of ours
    END;
    IF ends IS NULL OR ends <= moment
        OR TG_ARGV[2] <> '' AND NOT TG_ARGV[4]::jsonb ? lower(btrim(was ->> TG_ARGV[2]))
    THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(name) INTO ours
    FROM jsonb_array_elements_text(TG_ARGV[7]::jsonb) AS name WHERE name = ANY (changed);
    IF ours IS NOT NULL THEN
        RAISE EXCEPTION 'kosmo-billing: % of % cannot be written here', array_to_string(ours, ', '), TG_TABLE_NAME
            USING HINT = 'only messages are counted here; use: kosmo-billing user grant, kosmo-billing user revoke';
    END IF;
    of_user := was ->> TG_ARGV[0];
    SELECT user_id INTO whose FROM adopted_users WHERE old_id = of_user;
    IF whose IS NULL AND of_user ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
        whose := of_user::uuid;
    END IF;
    SELECT id, messages_used, messages_limit INTO current FROM subscriptions
    WHERE user_id = whose AND status IN ('active', 'grace') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF TG_ARGV[1] = ANY (changed) THEN
        added := (said ->> TG_ARGV[1])::numeric - coalesce((was ->> TG_ARGV[1])::numeric, 0);
        IF added IS NULL OR added < 0 OR added <> trunc(added) OR added > 2147483647 THEN
            RAISE EXCEPTION 'kosmo-billing: % of % is only counted up', TG_ARGV[1], TG_TABLE_NAME
                USING HINT = 'a purchase begins a new count; see: kosmo-billing usage';
        END IF;
        IF added > 0 THEN
            INSERT INTO usage_events (
                user_id, message_id, subscription_id, reporter, count, over_limit, sent_at, received_at)
            VALUES (whose, 'sql-' || gen_random_uuid(), current.id, 'sql:' || session_user, added,
                coalesce(current.messages_used >= current.messages_limit, false), moment, moment);
            INSERT INTO usage_days AS d (user_id, day, messages)
            VALUES (whose, (moment AT TIME ZONE 'UTC')::date, added)
            ON CONFLICT (user_id, day) DO UPDATE SET messages = d.messages + EXCLUDED.messages;
            UPDATE subscriptions SET messages_used = messages_used + added::bigint WHERE id = current.id
            RETURNING messages_used INTO current.messages_used;
            NEW := jsonb_populate_record(NEW, jsonb_build_object(TG_ARGV[1], current.messages_used));
        END IF;
    END IF;
    IF changed <> ARRAY[TG_ARGV[1]] AND changed <> '{}' THEN
        INSERT INTO adopted_rows AS a (part, id, is_history, old)
        SELECT 'subscriptions', current.id, false, jsonb_object_agg(key, value)
        FROM jsonb_each(said) WHERE key = ANY (changed) AND key <> TG_ARGV[1]
        ON CONFLICT (id) WHERE id IS NOT NULL DO UPDATE SET old = a.old || EXCLUDED.old;
    END IF;
    RETURN NEW;
END $$;

-- For whoever erases a user: what v0.1 had of the user goes too, in the old tables as in the rows that we keep of them.
CREATE FUNCTION forget_old_user(whose uuid) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE
    names text[] := ARRAY(SELECT old_id FROM adopted_users WHERE user_id = whose) || whose::text; one record;
BEGIN
    FOR one IN
        SELECT t.* FROM adoptions, jsonb_to_recordset(users_in) AS t (part text, name text, of_user text)
    LOOP
        DELETE FROM adopted_rows
        WHERE part = one.part AND (old ->> one.of_user = ANY (names) OR lower(old ->> one.of_user) = whose::text);
        EXECUTE format('DELETE FROM kosmo_v01.%1$I WHERE %2$I::text = ANY ($1) OR lower(%2$I::text) = $2',
            one.name, one.of_user) USING names, whose::text;
    END LOOP;
    DELETE FROM adopted_rows WHERE id IN (
        SELECT id FROM subscriptions WHERE user_id = whose UNION ALL
        SELECT id FROM btcpay_invoices WHERE user_id = whose);
    DELETE FROM adopted_users WHERE user_id = whose;
END $$;

CREATE FUNCTION refuse_old_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'kosmo-billing: no % on %: it can only be read', TG_OP, TG_TABLE_NAME
        USING HINT = 'use the REST API of kosmo-billing';
END $$;

-- Sums of the business for metrics, and up to which id of each table they go (name 'position'): see store/figures.py.

CREATE TABLE figures (
    name  text COLLATE "C" NOT NULL,
    label text COLLATE "C" NOT NULL,
    value numeric NOT NULL,
    PRIMARY KEY (name, label)
);
INSERT INTO figures VALUES ('position', 'ledger', 0), ('position', 'events', 0);

-- What came in on each day (UTC), added up as the figures are. What no invoice of ours was paid for has no plan.
CREATE TABLE takings (
    day       date NOT NULL,
    plan_type text NOT NULL,
    currency  text NOT NULL,
    amount    numeric NOT NULL,
    payments  bigint NOT NULL,
    PRIMARY KEY (day, plan_type, currency)
);

-- What was booked on each day (UTC), added up with the figures, and between which ids of the ledger it stands: so a
-- period is summed up and found without an index of the ledger by time, which would cost every entry a record.
CREATE TABLE ledger_days (
    day      date NOT NULL,
    kind     text NOT NULL,
    currency text NOT NULL,
    amount   numeric NOT NULL,
    entries  bigint NOT NULL,
    first_id bigint NOT NULL,
    last_id  bigint NOT NULL,
    PRIMARY KEY (day, kind, currency)
);

-- Erased users are known by a fingerprint, for as long as something late may still name them (store/erasures.py). Other
-- installations have other fingerprints of the same user; the day alone is kept, so that none leads to a pseudonym.

CREATE TABLE erased_users (
    fingerprint bytea PRIMARY KEY,
    erased_on   date NOT NULL
);

CREATE FUNCTION user_fingerprint(user_id uuid) RETURNS bytea LANGUAGE sql STABLE
RETURN (SELECT sha256(uuid_send(database_id) || uuid_send(user_id)) FROM installation);

-- Those of these users who were erased. It becomes a part of the statement that calls it: a microsecond a user, and none
-- while nobody was erased.
CREATE FUNCTION erased_among(users uuid[]) RETURNS SETOF uuid LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT u.user_id
    FROM (SELECT uuid_send(database_id) AS salt FROM installation) AS i, unnest(users) AS u (user_id), LATERAL (
        SELECT FROM erased_users WHERE fingerprint = sha256(i.salt || uuid_send(u.user_id)) OFFSET 0) AS e
    WHERE (SELECT true FROM erased_users LIMIT 1);
END;

-- What a transaction of ours begins with, so that it is one round trip together with BEGIN.

-- Serialises changes of users' purchases until the transaction ends. In order, so that two batches cannot
-- deadlock; a class of their own, or a user whose hash met the leader's would wait for as long as it leads.
CREATE FUNCTION hold_users(users uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1802465134, key)
    FROM (SELECT DISTINCT hashtext(user_id::text) AS key FROM unnest(users) AS u (user_id) ORDER BY key) AS ordered;
END $$;

-- Refused for users who were erased: what is written about them would be kept.
CREATE FUNCTION lock_users(users uuid[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM hold_users(users);
    IF EXISTS (SELECT FROM erased_among(users)) THEN
        RAISE EXCEPTION 'the data of this user was erased' USING ERRCODE = 'KB410';
    END IF;
END $$;

-- An owner who was erased while we waited has left the invoice to a pseudonym: the transaction is tried again.
CREATE FUNCTION lock_owners(invoices uuid[]) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
DECLARE owners uuid[] := ARRAY(SELECT user_id FROM btcpay_invoices WHERE id = ANY (invoices));
BEGIN
    PERFORM hold_users(owners);
    IF EXISTS (SELECT FROM erased_among(owners)) THEN
        RAISE EXCEPTION 'the owner of an invoice was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;

-- Links are shown without a lock, and are made valid by that.
CREATE FUNCTION skip_erased_user() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM hold_users(ARRAY[NEW.user_id]);
    IF EXISTS (SELECT FROM erased_among(ARRAY[NEW.user_id])) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER renewal_links_of_no_erased_user BEFORE INSERT ON renewal_links
    FOR EACH ROW EXECUTE FUNCTION skip_erased_user();

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
                'subscriptions', 'btcpay_invoices', 'lookups', 'webhook_deliveries', 'inquiries', 'attention_cases',
                'events', 'whitelisted_nodes', 'entitlements', 'outbox', 'audit_log', 'parked_reports', 'hooks', 'hook_answers',
                'renewal_links', 'console_logins', 'console_sessions', 'auto_renewals', 'lapses', 'adoptions')
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

-- Temporary tables of a session come last: by default they come first, and one of our names would be taken for ours, also
-- where we write for a session of somebody else.
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT p.oid::regprocedure AS name FROM pg_proc AS p
        WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
            AND p.proconfig && ARRAY['search_path=' || current_setting('search_path')]
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', one.name, current_schema());
    END LOOP;
END
$$;
