// The user the page acts for, what is known about them, and the listeners for changes.

export const session = { user: null, users: [], rights: null, prefix: "", btcpay: "" };

const changes = new EventTarget();

/** Subjects: "user", "rights", "nodes", "paid", "buy", "passed". */
export function on(subject, listener) {
  changes.addEventListener(subject, (event) => listener(event.detail));
}

export function tell(subject, detail) {
  changes.dispatchEvent(new CustomEvent(subject, { detail }));
}

/** The name of a user of the demo, or the beginning of another's id. */
export function nameOf(userId) {
  const known = session.users.find((user) => user.user_id === userId);
  return known ? known.name : String(userId).slice(0, 8);
}

/** Whether an answer still matters: the user may have been changed while it was on its way. */
export const isCurrent = (user) => session.user === user;
