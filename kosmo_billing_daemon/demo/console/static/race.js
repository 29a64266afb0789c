// Two gateways race for the last messages: strict ones never sell more than there are, also cut off.

import { call, Refused, sentence } from "./calls.js";
import { $, enable, isEnabled, say } from "./dom.js";
import { isCurrent, on, session } from "./session.js";

const card = $("#race");
const button = $("button", card);
const verdict = $("[role=status]", card);

export function start() {
  button.addEventListener("click", race);
  on("user", () => say(verdict, ""));
}

async function race() {
  if (!isEnabled(button)) {
    return;
  }
  enable(button, false);
  const user = session.user;
  const choice = (name) => $(`[name=${name}]`, card).checked;
  const body = {
    user_id: user.user_id,
    node_id: $("#sending form").node_id.value.trim(),
    strict: choice("strict"),
    cut_off: choice("cut_off"),
  };
  say(verdict, "They race …");
  let told;
  try {
    const { left, passed, oversold } = await call("POST", "/gateway/race", body);
    told = `${left} were left, ${passed.join(" and ")} passed: ${oversold} oversold`;
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    told = sentence(error.message);
  } finally {
    enable(button, true);
  }
  if (isCurrent(user)) {
    say(verdict, told);
  }
}
