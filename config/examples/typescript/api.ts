// Types of the billing API, made from its openapi.json. Times are RFC 3339 texts, ids UUIDs.

/** The process answers. */
export interface Alive {
  status: "alive";
}

/** Credit in one currency. */
export interface BalanceDocument {
  /** A JSON number with exactly the digits it has; read it as a decimal */
  amount: number;
  /** ISO 4217 */
  currency: string;
  /** The part that is kept for open invoices */
  reserved: number;
}

/**
 * What a purchase took over from the one before, and by which rule. fresh: nothing; added: the same
 * plan, time and messages as they were left; converted: another plan, by the worth that was left.
 */
export interface CarriedDocument {
  rule: Rule;
  from_subscription_id: string | null;
  /** Time taken over, in whole seconds */
  seconds: number;
  messages: number;
}

/** The state of one part. */
export interface CheckDocument {
  ok: boolean;
  detail: string;
}

/** What came in and bought nothing yet, and how it came about. */
export interface CreditDocument {
  balances: readonly BalanceDocument[];
  refunds: readonly RefundDocument[];
  /** The last ones, newest first */
  entries: readonly EntryDocument[];
}

/** Messages counted on one day (UTC). */
export interface DayDocument {
  day: string;
  messages: number;
}

/** One entry of the ledger. */
export interface EntryDocument {
  /** RFC 3339, UTC */
  at: string;
  kind: EntryKind;
  /** What it did to the credit */
  amount: number;
  /** ISO 4217 */
  currency: string;
  invoice_id: string | null;
  /** The plan or pack that it is about, where there is one */
  bought: string | null;
  /** It takes back an earlier entry */
  is_reversal: boolean;
}

/** What happened to money. RECEIVED and GRANTED raise a user's credit, the others lower it. */
export type EntryKind = "received" | "granted" | "sold" | "refunded" | "written_off";

/** One wrong field of the request, and what would be right. */
export interface FieldProblem {
  field: string;
  message: string;
}

/** One invoice: send the customer to `checkout_url`. */
export interface InvoiceDocument {
  /** BTCPay's id; null if credit paid it all */
  invoice_id: string | null;
  /** Our id; BTCPay shows it as orderId */
  order_id: string;
  checkout_url: string | null;
  /** A JSON number with exactly the digits it has; read it as a decimal */
  amount: number;
  /** What BTCPay asks for: the price less credit_used */
  amount_due: number;
  /** The part of the price that the user's credit pays */
  credit_used: number;
  /** ISO 4217 */
  currency: string;
  /** null for a pack */
  plan_type: string | null;
  /** The pack; null for a plan */
  pack: string | null;
  /** new: unpaid; processing: seen, not final; settled: final */
  status: "new" | "processing" | "settled" | "expired" | "invalid";
  /** What is unusual about the payment */
  payment: Payment;
  paid_amount: number | null;
  redirect_url: string | null;
  /** RFC 3339, UTC */
  created_at: string;
  expires_at: string | null;
}

/** One page, newest first; `next_cursor` is null on the last. */
export interface InvoicePage {
  items: readonly InvoiceDocument[];
  /** Give it as `cursor` for the next page */
  next_cursor: string | null;
}

/** What to buy: a plan or a pack. Other fields are refused. */
export interface InvoiceRequest {
  /** A plan of GET /plans, unless a pack is named */
  plan_type?: string | null;
  /** A pack of GET /plans, unless a plan is named */
  pack?: string | null;
  /**
   * Where the customer is sent after paying: https (http on loopback), on a listed host where the
   * operator lists hosts. BTCPay fills in {InvoiceId} and {OrderId}
   */
  redirect_url?: string | null;
}

/** Where our invoice stands. RESERVED has no invoice at BTCPay yet, ABANDONED never got one. */
export type InvoiceStatus = "reserved" | "new" | "processing" | "settled" | "expired" | "invalid" | "abandoned";

/** One message that a gateway reported. */
export interface MessageDocument {
  message_id: string;
  node_id: string | null;
  count: number;
  /** RFC 3339, UTC */
  sent_at: string;
  /** over_limit was counted too; no_subscription had nothing to count on */
  decision: UsageDecision;
  subscription_id: string | null;
}

/** One listed node. */
export interface NodeDocument {
  node_id: string;
  label: string | null;
  /** RFC 3339, UTC */
  added_at: string;
}

