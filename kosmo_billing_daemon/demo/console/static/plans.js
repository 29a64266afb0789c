// The plans and packs for sale, and what buying each would do at this moment (a quote, which changes nothing).

import { attempt, api, call } from "./calls.js";
import { $, enable, h, isEnabled } from "./dom.js";
import { isCurrent, on, session, tell } from "./session.js";
import { messagesOf, moment, money, REFUSALS, SCOPES } from "./words.js";

const card = $("#plans");
const problem = $(".problem", card);
const MOTTOS = {
  wanderer: "For a word home now and then",
  guardian: "For the nodes you look after",
  sanctuary: "For those who run a service",
};

export async function start() {
  const plans = await call("GET", `/api/${session.users[0].user_id}/plans`);
  const packs = new Map(plans.flatMap((plan) => plan.packs.map((pack) => [pack.pack, pack])));
  $(".offers", card).replaceChildren(...plans.map(offer));
  $(".packs", card).replaceChildren(...[...packs.values()].map(packOffer));
  on("rights", mark);
  on("user", soon);
  on("rights", soon);
  on("passed", ({ topic }) => /^events\/(credit|invoice)\./.test(topic) && soon());
}

let timer = null;

/** Ask once for a burst of changes. */
function soon() {
  timer ??= setTimeout(() => {
    timer = null;
    for (const item of card.querySelectorAll(".offer")) {
      quote(session.user, item);
    }
  }, 150);
}

async function quote(user, item) {
  const wanted = item.dataset.pack ? { pack: item.dataset.pack } : { plan_type: item.dataset.plan };
  const quoted = await api(user, "POST", "quotes", wanted).catch(() => null);
  if (quoted && isCurrent(user)) {
    $(".quote", item).textContent = told(quoted);
  }
}

function told(quoted) {
  if (quoted.refusal) {
    return REFUSALS[quoted.refusal] ?? quoted.refusal;
  }
  const { currency } = quoted.price;
  const credit = quoted.credit_used ? ` and ${money(quoted.credit_used, currency)} of your credit` : "";
  const messages = quoted.messages_limit === null ? "unlimited messages" : `a limit of ${quoted.messages_limit} messages`;
  return `Now: ${money(quoted.amount_due, currency)}${credit} for ${messages} until ${moment(quoted.valid_until)}.`;
}

function packOffer(pack) {
  return h(
    "li",
    { class: "offer", "data-pack": pack.pack },
    h("h3", {}, `${pack.messages} messages`),
    h("p", { class: "price" }, h("strong", {}, money(pack.price.amount, pack.price.currency).replace(/\.00$/, ""))),
    h("p", { class: "quote" }),
    h("button", { type: "button", onclick: (event) => buy({ pack: pack.pack }, event.currentTarget) }, `Buy ${pack.messages} messages`),
  );
}

function offer(plan) {
  const points = [
    messagesOf(plan.messages_limit),
    `To ${SCOPES[plan.scope] ?? plan.scope}`,
    ...plan.features.map((feature) => ({ api: "API access", webhooks: "Webhooks" })[feature] ?? feature),
  ];
  const price = money(plan.price.amount, plan.price.currency).replace(/\.00$/, "");
  return h(
    "li",
    { class: "offer", "data-plan": plan.plan_type },
    h("h3", {}, plan.plan_type, h("span", { class: "mine", hidden: true }, "current")),
    h("p", { class: "motto" }, MOTTOS[plan.plan_type] ?? ""),
    h("p", { class: "price" }, h("strong", {}, price), ` / ${plan.period_days} days`),
    h("ul", { class: "points" }, ...points.map((point) => h("li", {}, point))),
    h("p", { class: "quote" }),
    h("button", { type: "button", onclick: (event) => buy({ plan_type: plan.plan_type }, event.currentTarget) }, `Buy ${plan.plan_type}`),
  );
}

async function buy(order, button) {
  if (!isEnabled(button)) {
    return;
  }
  const user = session.user;
  enable(button, false);
  const invoice = await attempt(problem, () => api(user, "POST", "invoices", order));
  enable(button, true);
  if (invoice && isCurrent(user)) {
    tell("buy", invoice);
  }
}

function mark(rights) {
  for (const item of card.querySelectorAll(".offer[data-plan]")) {
    const mine = item.dataset.plan === rights?.plan_type && ["active", "grace"].includes(rights.status);
    item.classList.toggle("current", mine);
    $(".mine", item).hidden = !mine;
  }
}
