// Node's side of the comparison: the plain `http` server (fastify costs more), its crypto in a
// Piscina pool of one thread per core, `@node-rs/argon2` and `@node-rs/bcrypt` by their own async
// calls. It answers the same bodies on the same paths. Prints its address and its versions.
//
//   node vault.mjs KEYS-FOLDER
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { hash } from '@node-rs/argon2';
import { hash as bcrypt } from '@node-rs/bcrypt';
import Piscina from 'piscina';

const require = createRequire(import.meta.url);
const version = (name) => {
  for (const folder of require.resolve.paths(name)) {
    try { return require(`${folder}/${name}/package.json`).version; } catch { /* the next folder */ }
  }
  return 'unknown';
};
const threads = availableParallelism();
const [keys] = process.argv.slice(2);
const pool = new Piscina({
  filename: new URL('./vault-worker.mjs', import.meta.url).href,
  workerData: { keys }, minThreads: threads, maxThreads: threads,
});

async function answer(path, type, body) {
  if (path.startsWith('/v1/vault/hash')) {
    const { password, algorithm, params } = JSON.parse(body.toString());
    const made = algorithm === 'bcrypt'
      ? await bcrypt(password, { cost: params.cost })
      : await hash(password, { memoryCost: 19456, timeCost: 2, parallelism: 1 });
    return JSON.stringify({ hash: made });
  }
  const raw = type === 'application/octet-stream';
  const op = raw ? 'raw' : path.startsWith('/v1/vault/sign') ? 'sign' : body.subarray(0, 8).toString() === '{"items"' ? 'batch' : 'seal';
  return pool.run({ op, body });
}

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    try {
      const body = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      const said = await answer(request.url, request.headers['content-type'], body);
      const out = typeof said === 'string' ? Buffer.from(said) : Buffer.from(said.buffer, said.byteOffset, said.byteLength);
      response.writeHead(200, { 'content-length': out.length });
      response.end(out);
    } catch (error) {
      const text = String(error);
      response.writeHead(500, { 'content-length': Buffer.byteLength(text) });
      response.end(text);
    }
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, '127.0.0.1', () => {
  const versions = ['piscina', '@node-rs/argon2', '@node-rs/bcrypt'].map((name) => `${name} ${version(name)}`);
  console.log(`http://127.0.0.1:${server.address().port} node ${process.version}, OpenSSL ${process.versions.openssl}, ${versions.join(', ')}, ${threads} threads`);
});
