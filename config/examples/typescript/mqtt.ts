// Types of the MQTT payloads, made from asyncapi.json. Unknown fields are to be ignored.

/**
 * active and grace give rights until their end; expired, revoked and none (never bought anything) give
 * none.
 */
export type Standing = "active" | "grace" | "expired" | "revoked" | "none";

/** Which nodes the user may write to: any, those in allowed_nodes, or none. */
export type Scope = "any_node" | "whitelist" | "none";

/** warning from 80 % of the limit, exhausted from 100 %; always ok where the limit is null. */
export type QuotaState = "ok" | "warning" | "exhausted";

/**
 * What a gate answers about one message. ok: it may pass. no_plan: the user has no plan that sends.
 * expired: valid_until (or grace_until) is over. revoked: the payment turned out invalid.
 * node_not_allowed: the scope is whitelist and the node is not on it. quota_exhausted: fewer messages
 * are left than asked for. unknown_user: there is no document. no_lease: a strict gateway holds no
 * lease with enough messages left; it asked for one.
 */
export type Reason = "ok" | "no_plan" | "expired" | "revoked" | "node_not_allowed" | "quota_exhausted" | "unknown_user" | "no_lease";

/** The answer of a gate. It never crosses MQTT; gateways may hand it to their callers as it is. */
export interface Decision {
  /** Whether the message may pass. */
  allowed: boolean;
  reason: Reason;
  /** Messages left, this one included; null is unlimited. */
  remaining: number | null;
}

/**
 * The whole truth about one user. A lapsed user has a document that says so. An empty payload clears
 * the topic of a user who is not known any more: erased, or lapsed for longer than the daemon keeps
 * documents.
 */
export interface Entitlement {
  /**
   * Strictly rising per user. Keep the greatest, drop the rest. (GET /subscription shows 0 for users
   * who have no document; it is never published.)
   */
  version: number;
  /** The user; the same as in the topic. */
  user_id: string;
  /** The plan, or free. What it allows is in the other fields; never decide by this name. */
  plan_type: string;
  status: Standing;
  scope: Scope;
  /** Meshtastic node ids, lower case. Counts where scope is whitelist. */
  allowed_nodes: readonly string[];
  /** What else the plan includes. */
  features: readonly string[];
  /** Messages in the whole period; null is unlimited. */
  messages_limit: number | null;
  /**
   * Counted so far, by all reporters. It may exceed the limit: what happened is counted. Which of your
   * own messages are in it: see Own messages above.
   */
  messages_used: number;
  quota_state: QuotaState;
  /** The purchase that messages count on; another id is a new period with a count of its own. */
  subscription_id: string | null;
  /** Since when the rights hold. */
  valid_from: string | null;
  /** Their end, exclusive. Holds without any further word from the daemon. */
  valid_until: string | null;
  /** Where set, the end instead of valid_until: a payment is still confirming. */
  grace_until: string | null;
  /** When this version was written. */
  issued_at: string;
}

/** Whether a daemon speaks for this broker. */
export interface Status {
  /** offline is published at an orderly end and by the will. Rights do not depend on it; reports wait. */
  state: "online" | "offline";
  /** Which daemon. */
  instance: string;
  /** Of the daemon. */
  version: string;
  /** Since when it speaks. */
  since: string;
}

/** Every publication up to sequence was acknowledged by the broker. */
export interface Watermark {
  /** Number of the last publication that is safe. */
  sequence: number;
  /** How many entitlement documents exist: a reader that has fewer has not read everything. */
  entitlements: number;
  /** No document has a greater version: the daemon raises it here before it publishes one. */
  version_ceiling?: number;
  /** Whose truth this is, so that an exchanged database is noticed. */
  database?: string;
}

