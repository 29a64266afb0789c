// The checkout of one invoice. The page plays payer, network and operator; the daemon hears of it from BTCPay.

import { api, attempt, simulate } from "./calls.js";
import { $, announce, badge, enable, h, isEnabled, say } from "./dom.js";
import { isCurrent, on, session } from "./session.js";
import { money, standing, timeOfDay } from "./words.js";

const card = $("#checkout");
const till = $(".till", card);
const problem = $(".problem", card);
const invoices = $(".invoices", card);
const ACTIONS = [
  ["pay", "BTC-LN", "⚡ Pay with Lightning"],
  ["pay", "BTC-CHAIN", "Pay on-chain"],
  ["confirm", null, "Confirm the payment"],
  ["pay_partial", "BTC-CHAIN", "Pay half"],
  ["pay_over", "BTC-CHAIN", "Pay too much"],
  ["expire", null, "Let it expire"],
  ["pay_late", "BTC-CHAIN", "Pay too late"],
  ["replace_payment", null, "Replace the payment"],
  ["mark_settled", null, "Mark settled manually"],
  ["mark_invalid", null, "Mark invalid"],
];
const HAPPY = 3;
const PAYABLE = ["new", "processing"];
const TONES = { New: "info", Processing: "warn", Settled: "good", Expired: "bad", Invalid: "bad" };
const TOLD = {
  "New/None": "Waiting for the payment.",
  "New/PaidPartial": "Part of the price was paid. The rest is still due.",
  Processing: "The payment was seen and waits for confirmations. Nothing is active yet.",
  "Processing/PaidOver": "More than the price was paid. The payment waits for confirmations.",
  Settled: "Paid: this is final.",
  "Settled/PaidOver": "Paid. The plan starts once; what was paid too much is credit.",
  "Settled/Marked": "The operator settled it manually; that counts too.",
  "Settled/PaidLate": "Paid late, within 72 hours: it counts.",
  "Expired/None": "Expired without payment. A full payment within 72 hours still counts.",
  "Expired/PaidPartial": "Expired with part of the price paid. Nothing is activated; once it is confirmed the money is credit.",
  "Expired/PaidLate": "Paid in full after the expiry. It counts as soon as it is confirmed.",
  Invalid: "Invalid: what it had activated is revoked.",
};
let shown = null; // { user, invoice, theirs, purchase, acted, took }

export function start() {
  const buttons = ACTIONS.map(([action, method, label]) =>
    h("button", { type: "button", class: method === "BTC-LN" ? null : "quiet", "data-action": action, "data-method": method, onclick: act }, label),
  );
  $(".happy", card).append(...buttons.slice(0, HAPPY));
  $(".others", card).append(...buttons.slice(HAPPY));
  on("user", (user) => {
    shown = null;
    till.hidden = true;
    $(".empty", card).hidden = false;
    resume(user);
  });
  on("buy", (invoice) => open(session.user, invoice, true));
  on("rights", () => {
    fulfilled();
    list(session.user);
  });
  on("passed", ({ topic }) => topic.startsWith("events/invoice.") && session.user && list(session.user));
  setInterval(() => document.hidden || look(), 1000);
}

/** Show the checkout again that was open before the page was loaded, or else the newest one that can be paid. */
async function resume(user) {
  const page = await list(user);
  const known = sessionStorage.getItem(`checkout ${user.name}`);
  const invoice = page?.items.find((one) => one.invoice_id === known) ?? page?.items.find((one) => one.invoice_id && PAYABLE.includes(one.status));
  if (invoice && !shown && isCurrent(user)) {
    open(user, invoice, false);
  }
}

const nameOf = (invoice) => invoice.plan_type ?? `the pack ${invoice.pack}`;

function open(user, invoice, asked) {
  if (!invoice.invoice_id) {
    announce(`Your credit has paid for ${nameOf(invoice)}`); // BTCPay was not asked
    list(user);
    return;
  }
  sessionStorage.setItem(`checkout ${user.name}`, invoice.invoice_id);
  shown = { user, invoice, theirs: null, purchase: null, acted: null, took: null };
  till.hidden = false;
  $(".empty", card).hidden = true;
  problem.textContent = "";
  say($(".amount", card), `${money(invoice.amount_due, invoice.currency)} for ${nameOf(invoice)}`);
  badge($("#btcpay-status"), "…", "plain");
  $("#checkout-page").href = `${session.btcpay}/i/${encodeURIComponent(invoice.invoice_id)}`;
  steps();
  look();
  fulfilled();
  if (asked) {
    list(user);
    announce(`Invoice over ${money(invoice.amount_due, invoice.currency)} opened`);
    $("#checkout-title").focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }
}

/** Ask the simulator how the invoice is; the daemon hears of it by itself. */
async function look() {
  const at = shown;
  if (!at) {
    return;
  }
  const theirs = await simulate("GET", `invoices/${encodeURIComponent(at.invoice.invoice_id)}`).catch(() => null);
  if (theirs && shown === at) {
    show(theirs);
  }
}

function show(theirs) {
  shown.theirs = theirs;
  const { status, additionalStatus: more } = theirs;
  badge($("#btcpay-status"), standing(status, more), TONES[status] ?? "plain");
  for (const button of card.querySelectorAll("button[data-action]")) {
    enable(button, theirs.possibleActions.includes(button.dataset.action));
  }
  steps();
}

