// offloop's harness for Node: runs an exported function of the task's file for each job.
//
//   export default async function (payload, ctx) { ... return result; }
//   module.exports = async (payload, ctx) => { ... };
//
// A worker file of Piscina runs as it is: the function, or a promise of it, is the default export.
// `FILE#name` runs the export of that name. TypeScript runs where this Node strips types.
//
// ctx: job, lease, attempt, task, signal (AbortSignal), progress(note), log(...), recycle();
// resumed (what an earlier attempt left), `await checkpoint(value)` (leaves it for the next one, on
// disk when it resolves), partial(value) (for who listens now); and to be thrown or returned:
// `invalid(text)` for a payload that no retry can help, `snooze(ms)` to be run again later.
//
// Plain Node, no dependency. The protocol is docs/guides/process-protocol.md.
import { isAscii } from "node:buffer";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

const RESULT_BYTES_MAX = 1 << 20;
const PROGRESS_BYTES_MAX = 4 << 10;
const CHECKPOINT_BYTES_MAX = 64 << 10;
const PARTIAL_BYTES_MAX = 16 << 10;
const SNOOZE_MS_MIN = 1000;
const SNOOZE_MS_MAX = 30 * 24 * 3600 * 1000;
const MESSAGE_CHARS_MAX = 4000;
const STACK_LINES_MAX = 10;
const SMALL_CHARS = 8 << 10;

const [file, exportName] = split(process.argv[2] ?? "");
process.argv.splice(1, 2, file);
const channel = new net.Socket({ fd: Number(process.env.OFFLOOP_FD), readable: true, writable: true });
delete process.env.OFFLOOP_FD;

let handler;
let running; // { lease, controller }
const unanswered = new Map(); // checkpoints by number
let checkpoints = 0;

// A file's name may hold a `#` itself.
function split(word) {
  const cut = word.lastIndexOf("#");
  if (cut < 0 || fs.existsSync(word)) return [path.resolve(word), "default"];
  return [path.resolve(word.slice(0, cut)), word.slice(cut + 1)];
}

// `data`: a short text or a Buffer.
function send(header, data) {
  const head = JSON.stringify(header) + (data === undefined ? "" : "\n");
  if (data instanceof Uint8Array) {
    const frame = Buffer.allocUnsafe(4 + Buffer.byteLength(head));
    frame.writeUInt32LE(frame.length - 4 + data.length, 0);
    frame.write(head, 4);
    channel.cork();
    channel.write(frame);
    channel.write(data);
    channel.uncork();
    return;
  }
  const text = data === undefined ? head : head + data;
  const frame = Buffer.allocUnsafe(4 + Buffer.byteLength(text));
  frame.writeUInt32LE(frame.length - 4, 0);
  frame.write(text, 4);
  channel.write(frame);
}

class InvalidPayload extends Error {}
class OutputLimit extends RangeError {}
class Snooze extends Error {
  constructor(ms) {
    super(`asked to be run again in ${ms} ms`);
    this.ms = ms;
  }
}

function jsonOf(value, what, most) {
  const text = JSON.stringify(value) ?? "null";
  if (Buffer.byteLength(text) > most) throw new RangeError(`${what} has more than ${most} bytes`);
  return text;
}

function checkpoint(lease, value) {
  const text = jsonOf(value, "a checkpoint", CHECKPOINT_BYTES_MAX);
  const number = ++checkpoints;
  const kept = new Promise((resolve, reject) => {
    unanswered.set(number, { resolve, reject });
    send({ type: "checkpoint", lease, number }, text);
  });
  kept.catch(() => {}); // one that nobody awaits must not end the process
  return kept;
}

function onCheckpointAnswer({ number, kept, message }) {
  const waiting = unanswered.get(number);
  unanswered.delete(number);
  if (kept) waiting?.resolve();
  else waiting?.reject(new Error(message));
}

function context(header, controller) {
  return Object.freeze({
    job: header.job,
    lease: header.lease,
    attempt: header.attempt,
    task: header.task,
    remainingMs: header.remaining_ms,
    trace: header.trace,
    inputs: header.inputs ?? [],
    signal: controller.signal,
    progress(note) {
      const text = jsonOf(note, "a progress note", PROGRESS_BYTES_MAX);
      if (running?.lease === header.lease) send({ type: "progress", lease: header.lease }, text);
    },
    resumed: header.checkpoint,
    checkpoint(value) {
      return checkpoint(header.lease, value);
    },
    partial(value) {
      const text = jsonOf(value, "a partial result", PARTIAL_BYTES_MAX);
      if (running?.lease === header.lease) send({ type: "partial", lease: header.lease }, text);
    },
    snooze(ms) {
      if (!(ms >= SNOOZE_MS_MIN && ms <= SNOOZE_MS_MAX)) {
        throw new RangeError(`snooze(${ms}): give ${SNOOZE_MS_MIN} to ${SNOOZE_MS_MAX} ms (30 days)`);
      }
      return new Snooze(Math.round(ms));
    },
    log(...parts) {
      process.stdout.write(format(...parts) + "\n");
    },
    invalid(text) {
      return new InvalidPayload(text);
    },
    recycle() {
      send({ type: "recycle" });
    },
  });
}

