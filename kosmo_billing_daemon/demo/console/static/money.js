// The user's money: what came in, what it bought, what is left; and whether credit renews the plan.

import { api, attempt } from "./calls.js";
import { $, h, say } from "./dom.js";
import { isCurrent, on, session } from "./session.js";
import { ENTRIES, moment, money, OBSTACLES, timeOfDay } from "./words.js";

const card = $("#money");
const problem = $(".problem", card);
const box = $("#auto-renew");
const SHOWN = 8;
let timer = null;

export function start() {
  on("user", show);
  on("rights", soon);
  on("passed", ({ topic }) => /^events\/(credit|invoice|subscription)\./.test(topic) && soon());
  box.addEventListener("change", choose);
}

/** Ask once for a burst of changes. */
function soon() {
  timer ??= setTimeout(() => {
    timer = null;
    show(session.user);
  }, 150);
}

async function show(user) {
  const [credit, renewal] = await Promise.all([
    api(user, "GET", "credit").catch(() => null),
    api(user, "GET", "subscription/renewal").catch(() => null),
  ]);
  if (!credit || !renewal || !isCurrent(user)) {
    return;
  }
  const sums = credit.balances.map(({ amount, reserved, currency }) => money(amount, currency) + (reserved ? ` (${money(reserved, currency)} kept for an open invoice)` : ""));
  say($("#credit"), sums.length ? `Credit: ${sums.join(", ")}. The next purchase spends it first.` : "No credit: everything that came in was used.");
  showRenewal(renewal);
  const items = credit.entries.slice(0, SHOWN).map(entry);
  $(".entries", card).replaceChildren(...(items.length ? items : [h("li", { class: "nothing" }, "Nothing came in yet.")]));
}

function showRenewal(renewal) {
  box.checked = renewal.auto;
  const missing = renewal.obstacle === "credit_too_low" ? `: ${money(renewal.amount_missing, renewal.price.currency)} missing.` : "";
  const price = renewal.price && money(renewal.price.amount, renewal.price.currency);
  const would = `Credit ${renewal.auto ? "renews" : "would renew"} ${renewal.plan_type} for ${price} on ${renewal.renews_at && moment(renewal.renews_at)}.`;
  say($("#renewal"), renewal.obstacle ? OBSTACLES[renewal.obstacle] + missing : would);
}

function entry({ at, kind, amount, currency, bought, is_reversal: isReversal }) {
  const words = (ENTRIES[kind]?.[Number(isReversal)] ?? kind).replace(/(for|from)$/, `$1 ${bought ?? "a purchase"}`);
  return h("li", {}, h("time", {}, timeOfDay(at)), h("span", {}, `${money(Math.abs(amount), currency)} ${words}`));
}

async function choose() {
  const { user } = session;
  const renewal = await attempt(problem, () => api(user, "PUT", "subscription/renewal", { auto: box.checked }));
  if (renewal && isCurrent(user)) {
    showRenewal(renewal);
  }
}
