// The live feed goes on by itself. Rows come escaped from the server, as those of the page do.

const head = document.querySelector("[data-feed]");
const body = document.querySelector("tbody");
const empty = document.querySelector("[data-feed-empty]");
const state = document.querySelector("[data-feed-state]");
const button = document.querySelector("[data-feed-pause]");
const MOST = 200;
let waiting = [];
let paused = false;
let ended = false;

function say() {
  state.textContent = ended ? "The session has ended" : paused ? `Paused, ${waiting.length} new` : "Live";
}

function put(rows) {
  for (const [key, html] of rows) {
    if (body.querySelector(`[data-item="${CSS.escape(key)}"]`)) { continue; }
    body.insertAdjacentHTML("afterbegin", html);
  }
  while (body.rows.length > MOST) { body.deleteRow(-1); }
  empty.hidden = body.rows.length > 0;
}

if (head?.dataset.feed) {
  const source = new EventSource(head.dataset.feed);
  source.addEventListener("open", say);
  source.addEventListener("message", (event) => {
    const { rows } = JSON.parse(event.data);
    if (paused) {
      const known = new Set(waiting.map(([key]) => key));
      waiting.push(...rows.filter(([key]) => !known.has(key) && !body.querySelector(`[data-item="${CSS.escape(key)}"]`)));
      waiting = waiting.slice(-MOST);
    } else {
      put(rows);
    }
    say();
  });
  source.addEventListener("away", () => { state.textContent = "The database cannot be reached; waiting"; });
  source.addEventListener("end", () => {
    ended = true;
    source.close();
    say();
  });
  source.addEventListener("error", () => {
    if (!ended) { state.textContent = source.readyState === EventSource.CLOSED ? "Ended: reload the page" : "Connecting again"; }
  });
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    if (!paused) {
      put(waiting);
      waiting = [];
    }
    say();
  });
}
