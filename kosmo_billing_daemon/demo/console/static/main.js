// The demo's console. Each card is a module of its own; they meet in session.js alone.

import { call } from "./calls.js";
import * as checkout from "./checkout.js";
import { $, h } from "./dom.js";
import * as faults from "./faults.js";
import * as money from "./money.js";
import * as nodes from "./nodes.js";
import * as phone from "./phone.js";
import * as plans from "./plans.js";
import * as race from "./race.js";
import * as rights from "./rights.js";
import * as sending from "./sending.js";
import { session, tell } from "./session.js";
import * as stream from "./stream.js";
import * as usage from "./usage.js";

const choices = $("#people .choices");

function choose(user) {
  if (session.user === user) {
    return;
  }
  session.user = user;
  for (const who of document.querySelectorAll(".who")) {
    who.textContent = user.name;
  }
  for (const radio of choices.querySelectorAll("input")) {
    radio.checked = radio.value === user.name;
  }
  history.replaceState(null, "", `#${user.name}`);
  tell("user", user);
}

const named = () => session.users.find((user) => `#${user.name}` === location.hash);

async function begin() {
  Object.assign(session, await call("GET", "/setup.json"));
  $("#prefix").textContent = session.prefix;
  $("#docs").href = session.docs;
  $("#btcpay").href = session.btcpay;
  choices.append(
    ...session.users.map((user) =>
      h("label", {}, h("input", { type: "radio", name: "user", value: user.name, onchange: () => choose(user) }), h("span", {}, user.name)),
    ),
  );
  for (const card of [checkout, rights, sending, race, nodes, usage, money, phone, stream]) {
    card.start();
  }
  const shown = Promise.all([plans.start(), faults.start()]);
  choose(named() ?? session.users[0]);
  addEventListener("hashchange", () => choose(named() ?? session.user));
  await shown;
  document.body.dataset.ready = "true";
}

begin().catch((error) => {
  $("#outage").textContent = `✕ The page could not be started: ${error.message}`;
});
