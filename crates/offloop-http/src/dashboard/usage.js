// What attempts cost, summed: who uses the processors, the memory, and who fails.

import { api, refresh } from "/assets/api.js";
import { badge, bar, el, fill, format, table } from "/assets/dom.js";

const BY = ["task", "queue", "tag"];
const SINCE = [["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"], ["31d", "31 days"]];

const PAUSE_MS = 4000;

export async function usage(root, parameters) {
  const by = BY.includes(parameters.get("by")) ? parameters.get("by") : "task";
  const since = parameters.get("since") ?? "24h";
  const sums = el("section", { "aria-label": "Sums" });
  fill(root, el("h1", {}, "Usage"), choice(by, since), sums);
  let drawn = 0;
  return refresh(async () => {
    // Sums over many hours are not asked for with every job that ends.
    if (Date.now() - drawn < PAUSE_MS) return;
    drawn = Date.now();
    try {
      draw(sums, await api.get(`/v1/usage?${new URLSearchParams({ by, since, limit: "200" })}`));
    } catch (error) {
      api.show(sums, error);
    }
  });
}

function choice(by, since) {
  const known = SINCE.some(([value]) => value === since) ? SINCE : [...SINCE, [since, since]];
  const node = el("form", { class: "filters" },
    el("label", {}, "by", el("select", { name: "by", id: "f-by" },
      BY.map((value) => el("option", { value, selected: by === value }, value)))),
    el("label", {}, "since", el("select", { name: "since", id: "f-since" },
      known.map(([value, title]) => el("option", { value, selected: since === value }, title)))));
  node.addEventListener("submit", (event) => event.preventDefault());
  node.addEventListener("change", () => {
    location.hash = `#/usage?${new URLSearchParams({ by: node.elements.by.value, since: node.elements.since.value })}`;
  });
  return node;
}

function draw(node, sums) {
  const jobs = (row, filter) => `#/jobs?${new URLSearchParams({ [sums.by]: row.name, ...filter })}`;
  const name = (row) => row.name === null
    ? el("span", { title: "Names that came after the first 256 of their hour" }, "(others)")
    : el("a", { href: jobs(row, {}) }, row.name);
  const failed = (row) => {
    const classes = Object.entries(row.failed).sort((a, b) => b[1] - a[1]);
    if (classes.length === 0) return el("span", { class: "zero" }, "0");
    return classes.map(([kind, count]) => el("span", { class: "end" },
      row.name === null ? badge(kind) : el("a", { href: jobs(row, { class: kind }) }, badge(kind)),
      ` ${format.number(count)}`));
  };
  const most = Math.max(1, ...sums.rows.map((row) => row.wall_ms));
  fill(node,
    el("p", { class: "hint" }, "Attempts that ended since ", el("time", { datetime: sums.since }, new Date(sums.since).toLocaleString()),
      ", the most wall time first. Sums are kept by the hour for 31 days; they outlive their jobs."),
    table([
      { title: sums.by, wide: true, cell: name },
      { title: "attempts", number: true, cell: (row) => format.number(row.attempts) },
      { title: "completed", number: true, cell: (row) => format.number(row.completed) },
      { title: "failed", cell: failed },
      { title: "wall", number: true, cell: (row) => [format.ms(row.wall_ms), bar(row.wall_ms, most)] },
      { title: "cpu", number: true, cell: (row) => format.ms(row.cpu_ms) },
      { title: "waited", number: true, cell: (row) => format.ms(row.wait_ms) },
      { title: "peak memory", number: true, cell: (row) => format.bytes(row.max_rss_bytes) },
      { title: "in", number: true, cell: (row) => format.bytes(row.bytes_in) },
      { title: "out", number: true, cell: (row) => format.bytes(row.bytes_out) },
    ], sums.rows, { empty: sums.by === "tag" ? "No attempt of a job with a tag has ended." : "No attempt has ended." }),
    sums.truncated && el("p", { class: "hint" }, "There are more rows; GET /v1/usage takes a limit of up to 1,000."));
}
