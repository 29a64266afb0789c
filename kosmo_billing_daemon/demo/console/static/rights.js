// What the user may do now: the document that gateways get, live, as a thank-you page would follow it.

import { api, Stream } from "./calls.js";
import { $, announce, badge, h, say } from "./dom.js";
import { isCurrent, nameOf, on, session, tell } from "./session.js";
import { count, duration, left, moment, SCOPES, STANDINGS, timeOfDay } from "./words.js";

const card = $("#rights");
const history = $(".history", card);
const meter = $("#meter");
const QUOTA_STATES = {
  ok: ["", "ok"],
  warning: ["▲ More than 80 % is used", "warning"],
  exhausted: ["✕ Used up: the gate refuses the next one", "exhausted"],
};
let stream = null;

export function start() {
  on("user", follow);
  history.addEventListener("toggle", () => history.open && showHistory());
  setInterval(showTime, 1000);
}

function follow(user) {
  stream?.close();
  session.rights = null;
  live(false);
  stream = new Stream(`/api/${user.user_id}/subscription/events`, { entitlement: (document) => show(user, document) }, live);
}

function live(connected) {
  card.classList.toggle("connected", connected);
  const version = session.rights ? ` · v${session.rights.version} · updated ${timeOfDay(session.rights.issued_at)}` : "";
  say($("#live"), connected ? `Live${version}` : "Connecting to live updates");
}

function show(user, rights) {
  if (!isCurrent(user)) {
    return;
  }
  const before = session.rights;
  session.rights = rights;
  const [word, tone] = STANDINGS[rights.status] ?? [rights.status, "plain"];
  say($(".plan", card), rights.plan_type);
  badge($("#standing"), word, tone);
  card.dataset.status = rights.status;
  card.dataset.version = rights.version;
  showQuota(rights);
  showTime();
  const nodes = rights.scope === "whitelist" ? ` (${rights.allowed_nodes.length})` : "";
  say($("#scope"), `${SCOPES[rights.scope] ?? rights.scope}${nodes}`);
  say($("#features"), rights.features.join(", ") || "none");
  live(true);
  if (before && (before.status !== rights.status || before.subscription_id !== rights.subscription_id)) {
    announce(`${nameOf(rights.user_id)}: plan ${rights.plan_type}, ${rights.status}`);
    card.classList.remove("changed");
    void card.offsetWidth; // lets the animation begin anew
    card.classList.add("changed");
  }
  if (history.open) {
    showHistory();
  }
  tell("rights", rights);
}

function showQuota(rights) {
  const { messages_limit: limit, messages_used: used } = rights;
  const none = rights.status === "none";
  const unlimited = limit === null;
  const words = none ? "none to send" : unlimited ? `${used} used, unlimited` : `${used} of ${limit} used, ${Math.max(0, limit - used)} left`;
  const share = unlimited || !limit ? 0 : Math.min(1, used / limit);
  const [note, state] = none || unlimited ? ["", "ok"] : (QUOTA_STATES[rights.quota_state] ?? ["", "ok"]);
  say($("#quota-words"), words);
  say($("#quota-state"), note);
  card.dataset.quota = state;
  meter.classList.toggle("unlimited", unlimited);
  meter.setAttribute("aria-valuemax", String(limit || Math.max(1, used)));
  meter.setAttribute("aria-valuenow", String(Math.min(used, limit ?? used)));
  meter.setAttribute("aria-valuetext", note ? `${words}. ${note}` : words);
  $("span", meter).style.inlineSize = `${share * 100}%`;
}

function showTime() {
  const rights = session.rights;
  const end = rights?.status === "grace" ? (rights.grace_until ?? rights.valid_until) : rights?.valid_until;
  const runs = end && ["active", "grace"].includes(rights.status);
  say($("#time-left"), runs ? left(end) : "–");
  say($("#valid-until"), end ? moment(end) : "–");
}

async function showHistory() {
  const user = session.user;
  const shown = await api(user, "GET", "subscription?history=true").catch(() => null);
  if (!shown || !isCurrent(user)) {
    return;
  }
  const items = shown.history.map((purchase) => h("li", {}, h("strong", {}, `${purchase.plan_type}, ${purchase.status}`), h("br"), told(purchase)));
  $("ol", history).replaceChildren(...(items.length ? items : [h("li", {}, "Nothing bought yet.")]));
}

function told(purchase) {
  const { rule, seconds, messages } = purchase.carried;
  const gained = `${duration(seconds)} and ${count(messages, "message")}`;
  const why = {
    fresh: "a new period",
    added: `same plan: what was left was added (${gained})`,
    converted: `other plan: what was left was converted by its value (${gained})`,
  }[rule];
  return `${moment(purchase.valid_from)} to ${moment(purchase.valid_until)}; ${why ?? rule}`;
}
