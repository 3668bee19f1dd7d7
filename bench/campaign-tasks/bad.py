# A task that does one kind of harm, `payload["how"]`, and leaves a mark before it.
import ctypes
import os
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
JOURNAL, TOKEN = os.environ["CAMPAIGN_JOURNAL"], os.environ["CAMPAIGN_TOKEN"]
# In the child's group; in a session; nobody's child; nobody's child without an environment.
HIDINGS = ['sh "$@"', 'exec setsid sh "$@"', '(setsid sh "$@" &)', '(env -i setsid sh "$@" &)']
held = []


def forever():
    while True:
        time.sleep(1000)


def spin():
    while True:
        pass


def eat():
    # Up to 600 MiB, so that a limit that does not hold is seen and the machine is not lost.
    for _ in range(75):
        held.append(b"\x01" * (8 << 20))
        time.sleep(0.004)
    forever()


def sleepers(count, ctx):
    words = [HERE + "/sleeper.sh", JOURNAL, ctx.job, str(ctx.attempt), str(ctx.lease), TOKEN]
    for number in range(count):
        how = HIDINGS[number % len(HIDINGS)]
        subprocess.Popen(["sh", "-c", how, "sh", *words], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    forever()


def bomb(depth):
    subprocess.Popen(["sh", HERE + "/bomb.sh", str(depth), TOKEN], start_new_session=True,
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    forever()


def print_out(left):
    chunk = b"spam and eggs\n" * 74_899
    while left > 0:
        left -= os.write(1, chunk[:left])


def handle(payload, ctx):
    with open(JOURNAL, "a") as journal:
        now = int(time.time() * 1000)
        journal.write(f"start {ctx.job} {ctx.attempt} {ctx.lease} {now} {os.getpid()}\n")
    how = payload["how"]
    if how == "spin":
        spin()
    elif how == "eat":
        eat()
    elif how == "sleepers":
        sleepers(payload["count"], ctx)
    elif how == "bomb":
        bomb(payload["depth"])
    elif how == "exit":
        os._exit(3)
    elif how == "crash":
        ctypes.string_at(0)
    elif how == "print":
        print_out(payload["bytes"])
    elif how == "stall":
        forever()
