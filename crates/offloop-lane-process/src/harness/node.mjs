// offloop's harness for Node: runs an exported function of the task's file for each job.
//
//   export default async function (payload, ctx) { ... return result; }
//   module.exports = async (payload, ctx) => { ... };
//
// ctx: job, lease, attempt, task, signal (AbortSignal), progress(note), log(...), and `invalid(text)`,
// which makes an error for a payload that no retry can help.
//
// Plain Node, no dependency. The protocol is docs/guides/process-protocol.md.
import net from "node:net";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

const RESULT_BYTES_MAX = 1 << 20;
const PROGRESS_BYTES_MAX = 4 << 10;
const MESSAGE_CHARS_MAX = 4000;

const file = path.resolve(process.argv[2] ?? "");
process.argv.splice(1, 2, file);
const channel = new net.Socket({ fd: Number(process.env.OFFLOOP_FD), readable: true, writable: true });
delete process.env.OFFLOOP_FD;

let handler;
let running; // { lease, controller }

function send(header, data) {
  const head = Buffer.from(JSON.stringify(header));
  const body = data === undefined ? undefined : Buffer.from(data);
  const length = head.length + (body ? 1 + body.length : 0);
  const frame = Buffer.allocUnsafe(4 + length);
  frame.writeUInt32LE(length, 0);
  head.copy(frame, 4);
  if (body) {
    frame[4 + head.length] = 10;
    body.copy(frame, 5 + head.length);
  }
  channel.write(frame);
}

class InvalidPayload extends Error {}

function context(header, controller) {
  return Object.freeze({
    job: header.job,
    lease: header.lease,
    attempt: header.attempt,
    task: header.task,
    remainingMs: header.remaining_ms,
    trace: header.trace,
    signal: controller.signal,
    progress(note) {
      const text = JSON.stringify(note) ?? "null";
      if (Buffer.byteLength(text) > PROGRESS_BYTES_MAX) {
        throw new RangeError(`a progress note has more than ${PROGRESS_BYTES_MAX} bytes`);
      }
      if (running?.lease === header.lease) send({ type: "progress", lease: header.lease }, text);
    },
    log(...parts) {
      process.stdout.write(format(...parts) + "\n");
    },
    invalid(text) {
      return new InvalidPayload(text);
    },
  });
}

function resultText(value) {
  if (value === undefined) return undefined;
  const text = JSON.stringify(value); // throws for cycles and BigInt
  if (text === undefined) throw new TypeError(`the task returned a ${typeof value}, which is not JSON`);
  const bytes = Buffer.byteLength(text);
  if (bytes > RESULT_BYTES_MAX) {
    throw new RangeError(`the result has ${bytes} bytes; the limit is ${RESULT_BYTES_MAX}`);
  }
  return text;
}

async function run(header, data) {
  const controller = new AbortController();
  running = { lease: header.lease, controller };
  let answer;
  try {
    const payload = data.length === 0 ? null : JSON.parse(data.toString("utf8"));
    const text = resultText(await handler(payload, context(header, controller)));
    answer = [{ type: "result", lease: header.lease }, text];
  } catch (error) {
    const invalid = error instanceof InvalidPayload || error?.invalid === true;
    const message = (error instanceof Error ? (invalid ? error.message : error.stack) : String(error)) || "error";
    const header_ = { type: "error", lease: header.lease, message: message.slice(0, MESSAGE_CHARS_MAX) };
    if (invalid) header_.class = "invalid";
    answer = [header_];
  }
  running = undefined;
  send(...answer);
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
    case "ping":
      send({ type: "pong" });
      break;
  }
}

let held = Buffer.alloc(0);
channel.on("data", (chunk) => {
  held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
  while (held.length >= 4) {
    const length = held.readUInt32LE(0);
    if (held.length < 4 + length) break;
    const frame = held.subarray(4, 4 + length);
    held = held.subarray(4 + length);
    onFrame(frame);
  }
});
// The server is gone: nothing that is computed here can be answered.
channel.on("end", () => process.exit(0));
channel.on("error", () => process.exit(0));

function exportedFunction(module) {
  const candidates = [module.default, module.default?.default, module.handle, module.default?.handle];
  const found = candidates.find((value) => typeof value === "function");
  if (!found) throw new TypeError(`${file} exports no function: export one by default`);
  return found;
}

try {
  handler = exportedFunction(await import(pathToFileURL(file).href));
} catch (error) {
  process.stderr.write(`${error?.stack ?? error}\n`, () => process.exit(1));
  await new Promise(() => {});
}
send({ type: "ready", protocol: 1 });
