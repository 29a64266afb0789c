// Building the page. The rule it keeps: what others wrote becomes text nodes, never markup.

export const $ = (selector, within = document) => within.querySelector(selector);

/** An element; `on…` attributes are listeners, `true` is an empty attribute, `null` and `false` are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== null && value !== false && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Change a text only where it differs, so that screen readers are not told the same again. */
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** A badge: its word says what its colour says. */
export function badge(element, word, tone) {
  say(element, word);
  element.className = `badge ${tone}`;
}

/** Tell screen readers what changed elsewhere on the page. */
export function announce(text) {
  say($("#announcer"), text);
}

/** Buttons stay focusable while they cannot be used. */
export function enable(button, possible) {
  button.setAttribute("aria-disabled", String(!possible));
}

export const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";
