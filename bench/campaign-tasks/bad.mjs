// A task that does one kind of harm, `payload.how`, and leaves a mark before it.
import { appendFileSync, writeSync } from "node:fs";
import { spawn } from "node:child_process";

const here = new URL(".", import.meta.url).pathname;
const { CAMPAIGN_JOURNAL: journal, CAMPAIGN_TOKEN: token } = process.env;
const nap = new Int32Array(new SharedArrayBuffer(4));
const forever = () => new Promise(() => setInterval(() => {}, 1e6));
const held = [];

// In the child's group; in a session; nobody's child; nobody's child without an environment.
const hidings = ['sh "$@"', 'exec setsid sh "$@"', '(setsid sh "$@" &)', '(env -i setsid sh "$@" &)'];

const harms = {
  fine() {},
  spin() {
    for (;;);
  },
  // Up to 600 MiB, so that a limit that does not hold is seen and the machine is not lost.
  async eat() {
    for (let step = 0; step < 75; step += 1) {
      held.push(Buffer.alloc(8 << 20, 1));
      Atomics.wait(nap, 0, 0, 4);
    }
    await forever();
  },
  async sleepers({ count }, ctx) {
    const file = [`${here}sleeper.sh`, journal, ctx.job, String(ctx.attempt), String(ctx.lease), token];
    for (let number = 0; number < count; number += 1) {
      const how = hidings[number % hidings.length];
      spawn("sh", ["-c", how, "sh", ...file], { stdio: "ignore" });
    }
    await forever();
  },
  async bomb({ depth }) {
    spawn("sh", [`${here}bomb.sh`, String(depth), token], { stdio: "ignore", detached: true });
    await forever();
  },
  exit() {
    process.exit(3);
  },
  crash() {
    process.kill(process.pid, "SIGSEGV");
    return forever();
  },
  print({ bytes }) {
    const chunk = Buffer.alloc(1 << 20, "spam and eggs\n");
    for (let left = bytes; left > 0; ) {
      try {
        left -= writeSync(1, chunk, 0, Math.min(left, chunk.length));
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
        Atomics.wait(nap, 0, 0, 1);
      }
    }
  },
  stall: forever,
};

export default async function (payload, ctx) {
  const line = `start ${ctx.job} ${ctx.attempt} ${ctx.lease} ${Date.now()} ${process.pid}\n`;
  appendFileSync(journal, line);
  await harms[payload.how](payload, ctx);
}
