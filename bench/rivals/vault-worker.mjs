// What Node's pool does for one request: parse, work, write. Keys are parsed once per worker.
import { createCipheriv, createPrivateKey, constants, randomBytes, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { workerData } from 'node:worker_threads';

const read = (name) => readFileSync(join(workerData.keys, `${name}.v1.pem`), 'utf8');
const aes = Buffer.from(read('aes').split('\n').slice(1, -2).join(''), 'base64');
const rsa = createPrivateKey(read('rsa'));
const ed = createPrivateKey(read('ed'));
const pss = { key: rsa, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };

function seal(plaintext) {
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', aes, nonce);
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

const work = {
  sign({ message }) {
    return { signature: sign('sha256', Buffer.from(message, 'base64'), pss).toString('base64') };
  },
  seal({ plaintext }) {
    return { envelope: seal(Buffer.from(plaintext, 'base64')).toString('base64') };
  },
  batch({ items }) {
    return {
      items: items.map(({ plaintext, sign_key: signer }) => {
        const sealed = seal(Buffer.from(plaintext, 'base64'));
        const whole = signer ? Buffer.concat([sign(null, sealed, ed), sealed]) : sealed;
        return { envelope: whole.toString('base64') };
      }),
    };
  },
};

export default function run({ op, body }) {
  if (op === 'raw') {
    const sealed = seal(body);
    // Concatenation of more than the pool's slab has a buffer of its own: it can be moved.
    return sealed;
  }
  return JSON.stringify(work[op](JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString())));
}
