// One job's life: what was asked, every attempt with what it cost, what it wrote, how it ended.

import { api, refresh } from "/assets/api.js";
import { badge, el, fill, format, sure, table } from "/assets/dom.js";

const FINAL = ["completed", "failed", "cancelled", "expired"];

export async function job(root, id) {
  const head = el("section", {});
  const said = el("div", {});
  const life = el("section", { "aria-labelledby": "h-life" });
  const texts = el("section", {});
  const log = el("section", { "aria-labelledby": "h-log" });
  fill(root, head, said, life, log, texts);
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  let attempt = null; // whose log is shown; null: the last one
  let drawn = "";

  const draw = async () => {
    let found;
    try {
      found = await api.get(path);
    } catch (error) {
      return api.show(said, error);
    }
    fill(said);
    drawHead(head, found, path, said, draw);
    const logged = (found.attempts.find((one) => one.number === attempt) ?? found.attempts.at(-1))?.number;
    drawLife(life, found, logged, (number) => { attempt = number; drawn = ""; draw(); });
    drawTexts(texts, found);
    await drawLog(log, found);
  };

  const drawLog = async (node, found) => {
    const shown = found.attempts.find((one) => one.number === attempt) ?? found.attempts.at(-1);
    const state = shown ? `${shown.number}/${shown.log_bytes}/${shown.log_dropped_bytes}` : "none";
    if (state === drawn) return;
    drawn = state;
    const text = shown && shown.log_bytes > 0 ? await api.get(`${path}/logs?attempt=${shown.number}`) : "";
    fill(node,
      el("h2", { id: "h-log" }, shown ? `Log of attempt ${shown.number}` : "Log"),
      text ? el("pre", { tabindex: "0" }, text)
        : el("p", { class: "empty" }, shown && !shown.ended_at ? "The log is kept when the attempt ends." : "It wrote nothing."));
  };

  return refresh(draw);
}

