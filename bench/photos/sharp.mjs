// The peer: npm sharp as its documentation advises for many files: cache off, N in flight.
// node sharp.mjs DIR IN_FLIGHT ROUNDS   (sharp is resolved from the working folder)
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.cwd(), 'package.json'))
const sharp = require('sharp')
const [folder, inFlight = '2', rounds = '5'] = process.argv.slice(2)
sharp.cache(false)
const both = process.env.BOTH === '1'

function files(dir) {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name)
    return statSync(path).isDirectory() ? files(path) : [path]
  })
}

const photos = files(folder).map((path) => readFileSync(path))
const thumb = (input, edge) =>
  sharp(input).rotate().resize({ width: edge, height: edge, fit: 'inside', withoutEnlargement: true })
    .jpeg({ quality: 80 }).toBuffer()

async function round() {
  let next = 0
  let done = 0
  const lane = async () => {
    while (next < photos.length) {
      const input = photos[next++]
      try {
        const large = await thumb(input, 500)
        if (both) await thumb(large, 160)
        done++
      } catch { /* counted by its absence */ }
    }
  }
  const started = performance.now()
  await Promise.all(Array.from({ length: Number(inFlight) }, lane))
  return done / ((performance.now() - started) / 1000)
}

const rates = []
for (let i = 0; i < Number(rounds); i++) rates.push(await round())
rates.sort((a, b) => a - b)
const { sharp: version, vips } = sharp.versions
console.log(`sharp ${version} (libvips ${vips}) in flight ${inFlight}: ${rates[rates.length >> 1].toFixed(1)} files/s`)
