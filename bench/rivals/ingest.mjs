// npm's csv-parse into PostgreSQL by inserts of 1,000 rows (unnest of arrays), the usual advice.
//
//   node ingest.mjs URL FILE
//
// The table offloop_asn (first, last, asn, name) is there and empty. Prints the rows stored.
import { createReadStream } from 'node:fs';
import { parse } from 'csv-parse';
import pg from 'pg';

const [url, file] = process.argv.slice(2);
const client = new pg.Client({ connectionString: url });
await client.connect();
const insert = {
  name: 'insert',
  text: 'INSERT INTO offloop_asn SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])',
};
let columns = [[], [], [], []];
let rows = 0;
async function flush() {
  if (columns[0].length === 0) return;
  await client.query({ ...insert, values: columns });
  rows += columns[0].length;
  columns = [[], [], [], []];
}
const records = createReadStream(file, { highWaterMark: 65536 }).pipe(parse());
for await (const record of records) {
  for (let at = 0; at < 4; at += 1) columns[at].push(record[at] === '' ? null : record[at]);
  if (columns[0].length === 1000) await flush();
}
await flush();
await client.end();
console.log(rows);