function drawHead(node, job, path, said, again) {
  const act = (run) => async () => {
    try { await run(); } catch (error) { return api.show(said, error); }
    await again();
  };
  const final = FINAL.includes(job.state);
  const options = job.options ?? {};
  const facts = [
    ["Queue", el("a", { href: `#/jobs?${new URLSearchParams({ queue: job.queue })}` }, job.queue)],
    ["Priority", `${job.priority} of 0–9`],
    ["Created", format.time(job.created_at)],
    [final ? "Was due" : "Due", format.time(job.due_at)],
    ["Finished", job.finished_at && format.time(job.finished_at)],
    ["Attempts", `${job.attempt} of ${job.max_attempts}`],
    ["Reason", job.reason],
    ["Timeout", options.timeout_ms && format.ms(options.timeout_ms)],
    ["CPU limit", options.cpu_limit_ms && format.ms(options.cpu_limit_ms)],
    ["Memory limit", options.memory_limit_bytes && format.bytes(options.memory_limit_bytes)],
    ["Deadline", options.deadline && format.time(options.deadline)],
    ["Expires", options.expires_at && format.time(options.expires_at)],
    ["Unique key", options.unique?.key],
    ["Group", options.group_key],
    ["Trace", options.trace],
  ].filter(([, value]) => value !== undefined && value !== null && value !== false);
  fill(node,
    el("h1", {}, job.task, " ", badge(job.state), job.cancelling && el("span", { class: "badge cancelled" }, "stopping")),
    el("p", {}, el("code", { class: "id" }, job.id), job.tags.map((tag) => [" ", el("span", { class: "tag" }, tag)])),
    job.failure && el("p", { class: job.state === "failed" ? "problem" : "hint" },
      `Last failure: ${job.failure.class}. ${job.failure.message ?? ""}`),
    el("div", { class: "buttons" },
      !final && sure("Cancel", "Really cancel?", act(() => api.post(`${path}/cancel`))),
      final && job.state !== "completed" && el("button", { type: "button", id: "retry", onclick: act(() => api.post(`${path}/retry`)) }, "Retry"),
      final && sure("Delete", "Really delete?", async () => {
        try { await api.delete(path); location.hash = "#/jobs"; } catch (error) { api.show(said, error); }
      })),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}

/** Attempts on one axis, from creation to the end or now; `logged`: the one whose log is shown whole. */
function drawLife(node, job, logged, choose) {
  const from = Date.parse(job.created_at);
  const last = job.attempts.at(-1);
  const to = Math.max(job.finished_at ? Date.parse(job.finished_at) : Date.now(),
    last?.ended_at ? Date.parse(last.ended_at) : from, from + 1);
  const span = (kind, begin, end) => {
    const piece = el("span", { class: `piece ${kind}` });
    // An attempt that took no time at the end of the axis is still seen.
    piece.style.left = `min(${(100 * Math.max(0, begin - from)) / (to - from)}%, calc(100% - 3px))`;
    piece.style.width = `${(100 * Math.max(0, end - begin)) / (to - from)}%`;
    return piece;
  };
  const track = (attempt) => {
    const started = Date.parse(attempt.started_at);
    const ended = attempt.ended_at ? Date.parse(attempt.ended_at) : Date.now();
    const kind = !attempt.end ? "running" : attempt.end.class === "completed" ? "completed" : "failed";
    return el("span", { class: "track", "aria-hidden": "true" },
      span("wait", started - attempt.wait_ms, started), span(kind, started, ended));
  };
  fill(node,
    el("h2", { id: "h-life" }, "Life"),
    el("p", { class: "hint" }, `${format.ms(to - from)} from creation to ${job.finished_at ? "the end" : "now"}. Pale: waiting for an executor. Solid: running.`),
    table([
      { title: "attempt", cell: (one) => el("button", { type: "button", class: "quiet", id: `attempt-${one.number}`, onclick: () => choose(one.number), "aria-label": `Show the log of attempt ${one.number}` }, `#${one.number}`) },
      { title: "timeline", wide: true, cell: track },
      { title: "end", cell: (one) => [badge(one.end?.class ?? "running"),
        one.end?.exit_code !== null && one.end?.exit_code !== undefined && ` exit ${one.end.exit_code}`,
        one.end?.signal && ` signal ${one.end.signal}`] },
      { title: "wait", number: true, cell: (one) => format.ms(one.wait_ms) },
      { title: "wall", number: true, cell: (one) => format.ms(one.wall_ms) },
      { title: "cpu", number: true, cell: (one) => format.ms(one.cpu_ms) },
      { title: "peak memory", number: true, cell: (one) => format.bytes(one.max_rss_bytes) },
      { title: "in", number: true, cell: (one) => format.bytes(one.ended_at ? one.bytes_in : null) },
      { title: "out", number: true, cell: (one) => format.bytes(one.ended_at ? one.bytes_out : null) },
      { title: "executor", cell: (one) => [
        el("span", { title: one.node }, [one.lane, one.executor].filter(Boolean).join(" / ") || "–"),
        one.executor_age_ms !== null && el("span", { class: "tasks" }, `${format.ms(one.executor_age_ms)} old`)] },
    ], job.attempts, { empty: "No executor has had it yet." }),
    job.attempts.map((one) => {
      const lines = one.number === logged ? [] : one.last_log_lines;
      return (one.end?.message || lines.length > 0) && el("div", { class: "told" },
        el("p", {}, el("strong", {}, `#${one.number} `), one.end?.message ?? "Its last lines:"),
        lines.length > 0 && el("pre", { tabindex: "0", "aria-label": `Last lines of attempt ${one.number}` }, lines.join("\n")));
    }));
}

function drawTexts(node, job) {
  // Drawn anew only when it changed: somebody may be marking the text.
  const now = JSON.stringify([job.progress, job.payload, job.result]);
  if (node.drawn === now) return;
  node.drawn = now;
  const text = (title, value) => value !== undefined && value !== null &&
    el("div", {}, el("h2", {}, title), el("pre", { tabindex: "0" }, JSON.stringify(value, null, 2)));
  fill(node,
    job.progress && el("div", {}, el("h2", {}, "Progress"),
      el("p", { class: "hint" }, format.time(job.progress.at)),
      el("pre", { tabindex: "0" }, JSON.stringify(job.progress.note, null, 2))),
    el("div", { class: "columns" }, text("Payload", job.payload), text("Result", job.result)));
}