/** The whitelist, in the order in which nodes were added. */
export interface NodeList {
  items: readonly NodeDocument[];
  /** How many may be listed */
  limit: number;
}

/** How to call a node. */
export interface NodeRequest {
  /** Printable */
  label?: string | null;
}

/** Why a plan would not be renewed, as things stand. */
export type Obstacle = "no_plan" | "not_for_sale" | "credit_too_low" | "prepaid_cap" | "credit_off";

/** One pack for sale: messages more for the current plan, and no time. */
export interface PackDocument {
  /** Its name, for POST /invoices and POST /quotes */
  pack: string;
  price: PriceDocument;
  messages: number;
}

/** BTCPay's `additionalStatus`: what is unusual about the payment. */
export type Payment = "none" | "partial" | "over" | "late" | "marked";

/** One plan for sale. */
export interface PlanDocument {
  plan_type: string;
  price: PriceDocument;
  period_days: number;
  /** null is unlimited */
  messages_limit: number | null;
  scope: Scope;
  features: readonly string[];
  /** Those that fit it */
  packs: readonly PackDocument[];
}

/** What a plan costs. */
export interface PriceDocument {
  /** A JSON number with exactly the digits it has; read it as a decimal */
  amount: number;
  /** ISO 4217 */
  currency: string;
}

/** RFC 9457. Match on `code`; show `detail` to a developer; tell the operator the `request_id`. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  request_id: string;
  /** There only where single fields are wrong */
  errors?: readonly FieldProblem[];
  code: ProblemCode;
}

/** One fulfilled purchase and the dates that came of it. */
export interface PurchaseDocument {
  subscription_id: string;
  /** The invoice; null for a grant */
  order_id: string | null;
  /** Where it came from: BTCPay, or an operator */
  source: Source;
  plan_type: string;
  price: PriceDocument;
  status: Status;
  /** RFC 3339, UTC */
  valid_from: string;
  /** RFC 3339, UTC */
  valid_until: string;
  grace_until: string | null;
  /** When it was replaced, ran out or was revoked */
  ended_at: string | null;
  /** null is unlimited */
  messages_limit: number | null;
  messages_used: number;
  carried: CarriedDocument;
}

/** `quota_state` of an entitlement: WARNING from 80 %, EXHAUSTED from 100 %. */
export type QuotaState = "ok" | "warning" | "exhausted";

/** What buying would do at this instant; a pack raises `messages_limit` alone. */
export interface QuoteDocument {
  /** null for a pack */
  plan_type: string | null;
  /** The pack; null for a plan */
  pack: string | null;
  price: PriceDocument;
  /** What is left to pay; 0: credit pays it all, at once */
  amount_due: number;
  /** A JSON number with exactly the digits it has; read it as a decimal */
  credit_used: number;
  /** Why it cannot be bought now; then the fields below are null */
  refusal: Refusal | null;
  /**
   * fresh: a new period; added: to what is left of the same plan; converted: what is left of another
   * plan is carried by its worth; null for a pack
   */
  rule: Rule | null;
  valid_until: string | null;
  /** null is unlimited, or refused */
  messages_limit: number | null;
  /** Time taken over from the present plan */
  carried_seconds: number | null;
  /** Messages taken over from it */
  carried_messages: number | null;
  /** Worth that cannot be taken over, since it is in another currency: it becomes credit */
  credit_added: readonly PriceDocument[];
}

/** What to quote: a plan or a pack. Other fields are refused. */
export interface QuoteRequest {
  /** A plan of GET /plans, unless a pack is named */
  plan_type?: string | null;
  /** A pack of GET /plans, unless a plan is named */
  pack?: string | null;
}

/** Whether requests should come here; degraded: yes, but a part has a problem. */
export interface Ready {
  status: "ready" | "degraded" | "unready";
  checks: Record<string, CheckDocument>;
}

/** The delivery is recorded, and will be looked into. */
export interface Recorded {
  recorded: true;
}

/** A refund that the customer can claim, or has claimed. */
export interface RefundDocument {
  /** A JSON number with exactly the digits it has; read it as a decimal */
  amount: number;
  /** ISO 4217 */
  currency: string;
  /** Where it is claimed */
  link: string;
  /** RFC 3339, UTC */
  ordered_at: string;
}

/** Why a purchase takes no effect; its money becomes credit. */
export type Refusal = "prepaid_cap" | "no_fitting_plan" | "credit_spent";