/** One message that a gateway let through. */
export interface UsageEvent {
  /**
   * Unique per user, for ever: a repeat is a duplicate and counts nothing. Made once, at the time of
   * sending, and kept over retries.
   */
  message_id: string;
  /** Whose message. */
  user_id: string;
  /** Where to. */
  node_id?: string | null;
  /** How many messages it counts for. */
  count?: number;
  /** When it was sent, with any offset. Accepted up to 7 days late; a future time counts as now. */
  sent_at: string;
  /** The lease that the message was let through by, of a strict gateway. */
  lease_id?: string | null;
}

/** What a gateway let through since its last report. */
export interface UsageReport {
  /** Comes back in the ack; any text of the reporter's. */
  report_id: string;
  /** An event that is wrong by itself is rejected in the ack and does not spoil the others. */
  events: readonly UsageEvent[];
}

/** One event that was not counted. */
export interface Rejection {
  /** As reported. */
  message_id: string;
  /**
   * too_old; user_erased (the operator erased the user's data); or which field is wrong and what would
   * be right. Sending it again changes nothing.
   */
  reason: string;
}

/**
 * What became of a report, after it was committed. accepted, duplicates and rejected add up to its
 * events, unless too many are rejected to name them all.
 */
export interface UsageAck {
  /** As reported. */
  report_id: string;
  /** Counted for the first time. */
  accepted: number;
  /** Counted before. */
  duplicates: number;
  /** Not counted, and they never will be: they stay own messages, see above. */
  rejected?: readonly Rejection[];
  /** The daemon's time when it counted the report; older daemons do not say it. See Time above. */
  at?: string;
}

/** The purchase it is about. */
export interface SubscriptionFacts {
  /** The purchase. */
  subscription_id: string;
  /** Our number of the invoice that paid for it. */
  order_id: string | null;
  /** The plan. */
  plan_type: string;
  /** Who says that it was paid. */
  source: "btcpay" | "manual" | "grant" | "credit" | "adopted";
  /** Beginning. */
  valid_from: string;
  /** End, exclusive. */
  valid_until: string;
  /** Null is unlimited. */
  messages_limit: number | null;
  /** What was left of the one before and added. */
  carried: {
    /** How. */
    rule: string;
    seconds: number;
    /** Messages added. */
    messages: number;
  };
  /** Why it happened. */
  reason?: string;
  /**
   * subscription.expiring and subscription.renewing: how long it lasts, rounded up to whole hours.
   * subscription.expiring is sent once at each of the operator's steps (168, 72 and 24 hours by
   * default); of steps that were missed only the latest, late. While the user's credit will renew the
   * plan, subscription.renewing takes its place, once.
   */
  hours_left?: number;
  /**
   * subscription.renewing: what will be taken from the user's credit when the plan ends, if it still
   * covers the price of that moment.
   */
  amount?: string;
  /** subscription.renewing: of the amount. */
  currency?: string;
  /**
   * subscription.expiring: a page that pays for this user without a login, for nobody else's eyes. Null
   * unless the operator gives out links.
   */
  renew_url?: string | null;
}

/** The purchase and how far it is used. */
export interface QuotaFacts {
  /** The purchase. */
  subscription_id: string;
  /** The plan. */
  plan_type: string;
  /**
   * quota.warning and quota.exhausted: a page that sells the user more messages without a login, for
   * nobody else's eyes. Missing unless a pack fits the plan and the operator gives out links.
   */
  topup_url?: string;
  /** Percent; of quota.warning and quota.exhausted. */
  threshold?: 80 | 100;
  /** Of quota.topped_up: our id of the pack's invoice. */
  order_id?: string;
  /** Of quota.topped_up: the pack. */
  pack?: string;
  /** Of quota.topped_up: how many the pack adds. */
  messages?: number;
  /** Counted so far. */
  messages_used: number;
  /** Null is unlimited. */
  messages_limit: number | null;
}

