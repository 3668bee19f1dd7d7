// The server as it is now: a strip on every page, and a page with all of it.

import { api, refresh } from "/assets/api.js";
import { bar, el, fill, format, table } from "/assets/dom.js";

const EVERY_MS = 1000;
/** Points of the line: three minutes. */
const KEPT = 180;
/** The line's scale is logarithmic, from a tenth of a millisecond to ten seconds. */
const LOW_MS = 0.1;
const HIGH_MS = 10_000;
/** Where the dashed line is: a loop that is later than this is felt. */
const FELT_MS = 50;
const WIDTH = 180;
const HEIGHT = 28;

const history = [];

/** 0.042 -> "0.04 ms" */
const delay = (ms) => {
  if (ms === null || ms === undefined) return "–";
  return ms < 10 ? `${ms.toFixed(2)} ms` : format.ms(ms);
};
const percent = (share) => `${Math.round(100 * share)} %`;
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
const name = (what) => what ?? "code without a name";

/** The loop that is latest. */
const worst = (loops, key) => loops.reduce((one, other) =>
  ((other.delay[key] ?? 0) > (one?.delay[key] ?? -1) ? other : one), null);

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  return node;
}

const height = (ms) => {
  const share = Math.log(Math.max(ms, LOW_MS) / LOW_MS) / Math.log(HIGH_MS / LOW_MS);
  return HEIGHT - 2 - Math.min(1, share) * (HEIGHT - 4);
};

/** A point per second, newest on the right. A gap: the server did not answer. */
function line() {
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, class: "spark", role: "img",
    "aria-label": "Delay of the latest loop in the last three minutes, logarithmic, 0.1 ms to 10 s; dashed: 50 ms",
  });
  picture.append(svg("line", { x1: 0, x2: WIDTH, y1: height(FELT_MS), y2: height(FELT_MS), class: "felt" }));
  let points = [];
  const draw = () => {
    if (points.length === 1) points.push([points[0][0] + 1, points[0][1]]);
    if (points.length > 0) picture.append(svg("polyline", { points: points.map((point) => point.join(",")).join(" "), class: "delay" }));
    points = [];
  };
  history.forEach(({ ms, blocked }, index) => {
    const x = WIDTH - (history.length - index) * (WIDTH / KEPT);
    if (blocked) picture.append(svg("rect", { x, y: 0, width: WIDTH / KEPT + 0.5, height: HEIGHT, class: "blocked" }));
    if (ms === null) draw();
    else points.push([x.toFixed(1), height(ms).toFixed(1)]);
  });
  draw();
  return picture;
}

const fact = (title, hint, ...value) => el("div", { class: "fact", title: hint }, el("dt", {}, title), el("dd", {}, value));

/** The lanes that are fullest; one that does nothing is not worth its place. */
function lanes(all) {
  const busy = all.filter((lane) => lane.saturation >= 0.005 || lane.queued > 0)
    .sort((a, b) => b.saturation - a.saturation).slice(0, 3);
  if (busy.length === 0) return el("span", { class: "zero" }, "idle");
  return busy.map((lane) => el("span", { class: "lane" }, `${lane.name} ${percent(lane.saturation)}`,
    lane.queued > 0 && el("span", { class: "late" }, ` +${format.number(lane.queued)}`),
    bar(lane.saturation, 1, lane.saturation > 0.95 ? "full" : "")));
}

function memory({ rss_bytes: rss, cgroup }) {
  if (!cgroup?.max_bytes) return format.bytes(rss);
  const share = cgroup.current_bytes / cgroup.max_bytes;
  return [`${format.bytes(rss)} `, el("span", { class: share > 0.9 ? "late" : "zero" }, `of ${format.bytes(cgroup.max_bytes)}`),
    bar(share, 1, share > 0.9 ? "full" : "")];
}

const blocks = (pulse) => pulse.loops.flatMap((loop) => loop.blocked.map((block) => ({ ...block, loop: loop.name })));

function draw(node, pulse) {
  if (pulse.state === "off") return fill(node);
  const late = worst(pulse.loops, "p99_ms");
  const used = pulse.loops.reduce((one, other) => (other.utilisation > (one?.utilisation ?? -1) ? other : one), null);
  const told = (key) => pulse.loops.map((loop) => `${loop.name} ${delay(loop.delay[key])}`).join(", ");
  fill(node,
    el("dl", {},
      late && fact("loop delay, p99", `Over the last 10 s: ${told("p99_ms")}. Parked: ${told("idle_ms")}`,
        el("a", { href: "#/pulse", class: (late.delay.p99_ms ?? 0) >= FELT_MS ? "late" : "" }, `${delay(late.delay.p99_ms)} `),
        el("span", { class: "zero" }, late.name)),
      fact("3 minutes", "Logarithmic, 0.1 ms to 10 s; dashed: 50 ms; red: a thread was blocked", line()),
      used && fact("loop use", "Share of its threads' time in polls, over 2 s",
        `${percent(used.utilisation)} `, el("span", { class: "zero" }, used.name), bar(used.utilisation, 1, used.utilisation > 0.8 ? "full" : "")),
      fact("lanes", "Share of slots taken, over 2 s; + in line", lanes(pulse.lanes)),
      fact("memory", "Resident memory of the server; the limit of its control group", memory(pulse.memory)),
      pulse.pressure.level !== "open" && fact("pressure", pulse.pressure.why ?? "",
        el("span", { class: pulse.pressure.level === "full" ? "late" : "" }, pulse.pressure.level))),
    blocks(pulse).map((block) => el("p", { class: "blocks" },
      el("strong", {}, name(block.what)), ` blocks the loop ${block.loop} for ${format.ms(block.for_ms)}: everything else on this thread waits. `,
      el("span", {}, sentence(block.remedy)))));
}

