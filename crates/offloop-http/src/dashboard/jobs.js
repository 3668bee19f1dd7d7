// A list with filters. The address holds them, so that a view can be sent to somebody.

import { api, refresh } from "/assets/api.js";
import { badge, el, fill, format, table } from "/assets/dom.js";

const STATES = ["waiting", "scheduled", "ready", "running", "completed", "failed", "cancelled", "expired"];
const CLASSES = ["error", "timeout", "cpu_limit", "memory_limit", "stalled", "crashed", "lost", "invalid", "cancelled",
  "output_limit", "file_limit", "process_limit"];
const NAMES = ["state", "task", "queue", "tag", "class"];
/** A page may be short, even empty, and still have a next one. */
const EMPTY_PAGES_MAX = 8;

export async function jobs(root, parameters) {
  const filter = Object.fromEntries(NAMES.map((name) => [name, parameters.get(name) ?? ""]));
  const cursor = parameters.get("cursor");
  const list = el("section", { "aria-label": "Jobs" });
  const tasks = await api.get("/v1/tasks");
  fill(root, el("h1", {}, "Jobs"), form(filter, tasks.tasks.map((task) => task.name)), list);
  const draw = async () => {
    try {
      let page = await load(filter, cursor);
      for (let tries = 1; page.jobs.length === 0 && page.next_cursor && tries < EMPTY_PAGES_MAX; tries += 1) {
        page = await load(filter, page.next_cursor);
      }
      fill(list, rows(page.jobs), pages(filter, cursor, page));
    } catch (error) {
      api.show(list, error);
    }
  };
  return refresh(draw);
}

function load(filter, cursor) {
  const query = new URLSearchParams({ limit: "50" });
  for (const [name, value] of Object.entries(filter)) if (value) query.set(name, value);
  if (cursor) query.set("cursor", cursor);
  return api.get(`/v1/jobs?${query}`);
}

function go(filter, cursor) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filter)) if (value) query.set(name, value);
  if (cursor) query.set("cursor", cursor);
  return `#/jobs?${query}`;
}

function form(filter, tasks) {
  const select = (name, values) => el("label", {}, name,
    el("select", { name, id: `f-${name}` }, el("option", { value: "" }, "any"),
      values.map((value) => el("option", { value, selected: filter[name] === value }, value))));
  const text = (name) => el("label", {}, name,
    el("input", { name, id: `f-${name}`, value: filter[name], maxlength: "128", placeholder: "any", spellcheck: "false" }));
  const all = tasks.includes(filter.task) || !filter.task ? tasks : [...tasks, filter.task];
  const node = el("form", { class: "filters", role: "search" },
    select("state", STATES), select("task", all), text("queue"), text("tag"), select("class", CLASSES),
    el("button", { type: "submit" }, "Show"));
  const apply = (event) => {
    event.preventDefault();
    const chosen = Object.fromEntries(NAMES.map((name) => [name, node.elements[name].value.trim()]));
    location.hash = go(chosen);
  };
  node.addEventListener("submit", apply);
  node.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") apply(event); });
  return node;
}

const rows = (jobs) => table([
  { title: "job", wide: true, cell: (job) => [
    el("a", { href: `#/jobs/${job.id}` }, el("strong", {}, job.task), " ",
      el("code", { class: "id", title: job.id }, job.id.slice(0, 8), "…", job.id.slice(-6))),
    job.tags.map((tag) => [" ", el("span", { class: "tag" }, tag)]),
    job.failure && el("span", { class: "message" }, `${job.failure.class}: ${job.failure.message ?? ""}`)] },
  { title: "state", cell: (job) => [badge(job.state), job.cancelling && " stopping"] },
  { title: "queue", cell: (job) => job.queue },
  { title: "attempt", number: true, cell: (job) => `${job.attempt} of ${job.max_attempts}` },
  { title: "created", number: true, cell: (job) => format.time(job.created_at) },
  { title: "took", number: true, cell: (job) => took(job) },
], jobs, { empty: "No job fits." });

function took(job) {
  if (job.state === "scheduled") return ["due ", format.time(job.due_at)];
  if (!job.started_at) return "–";
  const end = job.finished_at ? Date.parse(job.finished_at) : Date.now();
  return format.ms(Math.max(0, end - Date.parse(job.started_at)));
}

const pages = (filter, cursor, page) => el("nav", { class: "pages", "aria-label": "Pages of the list" },
  cursor && el("a", { class: "button", href: go(filter) }, "Newest"),
  page.next_cursor && el("a", { class: "button", href: go(filter, page.next_cursor) }, "Older"));
