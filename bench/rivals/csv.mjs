// npm's csv-parse over the first bytes of a file: nothing but records, no validation.
//
//   node csv.mjs FILE BYTES
//
// The stream interface as its documentation shows it, fed pieces of 64 KiB from memory, so that no
// disk is measured. Prints one line of JSON.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { parse } from 'csv-parse';

const require = createRequire(import.meta.url);
const [file, bytes] = process.argv.slice(2);
let data = readFileSync(file);
while (data.length < Number(bytes)) data = Buffer.concat([data, data]);
// Whole lines only: a cut record would be an error.
data = data.subarray(0, data.lastIndexOf(10, Number(bytes) - 1) + 1);

const parser = parse({ relax_column_count: true });
let records = 0;
parser.on('readable', () => {
  while (parser.read() !== null) records += 1;
});
const start = process.hrtime.bigint();
const ended = new Promise((resolve, reject) => parser.on('end', resolve).on('error', reject));
for (let at = 0; at < data.length; at += 65536) {
  if (!parser.write(data.subarray(at, at + 65536))) await new Promise((go) => parser.once('drain', go));
}
parser.end();
await ended;
const seconds = Number(process.hrtime.bigint() - start) / 1e9;
let version = 'unknown';
for (const folder of require.resolve.paths('csv-parse')) {
  try { version = require(`${folder}/csv-parse/package.json`).version; break; } catch { /* the next */ }
}
console.log(JSON.stringify({ bytes: data.length, records, seconds, version: `csv-parse ${version}, node ${process.version}` }));
