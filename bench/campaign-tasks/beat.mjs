// A job that shows that it lives: a mark every hundredth of a second, until its time is over.
import { appendFileSync } from "node:fs";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export default async function (payload, ctx) {
  const mark = (what) =>
    appendFileSync(
      process.env.CAMPAIGN_JOURNAL,
      `${what} ${ctx.job} ${ctx.attempt} ${ctx.lease} ${Date.now()} ${process.pid}\n`,
    );
  mark("start");
  for (const until = Date.now() + payload.ms; Date.now() < until; ) {
    mark("beat");
    await pause(10);
  }
  mark("end");
  return { lease: ctx.lease };
}
