"""What a process that is supervised says to its supervisor and hears from it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

REASON_FD, PARENT_FD, FLOODED = "WORKER_SUPERVISOR_FD", "WORKER_PARENT_FD", "WORKER_FLOODED"


def tell_supervisor() -> None:
    """This process ends for a reason, with exit code 1, and is not to be started again."""
    if REASON_FD in os.environ:
        os.write(int(os.environ[REASON_FD]), b"stopped\n")


def tell_flooded(handler: str, flooded: bool) -> None:
    """If this process crashes, the next one is to know of it: not every broker can keep that."""
    if REASON_FD in os.environ:
        with suppress(OSError):
            os.write(int(os.environ[REASON_FD]), f"{'flooded' if flooded else 'trusted'} {handler}\n".encode())


def was_flooded(handler: str) -> bool:
    return handler in os.environ.get(FLOODED, "").split()


def follow_parent() -> None:
    """Drains when the supervisor is gone, however it went: its end of the pipe closes with it."""
    if PARENT_FD not in os.environ:
        return
    parent = int(os.environ[PARENT_FD])
    for pipe in (parent, int(os.environ[REASON_FD])):
        os.set_inheritable(pipe, False)  # a program that a handler starts has no business with them

    def wait() -> None:
        os.read(parent, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="follow-parent", daemon=True).start()


def stopping_signals() -> list[signal.Signals]:
    """SIGHUP as well, the end of a terminal, but not for who is to outlive it (nohup)."""
    hup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hup]


def how_it_ended(code: int) -> str:
    """Of a process, by its return code."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}"
