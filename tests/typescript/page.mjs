// A page that logs in as each of the given users, the next one when the one before is refused.
// Writes a line for each change of what it shows.
import { render } from "react";
import { useEntitlement } from "./useEntitlement.js";

const [origin, ...users] = process.argv.slice(2);
const fetched = globalThis.fetch;
globalThis.fetch = (path, options) => fetched(origin + path, options); // a browser knows its origin

let before = "", user = users.shift();
const page = () => useEntitlement({ Authorization: `Bearer ${user}` });
const show = (live) => {
  const line = JSON.stringify([user, live.entitlement?.version ?? null, live.refused]);
  if (line === before) return;
  before = line;
  console.log(line);
  if (live.refused !== null && users.length) {
    user = users.shift();
    queueMicrotask(() => render(page, show));
  }
};
render(page, show);
