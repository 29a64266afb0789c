// A phone on the mesh: the short texts that a hook sends through a bot, and their links.

import { call } from "./calls.js";
import { $, h, say } from "./dom.js";
import { isCurrent, nameOf, on, session } from "./session.js";
import { timeOfDay } from "./words.js";

const TRIES = 20; // the hook sends when MQTT does; the text may come a moment later
const card = $("#phone");
const list = $("ol", card);
const button = $("#pass-time");
let shown = 0;

export function start() {
  on("user", (user) => show(user));
  on("passed", ({ topic, payload }) => {
    if (/^events\/(subscription\.(expiring|renewing|expired)|quota\.exhausted)$/.test(topic) && nameOf(payload?.subject) === session.user?.name) {
      show(session.user, TRIES);
    }
  });
  button.addEventListener("click", passTime);
}

async function passTime() {
  const { user } = session;
  button.disabled = true;
  say($(".problem", card), "");
  try {
    await call("POST", `/phone/${user.user_id}/time`);
  } catch (error) {
    say($(".problem", card), `✕ ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

async function show(user, tries = 0) {
  const { texts } = await call("GET", `/phone/${user.user_id}`);
  if (!isCurrent(user)) {
    return;
  }
  if (tries && texts.length === shown) {
    setTimeout(() => isCurrent(user) && show(user, tries - 1), 250);
    return;
  }
  shown = texts.length;
  $(".empty", card).hidden = texts.length > 0;
  list.replaceChildren(...texts.toReversed().map(bubble));
}

function bubble({ at, text }) {
  const [before, link] = text.split(/(https?:\/\/\S+)$/);
  return h("li", {}, h("p", {}, before, link && h("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, link, h("span", { class: "sr" }, " (new tab)"))), h("time", {}, timeOfDay(at)));
}