async function act(event) {
  const button = event.currentTarget;
  if (!shown || !isEnabled(button)) {
    return;
  }
  const at = shown;
  at.acted = performance.now();
  const { action, method } = button.dataset;
  const address = `invoices/${encodeURIComponent(at.invoice.invoice_id)}`;
  const theirs = await attempt(problem, () => simulate("POST", address, { action, ...(method ? { method } : {}) }));
  if (theirs && shown === at) {
    show(theirs);
  }
}

/** See whether the daemon has fulfilled the invoice: its order is among the purchases then. */
async function fulfilled() {
  const at = shown;
  const now = performance.now();
  if (!at || (at.purchase && at.purchase.status === "active" && session.rights?.status === "active" && session.rights.subscription_id === at.purchase.subscription_id)) {
    return;
  }
  const known = await api(at.user, "GET", "subscription?history=true").catch(() => null);
  const purchase = known?.history.find((one) => one.order_id === at.invoice.order_id);
  if (!purchase || shown !== at) {
    return;
  }
  if (!at.purchase && at.acted !== null) {
    at.took = (now - at.acted) / 1000;
  }
  at.purchase = purchase;
  steps();
}

/** One sentence on how things stand, and how quick the daemon was. */
function tellAll() {
  const { theirs, purchase, took } = shown;
  const told = theirs ? (TOLD[`${theirs.status}/${theirs.additionalStatus}`] ?? TOLD[theirs.status] ?? "") : "";
  say($(".told", card), took === null || purchase?.status !== "active" ? told : `${told} Live ${took.toFixed(2)} s after the click.`);
}

function steps() {
  tellAll();
  const { theirs, purchase } = shown;
  const status = theirs?.status;
  const late = status === "Expired" && theirs.additionalStatus === "PaidLate";
  const seen = theirs && Number(theirs.paidAmount) > 0;
  const settled = status === "Settled" || (late && !theirs.possibleActions.includes("confirm"));
  const failed = status === "Invalid" || (status === "Expired" && !late);
  const plan = { active: "Plan active", revoked: "Plan revoked", expired: "Plan expired", replaced: "Replaced by a later plan" };
  const all = [
    ["Invoice", true, ""],
    ["Payment seen", seen || settled, ""],
    [failed ? status : "Paid", settled, failed ? "failed" : ""],
    [purchase ? (plan[purchase.status] ?? purchase.status) : "Plan active", Boolean(purchase), purchase && purchase.status === "revoked" ? "failed" : ""],
  ];
  const items = all.map(([label, done, tone]) => {
    const state = tone || (done ? "done" : "open");
    const mark = { done: "✓", failed: "✕", open: "○" }[state];
    const spoken = { done: "done: ", failed: "failed: ", open: "to come: " }[state];
    return h("li", { class: state }, h("span", { class: "mark", "aria-hidden": "true" }, mark), h("span", { class: "sr" }, spoken), h("span", {}, label));
  });
  const progress = $(".progress", card);
  const next = h("ol", {}, ...items);
  if (progress.textContent !== next.textContent) {
    progress.replaceChildren(...items);
  }
}

/** The invoices as the daemon knows them, without asking it to look at BTCPay. */
async function list(user) {
  const page = await api(user, "GET", "invoices?limit=6").catch(() => null);
  if (!page || !isCurrent(user)) {
    return null;
  }
  invoices.hidden = page.items.length === 0;
  say($(".number", invoices), `(${page.next_cursor ? "last " : ""}${page.items.length})`);
  const focused = document.activeElement?.dataset?.key;
  $("ul", invoices).replaceChildren(...page.items.map((invoice) => row(user, invoice)));
  if (focused) {
    [...invoices.querySelectorAll("button")].find((button) => button.dataset.key === focused)?.focus();
  }
  return page;
}

function row(user, invoice) {
  const name = `${nameOf(invoice)} of ${timeOfDay(invoice.created_at)}`;
  const id = invoice.invoice_id;
  return h(
    "li",
    {},
    h("span", {}, h("strong", {}, nameOf(invoice)), ` ${money(invoice.amount, invoice.currency)}, ${timeOfDay(invoice.created_at)}: `, h("em", {}, standing(invoice.status, invoice.payment))),
    id && h("span", { class: "row" },
      h("button", { type: "button", class: "quiet small", "data-key": `open ${id}`, "aria-label": `Open the checkout of ${name}`, onclick: () => open(user, invoice, true) }, "Open"),
      PAYABLE.includes(invoice.status) && h("button", { type: "button", class: "quiet small", "data-key": `ask ${id}`, "aria-label": `Check with BTCPay: ${name}`, onclick: () => ask(user, id) }, "Ask BTCPay"),
    ),
  );
}

/** Have the daemon look at BTCPay; it does so at most every two seconds for one invoice, so perhaps twice. */
async function ask(user, id) {
  const look = () => attempt(problem, () => api(user, "GET", `invoices/${encodeURIComponent(id)}`));
  const invoice = await look();
  if (invoice && PAYABLE.includes(invoice.status)) {
    await new Promise((resume) => setTimeout(resume, 2100));
    await look();
  }
  list(user);
}