/** An amount that became credit, or was taken from it. */
export interface CreditFacts {
  /** Exact; it may have more digits than the currency. */
  amount: string;
  /** ISO 4217. */
  currency: string;
  /** Our id of the invoice, if one is behind it. */
  order_id: string | null;
  /**
   * negative_balance: an operator evened out a balance below zero. unknown_order: an operator gave the
   * user money of an order that was lost. partial_payment, late_payment, overpaid: what BTCPay
   * received. paid_twice: what it received on a further invoice for the same order. not_fulfilled: the
   * purchase could not take effect. released: worth of a plan that could not be carried over. purchase:
   * what the purchase itself did.
   */
  reason: "purchase" | "partial_payment" | "late_payment" | "overpaid" | "paid_twice" | "paid_invalid" | "not_fulfilled" | "released" | "refund" | "refund_cancelled" | "unknown_order" | "negative_balance";
}

/** The invoice it is about. Amounts are texts, exact. */
export interface InvoiceFacts {
  /** BTCPay's id. */
  invoice_id: string | null;
  /** Ours. */
  order_id: string;
  /** The plan quoted; null for a pack. */
  plan_type: string | null;
  /** The pack quoted; null for a plan. */
  pack?: string | null;
  /** The price quoted. */
  amount: string;
  /** ISO 4217. */
  currency: string;
  status: "reserved" | "new" | "processing" | "settled" | "expired" | "invalid" | "abandoned";
  /** What is unusual about the payment. */
  payment: "none" | "partial" | "over" | "late" | "marked";
  /** In the same currency. */
  paid_amount: string | null;
  /** Of invoice.needs_attention: why. */
  kind?: "late_payment" | "partial_payment" | "overpaid" | "mismatch" | "paid_invalid" | "paid_twice" | "not_fulfilled";
  /** Of invoice.needs_attention: in words. */
  detail?: string;
}

/** What happened to a user's rights. */
export interface SubscriptionEvent {
  specversion: "1.0";
  /** The same for every repeat of the same event. */
  id: string;
  source: "kosmo-billing";
  /** The same as in the topic. */
  type: "subscription.activated" | "subscription.renewed" | "subscription.changed" | "subscription.expiring" | "subscription.renewing" | "subscription.expired" | "subscription.revoked";
  /** The user. */
  subject: string;
  /** When it happened. */
  time: string;
  datacontenttype: "application/json";
  data: SubscriptionFacts;
}

/**
 * A threshold was crossed, a purchase ended a shortage, or a pack raised the limit, which arms the
 * thresholds again.
 */
export interface QuotaEvent {
  specversion: "1.0";
  /** The same for every repeat of the same event. */
  id: string;
  source: "kosmo-billing";
  /** The same as in the topic. */
  type: "quota.warning" | "quota.exhausted" | "quota.reset" | "quota.topped_up";
  /** The user. */
  subject: string;
  /** When it happened. */
  time: string;
  datacontenttype: "application/json";
  data: QuotaFacts;
}

/** What happened to a user's credit. */
export interface CreditEvent {
  specversion: "1.0";
  /** The same for every repeat of the same event. */
  id: string;
  source: "kosmo-billing";
  /** The same as in the topic. */
  type: "credit.added" | "credit.spent" | "credit.refunded";
  /** The user. */
  subject: string;
  /** When it happened. */
  time: string;
  datacontenttype: "application/json";
  data: CreditFacts;
}

/** What happened to an invoice. */
export interface InvoiceEvent {
  specversion: "1.0";
  /** The same for every repeat of the same event. */
  id: string;
  source: "kosmo-billing";
  /** The same as in the topic. */
  type: "invoice.created" | "invoice.processing" | "invoice.settled" | "invoice.expired" | "invoice.invalid" | "invoice.needs_attention";
  /** The user. */
  subject: string;
  /** When it happened. */
  time: string;
  datacontenttype: "application/json";
  data: InvoiceFacts;
}

/** Asks what time it is. */
export interface TimeRequest {
  /** Comes back in the answer; random, never used twice. */
  nonce: string;
}

/** The daemon's time. */
export interface TimeAnswer {
  /** As in the request. */
  nonce: string;
  /** The daemon's time when it answered. */
  at: string;
}

