// How values are said.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });

export const timeOfDay = (iso) => clock.format(new Date(iso));
export const moment = (iso) => date.format(new Date(iso));

export const money = (amount, currency) =>
  new Intl.NumberFormat("en", { style: "currency", currency }).format(amount);

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

/** How long until a moment, in its two greatest units. */
export function left(iso, now = Date.now()) {
  const seconds = Math.max(0, Math.floor((new Date(iso) - now) / 1000));
  return duration(seconds);
}

export function duration(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const parts = [];
  let rest = seconds;
  for (const [name, size] of units) {
    const number = Math.floor(rest / size);
    rest -= number * size;
    if (number || parts.length) {
      parts.push(count(number, name));
    }
  }
  return parts.slice(0, 2).join(" ") || "0 seconds";
}

export const messagesOf = (limit) => (limit === null ? "Unlimited messages" : `${limit} messages`);

export const SCOPES = {
  any_node: "any node",
  whitelist: "nodes on the list",
  none: "no node",
};

export const STANDINGS = {
  active: ["✓ active", "good"],
  grace: ["◷ grace: a payment confirms", "warn"],
  expired: ["✕ expired", "bad"],
  revoked: ["✕ revoked", "bad"],
  none: ["○ no plan", "plain"],
};

/** Why a purchase is refused, by the contract's word. */
export const REFUSALS = {
  prepaid_cap: "Not now: the plan would last more than 400 days.",
  no_fitting_plan: "Not now: there is no current plan that it fits.",
};

/** Why credit would not renew the plan. */
export const OBSTACLES = {
  no_plan: "There is no plan to renew.",
  not_for_sale: "The plan is not for sale any more.",
  credit_too_low: "The credit does not cover it",
  prepaid_cap: "The plan would last more than 400 days.",
  credit_off: "Plans cannot be paid from credit here.",
};

/** What an entry of the ledger says, and what it says when it takes an earlier one back. */
export const ENTRIES = {
  received: ["came in for", "did not come in after all for"],
  granted: ["was granted", "is not granted any more"],
  sold: ["paid for", "came back from"],
  refunded: ["was refunded", "came back: the refund was cancelled"],
  written_off: ["was settled outside", "came back: it is not settled outside"],
};

/** Why the gate refuses, by the contract's word. */
export const REASONS = {
  ok: "the gate let it pass",
  no_plan: "the plan does not send messages",
  expired: "the plan has expired",
  revoked: "the plan was revoked, since its payment turned out invalid",
  node_not_allowed: "the node is not on the whitelist",
  quota_exhausted: "every message of the plan is used",
  unknown_user: "the user never had a plan",
  no_lease: "this gateway holds none of the user's messages",
};

const PAYMENTS = { partial: "partly paid", over: "overpaid", late: "paid late", marked: "settled manually" };
const STATUSES = { new: "waiting for payment", processing: "confirming", settled: "paid", expired: "expired", invalid: "invalid" };

/** How an invoice stands, by our API's two words or by BTCPay's (`Expired`, `PaidLate`). */
export function standing(status, payment) {
  const word = payment.toLowerCase().replace("paid", "");
  const words = STATUSES[status.toLowerCase()] ?? status;
  return PAYMENTS[word] ? `${words}, ${PAYMENTS[word]}` : words;
}
