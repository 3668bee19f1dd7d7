// BullMQ on the Redis at REDIS_PORT, driven line by line so that its rounds lie between ours:
// `MEASURE JOBS CONCURRENCY` on standard input, one JSON line per round on standard output.
// Measures: add-50 (50 adds in flight), add-bulk (addBulk of 500), life (bulk in, a no-op worker,
// until the last one has ended). Tuned by its own docs: one connection per role, finished jobs
// removed, a worker with many jobs in flight. The process stays, so its code is warm.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';

const connection = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT ?? 6399), maxRetriesPerRequest: null };
const version = createRequire(import.meta.url)('bullmq/package.json').version;
const options = { removeOnComplete: true };
const queue = new Queue('bench', { connection });
await queue.waitUntilReady();

const noops = (jobs) => Array.from({ length: jobs }, () => ({ name: 'noop', data: {}, opts: options }));
async function addBulk(jobs) {
  for (let sent = 0; sent < jobs; sent += 500) await queue.addBulk(noops(Math.min(500, jobs - sent)));
}

const measures = {
  async 'add-50'(jobs) {
    let sent = 0;
    const caller = async () => {
      while (sent < jobs) { sent += 1; await queue.add('noop', {}, options); }
    };
    await Promise.all(Array.from({ length: 50 }, caller));
  },
  'add-bulk': addBulk,
  async life(jobs, worker) {
    let ended = 0;
    const all = new Promise((resolve) => {
      worker.on('completed', () => { ended += 1; if (ended === jobs) resolve(); });
    });
    await Promise.all([addBulk(jobs), all]);
  },
};

async function round(measure, jobs, concurrency) {
  await queue.obliterate({ force: true });
  const worker = measure === 'life' ? new Worker('bench', async () => {}, { connection, concurrency }) : undefined;
  await worker?.waitUntilReady();
  const start = process.hrtime.bigint();
  await measures[measure](jobs, worker);
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  await worker?.close();
  await queue.obliterate({ force: true });
  return { rival: 'bullmq', version, measure, jobs, concurrency, seconds, per_second: jobs / seconds };
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const client = new Redis(connection);
const setting = async (name) => (await client.config('GET', name))[1];
say({
  rival: 'bullmq', version, node: process.version,
  redis: /redis_version:(\S+)/.exec(await client.info('server'))?.[1],
  durability: { appendonly: await setting('appendonly'), appendfsync: await setting('appendfsync') },
});
client.disconnect();
for await (const line of createInterface({ input: process.stdin })) {
  const [measure, jobs, concurrency] = line.split(' ');
  try {
    say(await round(measure, Number(jobs), Number(concurrency ?? 100)));
  } catch (error) {
    say({ measure, error: String(error) });
  }
}
await queue.close();
