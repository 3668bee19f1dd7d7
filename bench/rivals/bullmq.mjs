// BullMQ on the Redis at REDIS_PORT: add with 50 in flight, addBulk, and a job's whole life.
// Prints one JSON line per measure. Tuned by its own docs: one connection per role, finished jobs
// removed, a worker with many jobs in flight.
import { createRequire } from 'node:module';
import { Queue, Worker } from 'bullmq';

const connection = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT ?? 6399), maxRetriesPerRequest: null };
const scale = Number(process.env.SCALE ?? 1);
const version = createRequire(import.meta.url)('bullmq/package.json').version;
const options = { removeOnComplete: true };
const queue = new Queue('bench', { connection });
await queue.waitUntilReady();

async function timed(name, jobs, run) {
  await queue.obliterate({ force: true });
  const start = process.hrtime.bigint();
  await run(jobs);
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  console.log(JSON.stringify({ rival: 'bullmq', version, measure: name, jobs, seconds, per_second: jobs / seconds }));
}

await timed('add-50', Math.round(60_000 * scale), async (jobs) => {
  let sent = 0;
  const caller = async () => {
    while (sent < jobs) { sent += 1; await queue.add('noop', {}, options); }
  };
  await Promise.all(Array.from({ length: 50 }, caller));
});

const bulk = (jobs) => Array.from({ length: jobs }, () => ({ name: 'noop', data: {}, opts: options }));
await timed('add-bulk', Math.round(100_000 * scale), async (jobs) => {
  for (let sent = 0; sent < jobs; sent += 500) await queue.addBulk(bulk(Math.min(500, jobs - sent)));
});

// As the full life of offloop's bench: bulk in, a no-op worker, until the last one has ended.
await timed('life', Math.round(50_000 * scale), async (jobs) => {
  let ended = 0;
  let done;
  const all = new Promise((resolve) => { done = resolve; });
  const worker = new Worker('bench', async () => {}, { connection, concurrency: Number(process.env.CONCURRENCY ?? 100) });
  worker.on('completed', () => { ended += 1; if (ended === jobs) done(); });
  for (let sent = 0; sent < jobs; sent += 500) await queue.addBulk(bulk(Math.min(500, jobs - sent)));
  await all;
  await worker.close();
});

await queue.obliterate({ force: true });
await queue.close();
