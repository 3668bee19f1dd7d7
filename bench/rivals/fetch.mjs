// undici's request with p-limit: `node fetch.mjs PORT CALLS MS LIMIT`. One JSON line at the end.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Agent, request } from 'undici';
import pLimit from 'p-limit';

const [port, calls, ms, limit] = process.argv.slice(2).map(Number);
const version = (name) => createRequire(import.meta.url)(`${name}/package.json`).version;
// One connection per call at a time, as undici's own documentation advises for this.
const dispatcher = new Agent({ connections: limit, pipelining: 1 });
const next = pLimit(limit);
const url = `http://127.0.0.1:${port}/${ms}`;
let ok = 0;
const begun = process.hrtime.bigint();
await Promise.all(
  Array.from({ length: calls }, () =>
    next(async () => {
      const { statusCode, body } = await request(url, { dispatcher });
      await body.text();
      if (statusCode === 200) ok++;
    }),
  ),
);
const wall = Number(process.hrtime.bigint() - begun) / 1e6;
const stat = readFileSync('/proc/self/stat', 'utf8').split(') ').pop().split(' ');
const peak = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1];
let undici = '';
try { undici = version('undici'); } catch { /* its manifest is not exported */ }
console.log(JSON.stringify({
  name: `undici ${undici}+p-limit`, ok, wall_ms: wall,
  cpu_ms: (Number(stat[11]) + Number(stat[12])) * 10, rss_kib: Number(peak),
}));
await dispatcher.close();
