// Messages to the mesh, by the demo's gateway: its gate decides, from memory.

import { call, Refused, sentence } from "./calls.js";
import { $, enable, h, isEnabled, say } from "./dom.js";
import { isCurrent, on, session } from "./session.js";
import { count, REASONS, timeOfDay } from "./words.js";

const card = $("#sending");
const form = $("form", card);
const verdict = $(".verdict", card);
const attempts = $(".attempts", card);
const SHOWN = 30;
const BURST = 10;

export function start() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(1);
  });
  $("#send-ten").addEventListener("click", () => send(BURST));
  on("user", () => {
    attempts.replaceChildren();
    say(verdict, "");
    verdict.className = "verdict";
  });
  on("nodes", (nodes) => {
    $("#known-nodes").replaceChildren(...nodes.map((node) => h("option", { value: node.node_id }, node.label ?? "")));
  });
}

async function send(number) {
  const buttons = [$("#send"), $("#send-ten")];
  if (!buttons.every(isEnabled)) {
    return;
  }
  buttons.forEach((button) => enable(button, false));
  const user = session.user;
  const body = { user_id: user.user_id, node_id: form.node_id.value.trim(), text: form.text.value };
  const answers = [];
  try {
    for (let done = 0; done < number && isCurrent(user); done += 1) {
      answers.push(await pass(body));
      if (isCurrent(user)) {
        note(body, answers.at(-1));
      }
    }
    if (isCurrent(user)) {
      conclude(answers);
    }
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    rule(`✕ ${sentence(error.message)}`, "bad");
  } finally {
    buttons.forEach((button) => enable(button, true));
  }
}

/** What the gate says; a refusal by the gate is an answer, anything else is thrown. */
async function pass(body) {
  try {
    return await call("POST", "/gateway/send", body);
  } catch (error) {
    if (error instanceof Refused && error.body?.allowed === false) {
      return error.body;
    }
    throw error;
  }
}

function conclude(answers) {
  const last = answers.at(-1);
  const passed = answers.filter((answer) => answer.allowed).length;
  const rest = last.remaining === null ? "unlimited" : `${last.remaining} left`;
  const refused = answers.find((answer) => !answer.allowed);
  const why = refused ? (REASONS[refused.reason] ?? refused.detail) : "";
  if (answers.length === 1) {
    rule(refused ? `✕ Refused: ${why}` : `✓ Passed, ${rest}`, refused ? "bad" : "good");
  } else if (refused) {
    rule(passed ? `▲ ${passed} of ${answers.length} passed, then refused: ${why}` : `✕ All refused: ${why}`, passed ? "warn" : "bad");
  } else {
    rule(`✓ ${count(passed, "message")} passed, ${rest}`, "good");
  }
}

function rule(text, tone) {
  verdict.className = `verdict ${tone}`;
  say(verdict, text);
}

function note(body, answer) {
  const rest = answer.remaining === null ? "unlimited" : `${answer.remaining} left`;
  attempts.prepend(
    h(
      "li",
      { class: answer.allowed ? "passed" : "refused" },
      h("span", { class: "mark" }, answer.allowed ? "✓ passed" : "✕ refused"),
      h("code", {}, body.node_id),
      h("span", { class: "words", title: answer.reason }, answer.allowed ? body.text : (REASONS[answer.reason] ?? answer.reason)),
      answer.allowed && h("span", { class: "rest" }, rest),
      h("time", {}, timeOfDay(new Date())),
    ),
  );
  while (attempts.children.length > SHOWN) {
    attempts.lastElementChild.remove();
  }
}
