"use strict";

// Keeps the checkout page in step with its invoice and sends the action of the button that was pressed.
const page = document.getElementById("checkout");
const address = `/simulate/invoices/${encodeURIComponent(page.dataset.invoice)}`;
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const words = JSON.parse(page.dataset.words);
const back = document.getElementById("back");

function show(invoice) {
  const told = [invoice.status, invoice.additionalStatus].filter((word) => word !== "None");
  const text = told.map((word) => words[word] ?? word).join(", ");
  if (status.textContent !== text) {
    status.textContent = text;
    status.className = `badge ${invoice.status.toLowerCase()}`;
  }
  document.getElementById("paid").textContent = invoice.paidAmount;
  for (const button of document.querySelectorAll("button[data-action]")) {
    button.disabled = !invoice.possibleActions.includes(button.dataset.action);
  }
  if (back) {
    const settledJustNow = back.hidden && invoice.status === "Settled";
    back.hidden = invoice.status !== "Settled";
    if (settledJustNow && back.dataset.automatic) {
      location.assign(back.querySelector("a").href);
    }
  }
}

async function ask(options) {
  if (options) {
    problem.textContent = "";
  }
  try {
    const response = await fetch(address, options);
    const answer = await response.json();
    if (response.ok) {
      show(answer);
    } else {
      problem.textContent = Array.isArray(answer) ? answer[0].message : answer.message;
    }
  } catch {
    status.textContent = "The server does not answer";
    status.className = "badge";
  }
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) {
    ask({
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ action: button.dataset.action, method: button.dataset.method }),
    });
  }
});

setInterval(() => {
  if (!document.hidden) {
    ask();
  }
}, 1000);
