// What is stuck, and why? Then queues, lanes, and what failed lately.

import { api, refresh } from "/assets/api.js";
import { badge, bar, el, fill, format, table } from "/assets/dom.js";

const OLD_MS = 60_000;
const LATELY_MS = 3_600_000;
const jobsOf = (filter) => `#/jobs?${new URLSearchParams(filter)}`;

export async function overview(root) {
  const attention = el("section", { "aria-labelledby": "h-attention" });
  const queues = el("section", { "aria-labelledby": "h-queues" });
  const lanes = el("section", { "aria-labelledby": "h-lanes" });
  const failed = el("section", { "aria-labelledby": "h-failed" });
  fill(root, attention, queues, lanes, failed);
  return refresh(async () => {
    try {
      const [queueList, nodeList, failedList] = await Promise.all([
        api.get("/v1/queues"), api.get("/v1/nodes"), api.get("/v1/jobs?state=failed&limit=25"),
      ]);
      drawAttention(attention, queueList.queues, nodeList.nodes, failedList.jobs);
      drawQueues(queues, queueList.queues);
      drawLanes(lanes, nodeList.nodes);
      drawFailed(failed, failedList.jobs);
    } catch (error) {
      api.show(attention, error);
    }
  });
}

/** Everything that needs a person, worst first. */
function findings(queues, nodes, failed) {
  const found = [];
  const say = (kind, text, ...more) => found.push(el("li", { class: kind }, text, ...more));
  for (const node of nodes) {
    if (node.trouble) say("bad", `${node.id} is not ready: ${node.trouble}.`);
    for (const lane of node.lanes) {
      if (lane.trouble) {
        say("bad", `Lane ${lane.name} starts no executors: ${lane.trouble} `,
          el("a", { href: jobsOf({ task: lane.tasks[0] ?? "" }) }, "See its jobs"));
      }
      if ((lane.head_age_ms ?? 0) > OLD_MS) {
        say("warn", `In lane ${lane.name} work has waited for ${format.ms(lane.head_age_ms)}: ${lane.running} of ${lane.slots.running} run, ${lane.queued} in line. `,
          el("a", { href: jobsOf({ state: "running" }) }, "See what runs"));
      }
      if (lane.stuck > 0) {
        say("bad", `${lane.stuck} executor${lane.stuck > 1 ? "s" : ""} of lane ${lane.name} ignore${lane.stuck > 1 ? "" : "s"} the wish to stop. `,
          el("a", { href: jobsOf({ state: "running" }) }, "See what runs"));
      }
    }
    if (!node.store.survives_process) {
      say("note", `The store "${node.store.engine}" keeps jobs in memory: they end with this server.`);
    } else if (!node.store.survives_power_cut) {
      say("note", `The store "${node.store.engine}" may lose the last jobs in a power cut.`);
    }
  }
  for (const queue of queues) {
    const waits = queue.counts.ready + queue.counts.scheduled + queue.counts.waiting;
    if (queue.paused) {
      say(queue.counts.ready > 0 ? "warn" : "note",
        `Queue ${queue.name} is paused; ${format.number(waits)} ${waits === 1 ? "job waits" : "jobs wait"} in it.`);
    } else if ((queue.oldest_ready_ms ?? 0) > OLD_MS) {
      const full = nodes.flatMap((node) => node.lanes).filter((lane) => lane.running >= lane.slots.running);
      const why = full.length > 0
        ? `lane ${full.map((lane) => lane.name).join(", ")} is full`
        : "no lane here takes its tasks, or a limit holds it back";
      say("warn", `In queue ${queue.name} a job has been ready for ${format.ms(queue.oldest_ready_ms)}: ${why}. `,
        el("a", { href: jobsOf({ queue: queue.name, state: "ready" }) }, "See it"));
    }
  }
  const lately = failed.filter((job) => Date.now() - Date.parse(job.finished_at ?? job.due_at) < LATELY_MS);
  if (lately.length > 0) {
    const many = lately.length === 25 ? "25 or more jobs" : `${lately.length} job${lately.length > 1 ? "s" : ""}`;
    say("warn", `${many} failed for good in the last hour. `,
      el("a", { href: jobsOf({ state: "failed" }) }, "See them"));
  }
  const rank = { bad: 0, warn: 1, note: 2 };
  return found.sort((a, b) => rank[a.className] - rank[b.className]);
}

