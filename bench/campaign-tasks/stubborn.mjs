// Blocks its only thread, ignores SIGTERM, and starts descendants in sessions of their own.
import { appendFileSync } from "node:fs";
import { spawn } from "node:child_process";

process.on("SIGTERM", () => {});
const here = new URL(".", import.meta.url).pathname;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

export default function (payload, ctx) {
  const mark = (what) =>
    appendFileSync(
      process.env.CAMPAIGN_JOURNAL,
      `${what} ${ctx.job} ${ctx.attempt} ${ctx.lease} ${Date.now()} ${process.pid}\n`,
    );
  mark("start");
  const env = {
    ...process.env,
    OFFLOOP_JOB_ID: ctx.job,
    OFFLOOP_ATTEMPT: String(ctx.attempt),
    OFFLOOP_LEASE: String(ctx.lease),
  };
  spawn("sh", [`${here}stubborn.sh`, "1"], { detached: true, stdio: "ignore", env }).unref();
  for (;;) {
    mark("beat");
    Atomics.wait(sleeper, 0, 0, 50);
  }
}
