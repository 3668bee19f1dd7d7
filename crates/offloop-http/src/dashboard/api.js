// Talks to the server. Every answer that is not 2xx is thrown as its problem.

import { el, fill, table, badge, bar, sure, format } from "/assets/dom.js";

export class Problem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "the server did not answer");
    this.problem = problem;
  }
}

let askForToken = () => {};
/** Called when the server wants a token. */
export const onUnauthorized = (act) => { askForToken = act; };

async function send(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Problem({ title: "The server cannot be reached", status: 0 });
  }
  const type = response.headers.get("content-type") ?? "";
  const answer = response.status === 204 ? null
    : type.includes("json") ? await response.json() : await response.text();
  if (response.ok) return answer;
  if (response.status === 401 && path !== "/session") askForToken();
  throw new Problem(type.includes("json") ? answer : { title: response.statusText, status: response.status });
}

// One stream tells that something changed; pages ask for what they show. Without the stream, a
// timer does.
const listeners = new Set();
const QUIET_MS = 5000;
let stream = null;
let last = 0;
let state = "off";
let showState = () => {};

function changed() {
  last = Date.now();
  for (const listener of listeners) listener();
}

function setState(next) {
  state = next;
  showState(next);
}

export function listen(show) {
  showState = show;
  if (stream) stream.close();
  stream = new EventSource("/v1/events?digest_ms=500");
  stream.addEventListener("hello", () => { setState("live"); changed(); });
  stream.addEventListener("digest", changed);
  stream.addEventListener("shutdown", () => setState("closing"));
  stream.onerror = () => {
    setState("polling");
    // A browser does not try again after an answer that is no stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => listen(show), QUIET_MS);
  };
}

setInterval(() => {
  if (Date.now() - last >= QUIET_MS && document.visibilityState === "visible") changed();
}, 1000);

/** Calls `act` now, whenever something may have changed, and every few seconds; one at a time. */
export function refresh(act) {
  let running = false;
  let again = false;
  const run = async () => {
    if (running) { again = true; return; }
    running = true;
    try { await act(); } finally {
      running = false;
      if (again) { again = false; setTimeout(run, 250); }
    }
  };
  listeners.add(run);
  run();
  return () => listeners.delete(run);
}

/** What pages of packs get as the second argument of `render(root, api)`. */
export const api = {
  get: (path) => send("GET", path),
  post: (path, body) => send("POST", path, body),
  put: (path, body) => send("PUT", path, body),
  delete: (path) => send("DELETE", path),
  refresh,
  el, fill, table, badge, bar, sure, format,
  /** Shows a problem in `node`. */
  show(node, error) {
    fill(node, el("p", { class: "problem", role: "alert" }, error.message ?? String(error)));
  },
};