function resultData(value) {
  if (value === undefined) return undefined;
  const text = JSON.stringify(value); // throws for cycles and BigInt
  if (text === undefined) throw new TypeError(`the task returned a ${typeof value}, which is not JSON`);
  if (text.length <= SMALL_CHARS) return text;
  const data = Buffer.from(text); // once: counting the bytes first would cost as much
  if (data.length > RESULT_BYTES_MAX) {
    throw new OutputLimit(`the result has ${data.length} bytes; its limit is ${RESULT_BYTES_MAX} bytes of output`);
  }
  return data;
}

function errorAnswer(lease, error) {
  const ours = error instanceof InvalidPayload || error instanceof OutputLimit || error?.invalid === true;
  const text = error instanceof Error ? (ours ? error.message : error.stack) : String(error);
  const answer = { type: "error", lease, message: (text || "error").slice(0, MESSAGE_CHARS_MAX) };
  if (error instanceof OutputLimit) answer.class = "output_limit";
  else if (ours) answer.class = "invalid";
  return answer;
}

// Most JSON is plain ASCII, which needs no decoding.
function textOf(data) {
  return isAscii(data) ? data.latin1Slice(0, data.length) : data.utf8Slice(0, data.length);
}

async function run(header, data) {
  const { lease } = header;
  const controller = new AbortController();
  running = { lease, controller };
  let answer;
  let result;
  try {
    const payload = data.length === 0 ? null : JSON.parse(textOf(data));
    const value = await handler(payload, context(header, controller));
    if (value instanceof Snooze) throw value;
    result = resultData(value);
    answer = { type: "result", lease };
  } catch (error) {
    answer =
      error instanceof Snooze
        ? { type: "snooze", lease, after_ms: error.ms }
        : errorAnswer(lease, error);
  }
  running = undefined;
  send(answer, result);
}

function onFrame(frame) {
  const cut = frame.indexOf(10);
  const header = JSON.parse(frame.toString("utf8", 0, cut < 0 ? frame.length : cut));
  const data = cut < 0 ? Buffer.alloc(0) : frame.subarray(cut + 1);
  switch (header.type) {
    case "run":
      run(header, data);
      break;
    case "cancel":
      if (running?.lease === header.lease) running.controller.abort(new Error(header.reason));
      break;
    case "checkpoint_ack":
      onCheckpointAnswer(header);
      break;
    case "ping":
      send({ type: "pong" });
      break;
  }
}

// Pieces of a frame are joined once, when the last has come.
let pieces = [];
let held = 0;
let wanted = 4;
channel.on("data", (chunk) => {
  pieces.push(chunk);
  held += chunk.length;
  while (held >= wanted) {
    if (pieces.length > 1) pieces = [Buffer.concat(pieces, held)];
    const [bytes] = pieces;
    const whole = 4 + bytes.readUInt32LE(0);
    if (held < whole) {
      wanted = whole;
      return;
    }
    held -= whole;
    wanted = 4;
    pieces = held > 0 ? [bytes.subarray(whole)] : [];
    onFrame(bytes.subarray(4, whole));
  }
});
// The server is gone, or has replaced this child: nothing computed here can be answered.
channel.on("end", () => process.exit(0));
channel.on("error", () => process.exit(0));

async function exportedFunction(module) {
  const { default: standard } = module;
  const names = exportName === "default" ? ["default", "handle"] : [exportName];
  for (const name of names) {
    // A CommonJS file's exports are the default export; one compiled from ESM has its own inside.
    for (const holder of [module, standard, standard?.default]) {
      const found = await holder?.[name];
      if (typeof found === "function") return found;
    }
  }
  if (exportName === "default") {
    const found = await standard;
    if (typeof found === "function") return found;
    throw new TypeError(`${file} exports no function: export one by default`);
  }
  throw new TypeError(`${file} exports no function named ${exportName}`);
}

async function load() {
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    if (error?.code !== "ERR_UNKNOWN_FILE_EXTENSION" || !/\.[cm]?ts$/.test(file)) throw error;
    throw new TypeError(
      `${file} is TypeScript, which Node ${process.version} does not run: use Node 22.18 or later, or compile it`,
    );
  }
}

try {
  handler = await exportedFunction(await load());
} catch (error) {
  const stack = String(error?.stack ?? error).split("\n");
  const text = stack.slice(0, STACK_LINES_MAX).join("\n");
  process.stderr.write(`cannot load ${file}: ${text}\n`, () => process.exit(1));
  await new Promise(() => {});
}
send({ type: "ready", protocol: 1 });
