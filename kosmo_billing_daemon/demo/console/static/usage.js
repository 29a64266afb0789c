// What was counted for the user, by the daemon, after the gateway's reports.

import { api } from "./calls.js";
import { $, h, say } from "./dom.js";
import { isCurrent, nameOf, on, session } from "./session.js";
import { count, timeOfDay } from "./words.js";

const card = $("#usage");
const SHOWN = 5;
const DECISIONS = {
  counted: ["✓ counted", "good"],
  over_limit: ["▲ over the limit", "warn"],
  no_subscription: ["○ without a plan", "plain"],
};
let timer = null;

export function start() {
  on("user", show);
  on("rights", soon);
  on("passed", ({ topic }) => topic.startsWith("usage-acks/") && soon());
}

/** Ask once for a burst of changes. */
function soon() {
  timer ??= setTimeout(() => {
    timer = null;
    show(session.user);
  }, 150);
}

async function show(user) {
  const usage = await api(user, "GET", "usage").catch(() => null);
  if (!usage || !isCurrent(user)) {
    return;
  }
  say($("#usage-sum"), `${count(usage.messages, "message")} of ${nameOf(user.user_id)} since ${usage.first}.`);
  const most = Math.max(1, ...usage.days.map((day) => day.messages));
  $(".days", card).replaceChildren(...usage.days.slice(-7).map((day) => bar(day, most)));
  const items = usage.latest.slice(0, SHOWN).map((message) => {
    const [word, tone] = DECISIONS[message.decision] ?? [message.decision, "plain"];
    return h("li", {}, h("time", {}, timeOfDay(message.sent_at)), h("code", {}, message.node_id ?? "–"), h("span", { class: `tone ${tone}` }, word));
  });
  $(".latest", card).replaceChildren(...(items.length ? items : [h("li", { class: "nothing" }, "Nothing sent yet.")]));
}

function bar(day, most) {
  const fill = h("span", { class: "fill", "aria-hidden": "true" });
  fill.style.inlineSize = `${(day.messages / most) * 100}%`;
  return h("li", {}, h("span", { class: "day" }, day.day.slice(5)), h("span", { class: "bar" }, fill), h("span", { class: "figure" }, String(day.messages)));
}
