// Keyboard for lists, search and actions. Every page works without it.

const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility());

function move(step) {
  const all = rows();
  if (!all.length) { return; }
  const focused = all.findIndex((row) => row.contains(document.activeElement));
  const at = focused < 0 ? all.findIndex((row) => row.querySelector("[aria-current]")) : focused;
  const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1)];
  const link = next.querySelector("a, button");
  if (link) {
    link.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

let leaving = false;

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.ctrlKey || event.metaKey || event.altKey) { return; }
  const keyed = !typing && document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (event.key === "Escape" && typing) {
    event.target.blur();
  } else if (!typing && event.key === "/") {
    const search = document.getElementById("q");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  } else if (keyed) {
    event.preventDefault();
    if (!event.repeat && !leaving) {
      // What is typed before the next page is there is meant for that one.
      leaving = keyed.matches("a[href], [type=submit]");
      setTimeout(() => { leaving = false; }, 3000);
      keyed.click();
    }
  } else if (!typing && (event.key === "j" || event.key === "k")) {
    event.preventDefault();
    move(event.key === "j" ? 1 : -1);
  }
});

// A second click on a button that is under way does nothing; going back makes it usable again.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") { return; }
  if (form.dataset.sent) {
    event.preventDefault();
  }
  form.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  leaving = false;
  for (const form of document.forms) { delete form.dataset.sent; }
});

// A form is filled in from its first empty or wrong field on.
const open = [...document.querySelectorAll("form.action :is(input, select, textarea):not([type=hidden])")];
(open.find((field) => field.ariaInvalid) ?? open.find((field) => field.required && !field.value))?.focus();
