"""offloop's harness for Python: calls `handle(payload, ctx)` of the task's file for each job.

`handle` may be a plain function or a coroutine, and may leave `ctx` out. `FILE#name` calls the
function of that name. ctx: job, lease, attempt, task, cancelled (a threading.Event; a coroutine is
cancelled as well), progress(note), log(...), recycle(); resumed (what an earlier attempt left),
checkpoint(value) (leaves it for the next one, on disk when it returns; in a coroutine `await
ctx.checkpoint_async(value)`), partial(value) (for who listens now). Raise ctx.Invalid for a payload
that no retry can help, ctx.snooze(ms) to be run again later.

Standard library only. The protocol is docs/guides/process-protocol.md.
"""
import asyncio
import importlib.util
import inspect
import json
import os
import queue
import socket
import struct
import sys
import threading
import traceback

RESULT_BYTES_MAX = 1 << 20
PROGRESS_BYTES_MAX = 4 << 10
CHECKPOINT_BYTES_MAX = 64 << 10
PARTIAL_BYTES_MAX = 16 << 10
SNOOZE_MS_MIN = 1000
SNOOZE_MS_MAX = 30 * 24 * 3600 * 1000
MESSAGE_CHARS_MAX = 4000

channel = socket.socket(fileno=int(os.environ.pop("OFFLOOP_FD")))
write_lock = threading.Lock()
jobs = queue.SimpleQueue()
running = None  # the context of the job that runs
unanswered = {}  # checkpoints by number: an event and what was said
checkpoints = 0


def send(header, data=None):
    body = json.dumps(header).encode()
    if data is not None:
        body += b"\n" + data
    with write_lock:
        channel.sendall(struct.pack("<I", len(body)) + body)


class Invalid(Exception):
    """The payload is wrong and will stay wrong."""


class OutputLimit(ValueError):
    """The result is too large."""


class Snooze(BaseException):
    """Run it again later. No Exception, so that `except Exception` does not swallow it."""

    def __init__(self, ms):
        super().__init__(f"asked to be run again in {ms} ms")
        self.ms = ms


def json_of(value, what, most):
    text = json.dumps(value, allow_nan=False).encode()
    if len(text) > most:
        raise ValueError(f"{what} has more than {most} bytes")
    return text


class Context:
    Invalid = Invalid
    coroutine = None  # its loop and task, while one runs

    def __init__(self, header):
        self.job = header["job"]
        self.lease = header["lease"]
        self.attempt = header["attempt"]
        self.task = header["task"]
        self.remaining_ms = header["remaining_ms"]
        self.trace = header.get("trace")
        self.inputs = header.get("inputs") or []
        self.resumed = header.get("checkpoint")
        self.cancelled = threading.Event()

    def progress(self, note):
        text = json_of(note, "a progress note", PROGRESS_BYTES_MAX)
        if running is self:
            send({"type": "progress", "lease": self.lease}, text)

    def checkpoint(self, value):
        global checkpoints
        text = json_of(value, "a checkpoint", CHECKPOINT_BYTES_MAX)
        done, said = threading.Event(), {}
        with write_lock:
            checkpoints += 1
            number = checkpoints
            unanswered[number] = (done, said)
        send({"type": "checkpoint", "lease": self.lease, "number": number}, text)
        done.wait()
        if not said["kept"]:
            raise RuntimeError(said["message"])

    async def checkpoint_async(self, value):
        await asyncio.to_thread(self.checkpoint, value)

    def partial(self, value):
        text = json_of(value, "a partial result", PARTIAL_BYTES_MAX)
        if running is self:
            send({"type": "partial", "lease": self.lease}, text)

    def snooze(self, ms):
        if not SNOOZE_MS_MIN <= ms <= SNOOZE_MS_MAX:
            raise ValueError(f"snooze({ms}): give {SNOOZE_MS_MIN} to {SNOOZE_MS_MAX} ms (30 days)")
        return Snooze(round(ms))

    def log(self, *parts):
        print(*parts, flush=True)

    def recycle(self):
        send({"type": "recycle"})

    def cancel(self):
        self.cancelled.set()
        if self.coroutine is not None:
            loop, task = self.coroutine
            loop.call_soon_threadsafe(task.cancel)


