"""offloop's harness for Python: calls `handle(payload, ctx)` of the task's file for each job.

`handle` may be a plain function or a coroutine. ctx: job, lease, attempt, task, cancelled (a
threading.Event), progress(note), log(...). Raise ctx.Invalid for a payload that no retry can help.

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
MESSAGE_CHARS_MAX = 4000

channel = socket.socket(fileno=int(os.environ.pop("OFFLOOP_FD")))
write_lock = threading.Lock()
jobs = queue.SimpleQueue()
running = None  # the context of the job that runs


def send(header, data=None):
    body = json.dumps(header).encode()
    if data is not None:
        body += b"\n" + data
    with write_lock:
        channel.sendall(struct.pack("<I", len(body)) + body)


class Invalid(Exception):
    """The payload is wrong and will stay wrong."""


class Context:
    Invalid = Invalid

    def __init__(self, header):
        self.job = header["job"]
        self.lease = header["lease"]
        self.attempt = header["attempt"]
        self.task = header["task"]
        self.remaining_ms = header["remaining_ms"]
        self.trace = header.get("trace")
        self.cancelled = threading.Event()

    def progress(self, note):
        text = json.dumps(note).encode()
        if len(text) > PROGRESS_BYTES_MAX:
            raise ValueError(f"a progress note has more than {PROGRESS_BYTES_MAX} bytes")
        if running is self:
            send({"type": "progress", "lease": self.lease}, text)

    def log(self, *parts):
        print(*parts, flush=True)


def read_exactly(count):
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 16))
        if not part:
            os._exit(0)  # the server is gone: nothing that is computed here can be answered
        parts += part
    return bytes(parts)


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
                current.cancelled.set()
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
            value = asyncio.run(resolve(value))
        if value is not None:
            text = json.dumps(value, allow_nan=False).encode()
            if len(text) > RESULT_BYTES_MAX:
                raise ValueError(f"the result has {len(text)} bytes; the limit is {RESULT_BYTES_MAX}")
    except Invalid as error:
        text = None
        answer = {"type": "error", "lease": lease, "class": "invalid", "message": str(error)}
    except Exception:
        text = None
        message = traceback.format_exc()[-MESSAGE_CHARS_MAX:]
        answer = {"type": "error", "lease": lease, "message": message}
    running = None
    sys.stdout.flush()
    sys.stderr.flush()
    send(answer, text)


async def resolve(awaitable):
    return await awaitable


def load(file):
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(file))
    spec = importlib.util.spec_from_file_location("offloop_task", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["offloop_task"] = module
    spec.loader.exec_module(module)
    handle = getattr(module, "handle", None)
    if not callable(handle):
        raise TypeError(f"{file} has no function `handle(payload, ctx)`")
    return handle


handler = load(os.path.abspath(sys.argv[1]))
threading.Thread(target=listen, daemon=True).start()
send({"type": "ready", "protocol": 1})
while True:
    call(handler, *jobs.get())
