// npm's pools, driven line by line so that their rounds lie between offloop's:
// `MEASURE POOL COUNT BYTES` on standard input, one JSON line per round on standard output.
// Measures: trip (one task at a time: microseconds each) and stream (many in flight: tasks a
// second). Two workers for stream, one for trip. Each pool stays, so that its code is warm, and
// hands the payload back. Settings are those that its own documentation names for speed.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import Piscina from 'piscina';
import { Tinypool } from 'tinypool';
import workerpool from 'workerpool';

const require = createRequire(import.meta.url);
const versions = Object.fromEntries(
  ['piscina', 'tinypool', 'workerpool'].map((name) => {
    const found = require.resolve.paths(name).map((folder) => `${folder}/${name}/package.json`);
    for (const path of found) try { return [name, require(path).version]; } catch { /* the next folder */ }
    return [name, 'unknown'];
  }),
);
const echo = new URL('./echo.mjs', import.meta.url).href;
const registered = new URL('./workerpool-echo.cjs', import.meta.url).pathname;

const makers = {
  piscina(workers) {
    const pool = new Piscina({ filename: echo, minThreads: workers, maxThreads: workers });
    return { run: (payload) => pool.run(payload), end: () => pool.destroy() };
  },
  tinypool(workers) {
    const pool = new Tinypool({
      filename: echo, runtime: 'child_process', minThreads: workers, maxThreads: workers,
    });
    return { run: (payload) => pool.run(payload), end: () => pool.destroy() };
  },
  workerpool(workers) {
    const pool = workerpool.pool(registered, {
      workerType: 'process', minWorkers: workers, maxWorkers: workers,
    });
    return { run: (payload) => pool.exec('echo', [payload]), end: () => pool.terminate(true) };
  },
};

const pools = new Map();
async function pool(name, workers) {
  const key = `${name} ${workers}`;
  if (!pools.has(key)) {
    const made = makers[name](workers);
    for (let warm = 0; warm < 300; warm += 1) await made.run('warm');
    pools.set(key, made);
  }
  return pools.get(key);
}

async function trip(name, count, bytes) {
  const { run } = await pool(name, 1);
  const payload = 'x'.repeat(bytes - 2);
  const times = [];
  for (let number = 0; number < count; number += 1) {
    const began = process.hrtime.bigint();
    const answer = await run(payload);
    times.push(Number(process.hrtime.bigint() - began) / 1e3);
    if (answer.length !== payload.length) throw new Error('another answer');
  }
  times.sort((a, b) => a - b);
  return { value: times[Math.floor(count / 2)], p99: times[Math.floor(count * 0.99)] };
}

async function stream(name, count, bytes) {
  const { run } = await pool(name, 2);
  const payload = 'x'.repeat(bytes - 2);
  let sent = 0;
  const caller = async () => {
    while (sent < count) { sent += 1; await run(payload); }
  };
  const began = process.hrtime.bigint();
  await Promise.all(Array.from({ length: 64 }, caller));
  return { value: count / (Number(process.hrtime.bigint() - began) / 1e9) };
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
say({ node: process.version, ...versions });
for await (const line of createInterface({ input: process.stdin })) {
  const [measure, name, count, bytes] = line.split(' ');
  try {
    const round = await { trip, stream }[measure](name, Number(count), Number(bytes));
    say({ measure, pool: name, ...round });
  } catch (error) {
    say({ measure, pool: name, error: String(error) });
  }
}
await Promise.all([...pools.values()].map(({ end }) => end()));
process.exit(0);