def read_exactly(count):
    whole = bytearray(count)
    room = memoryview(whole)
    while room:
        got = channel.recv_into(room)
        if got == 0:
            leave(0)  # the server is gone, or has replaced this child
        room = room[got:]
    return bytes(whole)


def leave(code):
    """Ends the process now, whatever threads the task has left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)


def listen():
    while True:
        (length,) = struct.unpack("<I", read_exactly(4))
        head, _, data = read_exactly(length).partition(b"\n")
        header = json.loads(head)
        kind = header["type"]
        if kind == "run":
            jobs.put((header, data))
        elif kind == "cancel":
            current = running
            if current is not None and current.lease == header["lease"]:
                current.cancel()
        elif kind == "checkpoint_ack":
            done, said = unanswered.pop(header["number"], (None, None))
            if done is not None:
                said.update(header)
                done.set()
        elif kind == "ping":
            send({"type": "pong"})


def call(handle, header, data):
    global running
    lease = header["lease"]
    running = ctx = Context(header)
    answer = {"type": "result", "lease": lease}
    text = None
    try:
        value = handle(json.loads(data) if data else None, ctx)
        if inspect.isawaitable(value):
            value = asyncio.run(resolve(value, ctx))
        if isinstance(value, Snooze):
            raise value
        if value is not None:
            text = json.dumps(value, allow_nan=False).encode()
            if len(text) > RESULT_BYTES_MAX:
                raise OutputLimit(
                    f"the result has {len(text)} bytes; its limit is {RESULT_BYTES_MAX} bytes of output"
                )
    except (Invalid, OutputLimit) as error:
        text = None
        kind = "invalid" if isinstance(error, Invalid) else "output_limit"
        answer = {"type": "error", "lease": lease, "class": kind, "message": str(error)}
    except Snooze as wish:
        text = None
        answer = {"type": "snooze", "lease": lease, "after_ms": wish.ms}
    except SystemExit as wish:
        code = wish.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        leave(code if isinstance(code, int) else 0 if code is None else 1)
    except BaseException:  # a KeyboardInterrupt or a CancelledError is the job's, too
        text = None
        message = traceback.format_exc()[-MESSAGE_CHARS_MAX:]
        answer = {"type": "error", "lease": lease, "message": message}
    running = None
    sys.stdout.flush()
    sys.stderr.flush()
    send(answer, text)


async def resolve(awaitable, ctx):
    ctx.coroutine = (asyncio.get_running_loop(), asyncio.current_task())
    try:
        if ctx.cancelled.is_set():
            raise asyncio.CancelledError
        return await awaitable
    finally:
        ctx.coroutine = None


def load(word):
    file, cut, name = word.rpartition("#")
    if not cut or os.path.exists(word):  # a file's name may hold a `#` itself
        file, name = word, "handle"
    file = os.path.abspath(file)
    sys.argv = [file, *sys.argv[2:]]
    sys.path.insert(0, os.path.dirname(file))
    spec = importlib.util.spec_from_file_location("offloop_task", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["offloop_task"] = module
    spec.loader.exec_module(module)
    handle = getattr(module, name, None)
    if not callable(handle):
        raise TypeError(f"{file} has no function `{name}(payload, ctx)`")
    if takes_context(handle):
        return handle
    return lambda payload, ctx: handle(payload)


def takes_context(handle):
    try:
        inspect.signature(handle).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin may have no signature
        return False
    return True


task_file = sys.argv[1]
try:
    handler = load(task_file)
except SystemExit as wish:
    print(f"cannot load {task_file}: it called sys.exit({wish.code!r})", file=sys.stderr)
    leave(1)
except BaseException:
    print(f"cannot load {task_file}: {traceback.format_exc(limit=-3)}", file=sys.stderr)
    leave(1)
threading.Thread(target=listen, daemon=True).start()
send({"type": "ready", "protocol": 1})
while True:
    call(handler, *jobs.get())