/** The user's choice, and what it would do at the end of the present plan. */
export interface RenewalDocument {
  auto: boolean;
  /** Why the plan would not be renewed as things stand; null: it is, if auto is true */
  obstacle: Obstacle | null;
  /** The present plan; null without one */
  plan_type: string | null;
  /** When the present plan ends */
  renews_at: string | null;
  /** What it costs now; null if it is not for sale */
  price: PriceDocument | null;
  /** What the credit lacks of the price */
  amount_missing: number | null;
}

/** The user's choice. */
export interface RenewalRequest {
  auto: boolean;
}

/** Which part of R2 produced the dates of a purchase. */
export type Rule = "fresh" | "added" | "converted";

/** `scope` of an entitlement: which nodes the user may write to. */
export type Scope = "any_node" | "whitelist" | "none";

/** Who says that it was paid. */
export type Source = "btcpay" | "manual" | "grant" | "credit" | "adopted";

/** `status` of an entitlement; NONE never bought anything. */
export type Standing = "active" | "grace" | "expired" | "revoked" | "none";

/** Where a subscription stands; at most one of a user's is ACTIVE or GRACE. */
export type Status = "active" | "grace" | "replaced" | "expired" | "revoked";

/** What the user may do now, and where to pay for more without a login. */
export interface SubscriptionDocument {
  user_id: string;
  plan_type: string;
  status: Standing;
  scope: Scope;
  allowed_nodes: readonly string[];
  features: readonly string[];
  messages_limit: number | null;
  messages_used: number;
  quota_state: QuotaState;
  subscription_id: string | null;
  valid_from: string | null;
  valid_until: string | null;
  grace_until: string | null;
  version: number;
  issued_at: string;
  /** The user's renewal link, for nobody else; missing without PUBLIC_URL */
  renew_url?: string | null;
}

/** What the user may do now, and everything bought so far. */
export interface SubscriptionWithHistory {
  user_id: string;
  plan_type: string;
  status: Standing;
  scope: Scope;
  allowed_nodes: readonly string[];
  features: readonly string[];
  messages_limit: number | null;
  messages_used: number;
  quota_state: QuotaState;
  subscription_id: string | null;
  valid_from: string | null;
  valid_until: string | null;
  grace_until: string | null;
  version: number;
  issued_at: string;
  /** The user's renewal link, for nobody else; missing without PUBLIC_URL */
  renew_url?: string | null;
  /** How many there are in all */
  purchases: number;
  /** The last 100, newest first */
  history: readonly PurchaseDocument[];
}

/** How a message was counted. */
export type UsageDecision = "counted" | "over_limit" | "no_subscription";

/** Messages counted from one day to another, both included. */
export interface UsageDocument {
  /** The first day */
  first: string;
  /** The last day */
  last: string;
  /** All of these days together */
  messages: number;
  /** Days with messages, oldest first */
  days: readonly DayDocument[];
  /** The last 20 of all, newest first */
  latest: readonly MessageDocument[];
}

/** Every `code` that a Problem may have. */
export type ProblemCode =
  | "bad_signature"
  | "body_too_large"
  | "body_too_slow"
  | "btcpay_away"
  | "btcpay_creation_unknown"
  | "btcpay_denied"
  | "btcpay_garbled"
  | "btcpay_mismatch"
  | "btcpay_refused"
  | "credit_off"
  | "database_conflict"
  | "database_unavailable"
  | "expectation_failed"
  | "foreign_origin"
  | "idempotency_key_reused"
  | "internal_error"
  | "invalid"
  | "invalid_cursor"
  | "invalid_idempotency_key"
  | "invalid_label"
  | "invalid_node_id"
  | "invalid_redirect_url"
  | "invoice_not_found"
  | "keys_unavailable"
  | "locked"
  | "malformed"
  | "malformed_body"
  | "malformed_request"
  | "method_not_allowed"
  | "no_fitting_plan"
  | "not_found"
  | "overloaded"
  | "prepaid_cap"
  | "stopping"
  | "too_many_invoices"
  | "too_many_keys"
  | "too_many_new_nodes"
  | "too_many_nodes"
  | "too_many_streams"
  | "unauthenticated"
  | "unknown_host"
  | "unknown_pack"
  | "unknown_plan"
  | "unsupported_encoding"
  | "unsupported_media_type"
  | "user_erased";
