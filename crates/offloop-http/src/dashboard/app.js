// Finds the page for the address behind `#`, and keeps the menu.

import { api, listen, onUnauthorized } from "/assets/api.js";
import { el, fill } from "/assets/dom.js";
import { overview } from "/assets/overview.js";
import { jobs } from "/assets/jobs.js";
import { job } from "/assets/job.js";
import { pulsePage, strip } from "/assets/pulse.js";
import { usage } from "/assets/usage.js";
import { signIn } from "/assets/signin.js";

const main = document.getElementById("main");
const menu = document.getElementById("menu");
const live = document.getElementById("live");
const pulse = document.getElementById("pulse");
let leave = null;
let packs = [];
let needed = false;
let stopStrip = null;

const WORDS = {
  live: "live",
  polling: "not live: asking every 5 s",
  closing: "the server is shutting down",
  off: "",
};

function drawMenu(path) {
  const link = (href, title) => el("a", {
    href, "aria-current": href === `#${path}` || (href !== "#/" && `#${path}`.startsWith(href)) ? "page" : null,
  }, title);
  fill(menu, link("#/", "Overview"), link("#/jobs", "Jobs"), link("#/pulse", "Pulse"), link("#/usage", "Usage"),
    packs.map((pack) => link(`#/packs/${pack.name}`, pack.title)),
    needed && el("button", { type: "button", class: "quiet", onclick: signOut }, "Sign out"));
}

async function signOut() {
  await api.delete("/session");
  location.reload();
}

async function packPage(root, name) {
  const pack = packs.find((pack) => pack.name === name);
  if (!pack) throw new Error(`No pack is called "${name}".`);
  const module = await import(`/packs/${encodeURIComponent(pack.name)}.js`);
  return module.render(root, api);
}

async function show() {
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  const parameters = new URLSearchParams(query ?? "");
  if (typeof leave === "function") leave();
  leave = null;
  drawMenu(path);
  const root = el("div", { class: "page" });
  fill(main, root);
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const shown = root;
  try {
    let cleanup;
    if (parts.length === 0) cleanup = await overview(root);
    else if (parts[0] === "jobs" && parts.length === 1) cleanup = await jobs(root, parameters);
    else if (parts[0] === "jobs") cleanup = await job(root, parts[1]);
    else if (parts[0] === "pulse") cleanup = await pulsePage(root);
    else if (parts[0] === "usage") cleanup = await usage(root, parameters);
    else if (parts[0] === "packs") cleanup = await packPage(root, parts[1]);
    else throw new Error("There is no such page.");
    // Another page may have been opened while this one was loading.
    if (main.firstChild === shown) leave = cleanup;
    else if (typeof cleanup === "function") cleanup();
  } catch (error) {
    if (main.firstChild === shown) api.show(root, error);
  }
}

async function start() {
  onUnauthorized(() => signIn(main, start));
  const session = await api.get("/session");
  needed = session.needed;
  if (needed && !session.signed_in) return signIn(main, start);
  packs = (await api.get("/packs.json")).packs;
  listen((state) => {
    live.className = state;
    live.textContent = WORDS[state];
  });
  stopStrip?.();
  stopStrip = strip(pulse);
  await show();
}

window.addEventListener("hashchange", () => { show(); main.focus({ preventScroll: true }); });
start().catch((error) => api.show(main, error));
