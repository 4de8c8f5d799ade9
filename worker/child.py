"""The process that calls a handler for another one: `python -m worker.child FD`."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack

from worker import logs
from worker.call import Caller
from worker.decode import shape
from worker.errors import ConfigError, Stopped
from worker.isolation import ALL_FINE, Plan, Reply, Request, packed
from worker.lifespan import lifespan
from worker.loading import fail, load_app
from worker.pipe import Pipe
from worker.plain import PlainBatch
from worker.threads import EventLoop

PATIENCE = 30.0
"""Seconds that a call and the lifespan's end may take when nobody waits for them."""


def main() -> None:
    """Ends when the other end of the pipe is closed."""
    faulthandler.register(signal.SIGUSR1, chain=True)
    pipe = Pipe(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(pipe.fileno(), False)  # a program that the handler starts must not keep it open
    follow(pipe.fileno())
    plan: Plan = pickle.loads(pipe.receive())
    logs.configure(**plan.logs)
    try:
        app = load_app(plan.target)
    except ConfigError as error:
        fail(error)
    function = app.handlers[plan.handler].function
    caller = Caller(plan.handler, function, shape(function), plan.ordered)
    with ExitStack() as stack:
        if app.lifespan_function is not None:
            stack.enter_context(lifespan(app.lifespan_function, events))
        pipe.send(b"ready")
        while True:
            try:
                request = pickle.loads(pipe.receive())
            except ConnectionError:
                return
            reply = contextvars.copy_context().run(answer, caller, request)
            try:
                pipe.send(b"" if reply == ALL_FINE else pickle.dumps(reply, 5))
            except OSError:  # nobody waits for it any more
                return


def events() -> asyncio.AbstractEventLoop:
    made = EventLoop()
    made.start()
    return made.loop


def follow(pipe: int) -> None:
    """A call that hangs does not outlive the worker for long, however that ended."""

    def wait() -> None:
        poller = select.poll()
        poller.register(pipe, 0)  # only that the other end is closed
        poller.poll()
        time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=wait, name="follow-worker", daemon=True).start()


def answer(caller: Caller, request: Request) -> Reply:
    batch = PlainBatch(request.partition, request.columns, request.attempt)
    ends = PlainBatch(request.partition, [(None, None, (), None, number, {}) for number in request.ends])
    logs.running.set((caller.name, ends))
    try:
        return Reply(packed(caller(batch, request.expired)))
    except Stopped as error:
        return Reply(None, str(error))


if __name__ == "__main__":
    main()
