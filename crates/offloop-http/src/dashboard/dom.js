// Elements are made of text nodes and attributes alone: nothing that a job says becomes markup.

/** el("a", {href: "#/", class: "x", onclick: fn}, "text", child, null) */
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

export function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

/** Puts `children` in the place of what `node` holds, and keeps the focus where it was by id. */
export function fill(node, ...children) {
  const focused = node.contains(document.activeElement) ? document.activeElement.id : "";
  const fresh = document.createDocumentFragment();
  add(fresh, children);
  node.replaceChildren(fresh);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** columns: [{title, cell(row), number?, wide?}]; on small screens each row becomes a card. */
export function table(columns, rows, { empty = "Nothing here.", caption } = {}) {
  if (rows.length === 0) return el("p", { class: "empty" }, empty);
  const kind = (column) => [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ");
  return el("table", {},
    caption && el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map((column) =>
      el("th", { scope: "col", class: kind(column) }, column.title)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((column) =>
      el("td", { class: kind(column), "data-label": column.title }, column.cell(row)))))));
}

export const badge = (state) => el("span", { class: `badge ${safe(state)}` }, state);

/** A word that may be a class name. */
const safe = (word) => String(word).replace(/[^a-z_]/g, "");

/** A bar: share of `max`, with its text beside it. */
export function bar(value, max, kind = "") {
  const inner = el("span", { class: `fill ${kind}` });
  inner.style.width = `${Math.max(0, Math.min(100, max > 0 ? (100 * value) / max : 0))}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}

// Pages draw their buttons anew when something changes: a question outlives its button.
const asked = new Map();
const ASKED_MS = 4000;

/** A button that asks once more before it acts. */
export function sure(label, question, act) {
  const key = `${location.hash} ${label}`;
  const button = el("button", { type: "button", id: `sure-${label.toLowerCase()}` });
  const draw = () => {
    const left = (asked.get(key) ?? 0) + ASKED_MS - Date.now();
    button.textContent = left > 0 ? question : label;
    button.classList.toggle("danger", left > 0);
    if (left > 0) setTimeout(draw, left);
    else asked.delete(key);
    return left > 0;
  };
  draw();
  button.addEventListener("click", async () => {
    if (!asked.has(key)) {
      asked.set(key, Date.now());
      draw();
      return;
    }
    asked.delete(key);
    button.disabled = true;
    try { await act(); } finally { button.disabled = false; draw(); }
  });
  return button;
}

const number = new Intl.NumberFormat("en");

export const format = {
  number: (value) => (value === null || value === undefined ? "–" : number.format(value)),
  /** 1234 -> "1.2 s" */
  ms(value) {
    if (value === null || value === undefined) return "–";
    if (value < 1000) return `${Math.round(value)} ms`;
    if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
    if (value < 3_600_000) return `${Math.floor(value / 60_000)} min ${Math.floor((value % 60_000) / 1000)} s`;
    if (value < 86_400_000) return `${Math.floor(value / 3_600_000)} h ${Math.floor((value % 3_600_000) / 60_000)} min`;
    return `${Math.floor(value / 86_400_000)} d ${Math.floor((value % 86_400_000) / 3_600_000)} h`;
  },
  bytes(value) {
    if (value === null || value === undefined) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let at = 0;
    while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
    return `${at === 0 ? value : value.toFixed(1)} ${units[at]}`;
  },
  /** An instant as text that says how long ago, with the instant as its title. */
  time(text) {
    if (!text) return "–";
    const ms = Date.now() - Date.parse(text);
    const words = Math.abs(ms) < 1500 ? "now" : ms > 0 ? `${format.ms(ms)} ago` : `in ${format.ms(-ms)}`;
    return el("time", { datetime: text, title: text }, words);
  },
};
