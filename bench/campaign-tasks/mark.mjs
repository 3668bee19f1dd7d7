// A job that leaves its marks: one line at its start, one in its middle, one at its end.
import { appendFileSync } from "node:fs";

const mark = (what, ctx) =>
  appendFileSync(
    process.env.CAMPAIGN_JOURNAL,
    `${what} ${ctx.job} ${ctx.attempt} ${ctx.lease} ${Date.now()} ${process.pid}\n`,
  );
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export default async function (payload, ctx) {
  mark("start", ctx);
  await pause(payload.ms / 2);
  mark("beat", ctx);
  await pause(payload.ms / 2);
  mark("end", ctx);
  return { lease: ctx.lease };
}