/** Once; it lives as long as the page. Answers a function that starts it. */
export function strip(node) {
  let asking = false;
  const ask = async () => {
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    let point = { ms: null, blocked: false };
    try {
      const pulse = await api.get("/v1/pulse");
      if (pulse.state !== "off") {
        const late = worst(pulse.loops, "p99_ms");
        point = { ms: late?.delay.p99_ms ?? null, blocked: pulse.state === "blocked" };
      }
      draw(node, pulse);
    } catch (error) {
      if (error.problem?.status === 401) return fill(node);
      fill(node, el("p", { class: "blocks" }, "The server does not answer. If a loop is blocked, its log says by what."));
    } finally {
      asking = false;
      history.push(point);
      if (history.length > KEPT) history.shift();
    }
  };
  ask();
  const timer = setInterval(ask, EVERY_MS);
  return () => { clearInterval(timer); fill(node); };
}

const figures = (title, key) => [
  { title: `${title} p50`, number: true, cell: (row) => delay(row[key]?.p50_ms) },
  { title: "p99", number: true, cell: (row) => delay(row[key]?.p99_ms) },
  { title: "max", number: true, cell: (row) => delay(row[key]?.max_ms) },
];

/** The page. */
export async function pulsePage(root) {
  const body = el("div", {});
  fill(root, el("h1", {}, "Pulse"), body);
  const act = async () => {
    try { drawPage(body, await api.get("/v1/pulse")); } catch (error) { api.show(body, error); }
  };
  const stop = refresh(act);
  const timer = setInterval(() => { if (document.visibilityState === "visible") act(); }, 2 * EVERY_MS);
  return () => { clearInterval(timer); stop(); };
}

function drawPage(node, pulse) {
  if (pulse.state === "off") return fill(node, el("p", { class: "empty" }, "The pulse is off: [pulse] enabled in offloop.toml."));
  const { stall } = pulse;
  const waited = (kind) => (stall[kind] ? `${stall[kind].some_avg10.toFixed(1)} %` : "–");
  const hints = [
    ...pulse.tasks.flatMap((task) => task.hints.filter((hint) => hint.kind === "too_short").map((hint) => [task.task ?? "(others)", hint])),
    ...pulse.polls.filter((row) => row.hint).map((row) => [row.what, row.hint]),
  ];
  fill(node,
    hints.length > 0 && el("ul", { class: "findings" }, hints.map(([what, hint]) =>
      el("li", { class: hint.kind === "too_long" ? "warn" : "note" }, el("strong", {}, what), `: ${hint.say}.`))),
    el("h2", {}, "Event loops"),
    el("p", { class: "hint" }, "A thread outside posts a no-op to each loop and times it: post to run. Percentiles are of the last 10 s."),
    table([
      { title: "loop", cell: (loop) => loop.name },
      { title: "threads", number: true, cell: (loop) => format.number(loop.threads) },
      { title: "use", number: true, cell: (loop) => [percent(loop.utilisation), bar(loop.utilisation, 1, loop.utilisation > 0.8 ? "full" : "")] },
      { title: "now", number: true, cell: (loop) => delay(loop.delay.now_ms) },
      { title: "p50", number: true, cell: (loop) => delay(loop.delay.p50_ms) },
      { title: "p99", number: true, cell: (loop) => delay(loop.delay.p99_ms) },
      { title: "max", number: true, cell: (loop) => delay(loop.delay.max_ms) },
      { title: "max, 1 min", number: true, cell: (loop) => delay(loop.delay.minute_max_ms) },
      { title: "parked", number: true, cell: (loop) => el("span", { class: "zero", title: "What waking a thread costs here" }, delay(loop.delay.idle_ms)) },
    ], pulse.loops, { empty: "No loop is watched." }),
    el("h2", {}, "Blocks that ended"),
    table([
      { title: "what", wide: true, cell: (block) => name(block.what) },
      { title: "loop", cell: (block) => block.loop },
      { title: "lasted", number: true, cell: (block) => el("span", { class: "late" }, format.ms(block.lasted_ms)) },
      { title: "ago", number: true, cell: (block) => format.ms(block.ago_ms) },
    ], pulse.recent, { empty: "None: no poll has lasted too long." }),
    el("h2", {}, "Tasks in the last minute"),
    table([
      { title: "task", wide: true, cell: (task) => task.task ?? "(others)" },
      { title: "ended", number: true, cell: (task) => format.number(task.run?.count) },
      ...figures("wait", "wait"), ...figures("run", "run"),
    ], pulse.tasks, { empty: "No attempt and no call has ended." }),
    el("h2", {}, "Machine"),
    el("dl", { class: "facts" },
      fact("memory", "", memory(pulse.memory)),
      fact(`waited for a processor (${stall.of})`, "Share of the last 10 s in which some work stood still", waited("cpu")),
      fact("for memory", "", waited("memory")),
      fact("for the disk", "", waited("io")),
      pulse.memory.cgroup?.throttled_ms !== undefined && pulse.memory.cgroup?.throttled_ms !== null
        && fact("held by the processor quota", "", format.ms(pulse.memory.cgroup.throttled_ms)),
      fact("this thread", "What the pulse itself costs", `${(100 * pulse.own.cpu).toFixed(2)} % of a processor, ${pulse.own.wakes_per_s} wakes/s`)));
}