function drawAttention(node, queues, nodes, failed) {
  const found = findings(queues, nodes, failed);
  const stuck = found.some((item) => item.className !== "note");
  fill(node,
    el("h1", { id: "h-attention" }, stuck ? "Needs attention" : "Nothing is stuck"),
    found.length > 0 && el("ul", { class: "findings" }, found));
}

function drawQueues(node, queues) {
  const count = (state) => ({
    title: state, number: true,
    cell: (queue) => {
      const value = queue.counts[state];
      return value === 0 ? el("span", { class: "zero" }, "0")
        : el("a", { href: jobsOf({ queue: queue.name, state }) }, format.number(value));
    },
  });
  const turn = (queue) => el("button", {
    type: "button", id: `turn-${queue.name}`,
    "aria-label": `${queue.mode === "open" ? "Pause" : "Resume"} queue ${queue.name}`,
    onclick: async (event) => {
      event.target.disabled = true;
      try {
        await api.post(`/v1/queues/${encodeURIComponent(queue.name)}/${queue.mode === "open" ? "pause" : "resume"}`);
      } catch (error) {
        event.target.disabled = false;
        event.target.title = error.message;
      }
    },
  }, queue.mode === "open" ? "Pause" : "Resume");
  fill(node,
    el("h2", { id: "h-queues" }, "Queues"),
    table([
      { title: "queue", wide: true, cell: (queue) => [
        el("a", { href: jobsOf({ queue: queue.name }) }, queue.name), " ",
        queue.mode !== "open" && el("span", { class: "badge paused" }, queue.mode)] },
      count("waiting"), count("scheduled"), count("ready"), count("running"),
      { title: "oldest ready", number: true, cell: (queue) =>
        el("span", { class: (queue.oldest_ready_ms ?? 0) > OLD_MS ? "late" : "" }, format.ms(queue.oldest_ready_ms)) },
      { title: "", cell: turn },
    ], queues, { empty: "No queue has jobs. POST /v1/jobs makes the first." }));
}

function drawLanes(node, nodes) {
  const rows = nodes.flatMap((node) => node.lanes);
  fill(node,
    el("h2", { id: "h-lanes" }, "Lanes"),
    table([
      { title: "lane", wide: true, cell: (lane) => [
        el("strong", {}, lane.name),
        el("span", { class: "tasks" }, lane.tasks.join(", ")),
        lane.trouble && el("span", { class: "tasks late" }, lane.trouble)] },
      { title: "running", number: true, cell: (lane) => [
        `${format.number(lane.running)} of ${format.number(lane.slots.running)}`,
        bar(lane.running, lane.slots.running, lane.running >= lane.slots.running ? "full" : "")] },
      { title: "in line", number: true, cell: (lane) => [format.number(lane.queued),
        lane.head_age_ms !== null && el("span", { class: lane.head_age_ms > OLD_MS ? "tasks late" : "tasks" }, `for ${format.ms(lane.head_age_ms)}`)] },
      { title: "stuck", number: true, cell: (lane) =>
        el("span", { class: lane.stuck > 0 ? "late" : "zero" }, format.number(lane.stuck)) },
      { title: "late", number: true, cell: (lane) =>
        el("span", { class: lane.late > 0 ? "late" : "zero", title: "Ended after their deadline" }, format.number(lane.late)) },
      { title: "executors", number: true, cell: (lane) => format.number(lane.executors) },
      { title: "exits", cell: exits },
    ], rows, { empty: "This server has no lanes: it takes jobs in and runs none." }));
}

/** Why executors left since the server started, the most frequent first. */
function exits(lane) {
  const reasons = Object.entries(lane.exits).sort((a, b) => b[1] - a[1]);
  if (reasons.length === 0) return el("span", { class: "zero" }, "–");
  return reasons.map(([reason, count]) => el("span", { class: "end" }, `${reason} ${format.number(count)}`));
}

function drawFailed(node, jobs) {
  fill(node,
    el("h2", { id: "h-failed" }, "Failed lately"),
    table([
      { title: "job", wide: true, cell: (job) => [
        el("a", { href: `#/jobs/${job.id}` }, job.task),
        el("span", { class: "message" }, job.failure?.message ?? "")] },
      { title: "why", cell: (job) => badge(job.failure?.class ?? "failed") },
      { title: "when", number: true, cell: (job) => format.time(job.finished_at) },
    ], jobs.slice(0, 10), { empty: "No job has failed for good." }));
}