/**
 * Why nothing was leased. no_subscription: the user has none that is valid now. unlimited: the plan has
 * no limit and needs no lease. quota_exhausted: everything is used. leased_elsewhere: what is left is
 * leased to gateways; ask again, since they hand back. nothing_asked: want was 0. copied: another
 * gateway of this name opened a copy of the file that openings tell of; use none of its leases.
 */
export type LeaseRefusal = "no_subscription" | "unlimited" | "quota_exhausted" | "leased_elsewhere" | "nothing_asked" | "copied";

/** A lease that the gateway has. */
export interface HeldLease {
  /** Which. */
  lease_id: string;
  /**
   * How many messages it shall have in all, those let through included: fewer hand the rest back. It
   * never grows.
   */
  messages: number;
}

/** Asks for messages of a user, and hands back what is not needed. */
export interface LeaseRequest {
  /**
   * Comes back in the answer. Unique for ever, and the same when the question is repeated: then it is
   * answered with the same lease.
   */
  request_id: string;
  /** Whose messages. */
  user_id: string;
  /** How many more; 0 only hands back. */
  want: number;
  /** What is handed back of this user's leases. */
  leases?: readonly HeldLease[];
  /**
   * For a gateway that keeps its leases in a file: a new random name for each time that the file was
   * opened, from the last that an answer came to until now. Left out, nobody notices two gateways with
   * copies of one file.
   */
  openings?: readonly string[];
}

/** A lease, or why none. */
export interface LeaseAnswer {
  /** As in the request. */
  request_id: string;
  /** As in the request. */
  user_id: string;
  /** The daemon's time when it answered. */
  at: string;
  /** To be named by every message that is let through by it. */
  lease_id?: string | null;
  /** The subscription that it belongs to: it is worth nothing under a document of another one. */
  subscription_id?: string | null;
  /** How many messages may be let through in all; less than asked near the end of a quota. */
  messages: number;
  /** When it ends; stop a few seconds before. */
  expires_at: string | null;
  /** Null with a lease. */
  reason: LeaseRefusal | null;
}

/** What happened to the service itself; it has no subject. */
export interface ServiceEvent {
  specversion: "1.0";
  /** The same for every repeat of the same event. */
  id: string;
  source: "kosmo-billing";
  /** The same as in the topic. */
  type: "billing.degraded" | "billing.recovered" | "hook.off";
  /** When it happened. */
  time: string;
  datacontenttype: "application/json";
  data: ServiceFacts;
}

/** Depends on the type. */
export interface ServiceFacts {
  /** billing.*: as at /health/ready of the daemon that leads. */
  status?: "ready" | "degraded" | "unready";
  /** billing.*: when the trouble began. */
  since?: string;
  /**
   * billing.degraded: what has had a problem for a minute, and which. Each problem is told once until
   * billing.recovered, which follows a minute without any.
   */
  problems?: Record<string, string>;
  /** billing.*: which daemon. */
  instance?: string;
  /** hook.off: the number of the endpoint that was switched off. */
  hook?: number;
  /** hook.off: the first failure since it accepted an event. */
  failing_since?: string;
  /** hook.off: its last answer, and why it is not tried any more. */
  reason?: string;
}

/** Where they are published, with the default prefix. */
export const topics = {
  entitlements: "kosmo/billing/v1/entitlements/{shard}/{user_id}",
  events: "kosmo/billing/v1/events/{type}",
  usage: "kosmo/billing/v1/usage/{reporter}",
  usageAcks: "kosmo/billing/v1/usage-acks/{reporter}",
  status: "kosmo/billing/v1/status",
  watermark: "kosmo/billing/v1/watermark",
  timeRequests: "kosmo/billing/v1/time-requests/{name}",
  timeAnswers: "kosmo/billing/v1/time-answers/{name}",
  leases: "kosmo/billing/v1/leases/{reporter}",
  leaseGrants: "kosmo/billing/v1/lease-grants/{reporter}",
} as const;
