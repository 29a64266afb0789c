// The user's whitelist, which plans with that scope heed.

import { api, attempt } from "./calls.js";
import { $, h, say } from "./dom.js";
import { isCurrent, on, session, tell } from "./session.js";

const card = $("#nodes");
const form = $("form", card);
const problem = $(".problem", card);

export function start() {
  on("user", (user) => {
    problem.textContent = "";
    form.reset();
    show(user);
  });
  on("rights", hint);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const user = session.user;
    const id = encodeURIComponent(form.node_id.value.trim() || " ");
    const label = form.label.value.trim();
    const added = await attempt(problem, () => api(user, "PUT", `nodes/${id}`, label ? { label } : {}));
    if (added && isCurrent(user)) {
      form.reset();
      form.node_id.focus();
      show(user);
    }
  });
}

function hint(rights) {
  const heeded = rights.scope === "whitelist";
  card.classList.toggle("heeded", heeded);
  say(
    $("#nodes-hint"),
    heeded ? `The ${rights.plan_type} plan writes to these nodes only.` : "Only used by Guardian. You may fill it in advance.",
  );
}

async function show(user) {
  const list = await attempt(problem, () => api(user, "GET", "nodes"));
  if (!list || !isCurrent(user)) {
    return;
  }
  tell("nodes", list.items);
  const items = list.items.map((node) =>
    h(
      "li",
      {},
      h("code", {}, node.node_id),
      h("span", { class: "words" }, node.label ?? ""),
      h("button", { type: "button", class: "quiet small", "aria-label": `Remove ${node.node_id}`, onclick: () => remove(user, node.node_id) }, "Remove"),
    ),
  );
  $(".listed", card).replaceChildren(...(items.length ? items : [h("li", { class: "nothing" }, "No node is listed.")]));
}

async function remove(user, id) {
  await attempt(problem, () => api(user, "DELETE", `nodes/${encodeURIComponent(id)}`));
  if (isCurrent(user)) {
    await show(user);
    form.node_id.focus();
  }
}
