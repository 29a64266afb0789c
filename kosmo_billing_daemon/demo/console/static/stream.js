// What crosses MQTT, newest first; bounded, so that a page left open for days stays quick.

import { Stream } from "./calls.js";
import { $, h, say } from "./dom.js";
import { nameOf, on, session, tell } from "./session.js";
import { count, moment, timeOfDay } from "./words.js";

const KEPT = 200;
const KINDS = {
  entitlements: ["rights", "green"],
  events: ["event", "blue"],
  usage: ["usage", "violet"],
  "usage-acks": ["ack", "violet"],
  status: ["status", "grey"],
  watermark: ["mark", "grey"],
};
const card = $("#stream");
const list = $(".messages ol", card);
const pause = $("#pause");
const only = $("#only-user");
let kept = []; // newest first
let newest = 0;
let paused = false;
let waiting = [];
let connected = false;

export function start() {
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) {
      const missed = waiting;
      waiting = [];
      missed.forEach(add);
    }
    state();
  });
  $("#clear").addEventListener("click", () => {
    kept = [];
    waiting = [];
    list.replaceChildren();
    state();
  });
  only.addEventListener("change", redraw);
  on("user", () => only.checked && redraw());
  new Stream("/mqtt", { message: arrived, broker: attached }, (open) => attached(connected && open));
}

function attached(is) {
  connected = is;
  state();
}

function arrived(passed) {
  if (passed.number <= newest && newest - passed.number < KEPT) {
    return; // known, from before a new connection
  }
  newest = passed.number;
  if (!passed.retained) {
    tell("passed", passed);
  }
  if (paused) {
    waiting = [...waiting.slice(1 - KEPT), passed];
  } else {
    add(passed);
  }
  state();
}

function state() {
  const held = waiting.length ? `, ${waiting.length} waiting` : "";
  say($("#stream-state"), !connected ? "The broker is away; trying again" : paused ? `Paused${held}` : `Live, ${count(kept.length, "message")}`);
  card.classList.toggle("connected", connected && !paused);
  say(pause, paused ? "Go on" : "Pause");
}

function add(passed) {
  kept = [passed, ...kept.slice(0, KEPT - 1)];
  if (isWanted(passed)) {
    list.prepend(item(passed));
  }
  while (list.children.length > KEPT) {
    list.lastElementChild.remove();
  }
}

function redraw() {
  list.replaceChildren(...kept.filter(isWanted).map(item));
}

function isWanted({ topic, payload }) {
  return !only.checked || `${topic} ${JSON.stringify(payload)}`.includes(session.user.user_id);
}

function item(passed) {
  const [kind, rest] = split(passed.topic);
  const [word, colour] = KINDS[kind] ?? [kind, "grey"];
  const details = h(
    "details",
    { ontoggle: () => details.open && unfold(details, passed) },
    h(
      "summary",
      {},
      h("time", {}, timeOfDay(passed.at)),
      h("span", { class: `kind ${colour}` }, word),
      h("span", { class: `line ${colour}` }, summary(kind, rest, passed.payload)),
      passed.retained && h("span", { class: "retained" }, "retained"),
    ),
  );
  return h("li", {}, details);
}

function unfold(details, { topic, payload }) {
  if (details.children.length === 1) {
    details.append(
      h("p", { class: "topic" }, h("code", {}, `${session.prefix}/${topic}`)),
      h("pre", { tabindex: "0", "aria-label": "Payload" }, typeof payload === "string" ? payload : JSON.stringify(payload, null, 2)),
    );
  }
}

function split(topic) {
  const cut = topic.indexOf("/");
  return cut < 0 ? [topic, ""] : [topic.slice(0, cut), topic.slice(cut + 1)];
}

function summary(kind, rest, payload) {
  if (payload === null || typeof payload !== "object") {
    return String(payload ?? "") || "(empty)";
  }
  switch (kind) {
    case "entitlements": {
      const limit = payload.messages_limit === null ? "unlimited" : payload.messages_limit;
      return `${nameOf(payload.user_id)}: ${payload.plan_type}, ${payload.status}, ${payload.messages_used} of ${limit} used (version ${payload.version})`;
    }
    case "events":
      return [`${rest}: ${nameOf(payload.subject)}`, ...facts(payload.data ?? {})].join(", ");
    case "usage": {
      const events = Array.isArray(payload.events) ? payload.events : [];
      const users = [...new Set(events.map((event) => nameOf(event.user_id)))];
      return `${rest} reports ${count(events.length, "message")} of ${users.join(", ")}`;
    }
    case "usage-acks":
      return `to ${rest}: ${payload.accepted} counted, ${count(payload.duplicates, "duplicate")}, ${payload.rejected?.length ?? 0} rejected`;
    case "status":
      return `the daemon is ${payload.state}`;
    case "watermark":
      return `everything up to change ${payload.sequence} is published`;
    default:
      return JSON.stringify(payload).slice(0, 200);
  }
}

function facts(data) {
  return [
    data.plan_type,
    data.amount && `${data.amount} ${data.currency ?? ""}`.trim(),
    data.kind,
    data.messages_used !== undefined && `${data.messages_used} of ${data.messages_limit ?? "unlimited"} used`,
    data.valid_until && `until ${moment(data.valid_until)}`,
  ].filter(Boolean);
}
