// The simulator's faults as switches. A fault never reaches the calls that take it back.

import { attempt, simulate } from "./calls.js";
import { $, h, say } from "./dom.js";

const card = $("#faults");
const problem = $(".problem", card);
const SWITCHES = [
  { name: "down", label: "BTCPay is down", hint: "No new invoices. Users who have a plan notice nothing.", on: { down: true }, off: { down: false }, is: (f) => f.down },
  { name: "drop", label: "Webhooks are lost", hint: "The daemon asks BTCPay and finds the payment within 15 seconds.", on: { webhooks: { drop: 1 } }, off: { webhooks: { drop: 0 } }, is: (f) => f.webhooks.drop > 0 },
  { name: "duplicate", label: "Webhooks come twice", hint: "The second one changes nothing.", on: { webhooks: { duplicate: true } }, off: { webhooks: { duplicate: false } }, is: (f) => f.webhooks.duplicate },
  { name: "reorder", label: "Webhooks come out of order", hint: "Any order ends in the same state.", on: { webhooks: { reorder: true } }, off: { webhooks: { reorder: false } }, is: (f) => f.webhooks.reorder },
  { name: "delay", label: "Webhooks are late", hint: "Each one by five seconds.", on: { webhooks: { delay_ms: 5000 } }, off: { webhooks: { delay_ms: 0 } }, is: (f) => f.webhooks.delay_ms > 0 },
  { name: "slow", label: "BTCPay is slow", hint: "Two seconds for each answer.", on: { slow_ms: 2000 }, off: { slow_ms: 0 }, is: (f) => f.slow_ms > 0 },
  { name: "errors", label: "BTCPay fails half the time", hint: "Answers 500 to every other call.", on: { error_rate: 0.5 }, off: { error_rate: 0 }, is: (f) => f.error_rate > 0 },
];

export async function start() {
  $(".switches", card).append(...SWITCHES.map(row));
  $("#reset").addEventListener("click", () => {
    const webhooks = Object.assign({}, ...SWITCHES.map((one) => one.off.webhooks ?? {}));
    change({ ...Object.assign({}, ...SWITCHES.map((one) => one.off)), webhooks });
  });
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  await refresh();
}

function row(one) {
  const id = `fault-${one.name}`;
  return h(
    "li",
    {},
    h("label", { for: id }, one.label),
    h("input", { type: "checkbox", role: "switch", id, "aria-describedby": `${id}-hint`, onchange: (event) => change(event.target.checked ? one.on : one.off) }),
    h("p", { class: "hint", id: `${id}-hint` }, one.hint),
  );
}

async function refresh() {
  show(await simulate("GET", "faults").catch(() => null));
}

async function change(changes) {
  const faults = await attempt(problem, () => simulate("POST", "faults", changes));
  if (faults) {
    show(faults);
  } else {
    await refresh();
  }
}

function show(faults) {
  if (!faults) {
    return;
  }
  const on = SWITCHES.filter((one) => one.is(faults));
  for (const one of SWITCHES) {
    $(`#fault-${one.name}`).checked = on.includes(one);
  }
  say($("#outage"), on.length ? `▲ Broken on purpose: ${on.map((one) => one.label).join(", ")}.` : "");
}
