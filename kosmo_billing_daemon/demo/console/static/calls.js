// Calls to the daemon, the gateway and the simulator, all by way of the console's own server.

/** What was asked for was not done; `message` says why, `body` is the answer. */
export class Refused extends Error {
  constructor(status, body) {
    super(explain(status, body));
    this.status = status;
    this.body = body;
  }
}

function explain(status, body) {
  const first = Array.isArray(body) ? body[0] : body;
  return first?.errors?.[0]?.message ?? first?.detail ?? first?.message ?? `the answer was ${status}`;
}

export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused(0, { detail: "the demo does not answer; was it ended?" });
  }
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    answer = { detail: text.slice(0, 200) };
  }
  if (!response.ok) {
    throw new Refused(response.status, answer);
  }
  return answer;
}

export const api = (user, method, path, body, headers) =>
  call(method, `/api/${user.user_id}/${path}`, body, headers);

export const simulate = (method, path, body) => call(method, `/btcpay/simulate/${path}`, body);

/** Do something and show in `problem` why it failed, if it did; resolves to undefined then. */
export async function attempt(problem, work) {
  problem.textContent = "";
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    problem.textContent = sentence(error.message);
    return undefined;
  }
}

export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/**
 * Server-Sent Events that come back also after an answer that ends them for the browser. They rest while the
 * page is hidden: a browser opens six connections to one server, all its tabs together.
 */
export class Stream {
  constructor(address, listeners, onState) {
    this.closed = false;
    this.turn = () => {
      this.rest();
      if (!document.hidden) {
        this.open(address, listeners, onState);
      }
    };
    document.addEventListener("visibilitychange", this.turn);
    this.turn();
  }

  open(address, listeners, onState) {
    this.source = new EventSource(address);
    this.source.onopen = () => onState(true);
    this.source.onerror = () => {
      onState(false);
      if (this.source.readyState === EventSource.CLOSED && !this.closed) {
        this.timer = setTimeout(() => this.open(address, listeners, onState), 2000);
      }
    };
    for (const [name, listener] of Object.entries(listeners)) {
      this.source.addEventListener(name, (event) => listener(JSON.parse(event.data)));
    }
  }

  rest() {
    clearTimeout(this.timer);
    this.source?.close();
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.turn);
    this.rest();
  }
}
