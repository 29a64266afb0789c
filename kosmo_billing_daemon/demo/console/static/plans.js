// The plans for sale.

import { attempt, api, call } from "./calls.js";
import { $, enable, h, isEnabled } from "./dom.js";
import { isCurrent, on, session, tell } from "./session.js";
import { messagesOf, money, SCOPES } from "./words.js";

const card = $("#plans");
const problem = $(".problem", card);
const MOTTOS = {
  wanderer: "For a word home now and then",
  guardian: "For the nodes you look after",
  sanctuary: "For those who run a service",
};

export async function start() {
  const plans = await call("GET", `/api/${session.users[0].user_id}/plans`);
  $(".offers", card).replaceChildren(...plans.map(offer));
  on("rights", mark);
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
    h("button", { type: "button", onclick: (event) => buy(plan, event.currentTarget) }, `Buy ${plan.plan_type}`),
  );
}

async function buy(plan, button) {
  if (!isEnabled(button)) {
    return;
  }
  const user = session.user;
  enable(button, false);
  const order = { plan_type: plan.plan_type };
  const invoice = await attempt(problem, () => api(user, "POST", "invoices", order));
  enable(button, true);
  if (invoice && isCurrent(user)) {
    tell("buy", invoice);
  }
}

function mark(rights) {
  for (const item of card.querySelectorAll(".offer")) {
    const mine = item.dataset.plan === rights?.plan_type && ["active", "grace"].includes(rights.status);
    item.classList.toggle("current", mine);
    $(".mine", item).hidden = !mine;
  }
}
