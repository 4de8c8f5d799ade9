"""What a process that is supervised says to its supervisor and hears from it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

from worker.errors import ConfigError

REASON_FD, PARENT_FD, FLOODED = "WORKER_SUPERVISOR_FD", "WORKER_PARENT_FD", "WORKER_FLOODED"
INDEX, SET = "WORKER_PROCESS_INDEX", "WORKER_SET"
OURS = (REASON_FD, PARENT_FD, FLOODED, INDEX, SET)
"""Variables by which a supervisor talks to its processes."""


_pipes: dict[str, int] = {}
"""To and from the supervisor, if there is one."""


def adopted() -> None:
    """Takes what the supervisor left in the environment, where what a handler starts would find it."""
    for name in (PARENT_FD, REASON_FD):
        if (told := os.environ.pop(name, None)) is not None:
            try:
                os.set_inheritable(int(told), False)
                _pipes[name] = int(told)
            except (OSError, ValueError):
                raise ConfigError(
                    f"the environment variable {name} is the worker's own, and names no open file: unset it"
                ) from None


def stopping_signals() -> list[signal.Signals]:
    """What drains; not SIGHUP where somebody asked for it to be ignored, as nohup does."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def tell_supervisor() -> None:
    """This process ends for a reason, with exit code 1, and is not to be started again."""
    if REASON_FD in _pipes:
        os.write(_pipes[REASON_FD], b"stopped\n")


def tell_flooded(handler: str, flooded: bool) -> None:
    """If this process crashes, the next one is to know of it: not every broker can keep that."""
    if REASON_FD in _pipes:
        with suppress(OSError):
            os.write(_pipes[REASON_FD], f"{'flooded' if flooded else 'trusted'} {handler}\n".encode())


def was_flooded(handler: str) -> bool:
    return handler in os.environ.get(FLOODED, "").split()


def follow_parent() -> None:
    """Drains when the supervisor is gone, however it went: its end of the pipe closes with it."""
    if PARENT_FD not in _pipes:
        return

    def wait() -> None:
        os.read(_pipes[PARENT_FD], 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="follow-parent", daemon=True).start()


def how_it_ended(code: int) -> str:
    """Of a process, by its return code."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}"
