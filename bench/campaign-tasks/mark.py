# A job that leaves its marks: one line at its start, one at its end.
import os
import time


def mark(what, ctx):
    now = int(time.time() * 1000)
    line = f"{what} {ctx.job} {ctx.attempt} {ctx.lease} {now} {os.getpid()}\n"
    with open(os.environ["CAMPAIGN_JOURNAL"], "a", buffering=-1) as journal:
        journal.write(line)


def handle(payload, ctx):
    mark("start", ctx)
    time.sleep(payload["ms"] / 1000)
    mark("end", ctx)
    return {"lease": ctx.lease}
