"""Runs the handlers of an app until a signal or a failure: opens, waits, drains, and says with which code to exit."""

from __future__ import annotations

import gc
import logging
import math
import os
import queue
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from worker import plugins, signature, supervised
from worker.capture import Capture
from worker.deadletter import DeadLetters, Fuse
from worker.decode import shape
from worker.dispatch import Dispatch
from worker.errors import ConfigError
from worker.interface import Sink, SinkOptions, Source, SourceOptions
from worker.isolation import isolation
from worker.lane import Shape
from worker.lifespan import lifespan
from worker.loop import Counters, Loop
from worker.options import HandlerOptions
from worker.plugins import connector
from worker.retry import Policy
from worker.supervised import stopping_signals
from worker.threads import EventLoop, Threads

if TYPE_CHECKING:
    from worker.app import App
    from worker.settings import HandlerSettings, Settings

log = logging.getLogger("worker")

GARBAGE = 10_000
"""Objects between two runs of the collector, 700 by default: it ran for every batch, 6 % of the CPU with records of 1 KiB."""
STOP = 2.0
"""Seconds that a stop takes beyond the session of a worker that was killed, whose end its last commits may have to wait for."""
REPORT = 30.0
"""Seconds between two lines of progress, while there is any."""


def make_source(settings: HandlerSettings) -> Source:
    options = settings.options
    source = connector(settings.connection.scheme).source(
        SourceOptions(
            settings.connection,
            settings.streams,
            settings.group,
            batch_size=options.batch_size,
            ordered=bool(options.ordered),
            in_flight=_in_flight(options),
            window=options.window,
            start=options.start,
            commit_interval=options.commit_interval,
        )
    )
    if options.drain >= source.patience:
        raise ConfigError(
            f"handlers.{settings.name}.drain = {options.drain:g}: must be below {source.patience:g} s, "
            f"after which {settings.connection} gives the partitions away"
        )
    if options.max_age is not None and options.max_age_from == "record" and not source.timestamps:
        raise ConfigError(
            f"handlers.{settings.name}.max_age = {options.max_age:g}: records of {settings.connection} may have no timestamp: "
            "max_age_from=arrival counts from when the worker got them"
        )
    if options.dead_letter == "broker" and source.ordered:
        raise ConfigError(
            f"handlers.{settings.name}.dead_letter = broker: {settings.connection} has no dead-letter policy; "
            "name a stream: connection:name"
        )
    return source


def _in_flight(options: HandlerOptions) -> int:
    """What the lane of one queue may hold at once, and a batch that waits behind it."""
    lane = Shape(options.batch_size, parallel=options.parallel, ordered=bool(options.ordered))
    return lane.room + (options.batch_size if lane.ordered else 0)


def make_sink(settings: HandlerSettings) -> Sink | None:
    if not isinstance(settings.dead_letter, tuple):
        return None
    connection, stream = settings.dead_letter
    return connector(connection.scheme).sink(SinkOptions(connection, stream, settings.options.dead_letter_timeout))


class Running:
    """One handler with its source, its sink, its loop and its threads."""

    def __init__(
        self,
        settings: HandlerSettings,
        app: App,
        events: Callable[[], EventLoop],
        wait: float,
        on_closed: Callable[[], None],
        capture: Path | None,
    ) -> None:
        self.settings = settings
        options = settings.options
        wants = shape(settings.function)
        self.source = make_source(settings)
        self.sink = make_sink(settings)
        ordered = self.source.ordered if options.ordered is None else options.ordered
        lanes = Shape(
            options.batch_size,
            options.window,
            options.max_bytes,
            options.parallel,
            ordered,
            positioned=self.source.ordered,
            limit=self.source.limit,
            rejects=options.dead_letter == "broker",
        )
        self.loop = Loop(
            settings.name,
            self.source,
            lanes,
            clock=time.monotonic,
            threads=math.inf if wants.is_async else options.concurrency * options.parallel,
            drain=options.drain,
            wait=wait,
            sink=self.sink,
            pauses=options.on_flood == "probe",
            tell_flooded=lambda flooded: supervised.tell_flooded(settings.name, flooded),
        )
        self.loop.probing = supervised.was_flooded(settings.name)
        self.isolation = isolation(settings, app.target, wants, ordered) if options.isolation == "process" else None
        policy = Policy.of(options.retries, options.dead_letter, options.backoff, options.bisect, ordered)
        dispatch = Dispatch(
            settings.name,
            settings.function,
            wants,
            policy,
            DeadLetters(
                settings.label,
                self.sink,
                discard=options.dead_letter == "discard",
                fuse=Fuse(options.flood),
                broker=options.dead_letter == "broker",
                pauses=options.on_flood == "probe",
                stream=settings.dead_letter[1] if isinstance(settings.dead_letter, tuple) else None,
                timeout=options.dead_letter_timeout,
            ),
            elsewhere=self.isolation,
            capture=None if capture is None else Capture(capture, app.name, settings.name, ordered),
            timeout=options.timeout,
            max_age=options.max_age,
            max_age_from=options.max_age_from,
        )
        self.threads = Threads(
            self.loop,
            dispatch,
            concurrency=options.concurrency * options.parallel,
            events=events() if wants.is_async else None,
            on_closed=on_closed,
        )

    def close(self, *, left_behind: bool) -> None:
        if self.sink is not None and not left_behind:  # it would wait for a publish that a silent broker does not answer
            self.sink.close()
        if self.isolation is not None:
            self.isolation.close()


class Worker:
    """All handlers of one process."""

    def __init__(self, app: App, settings: Settings, wait: float | None = None, capture: Path | None = None) -> None:
        self._app = app
        self._requests: queue.SimpleQueue[Literal["look", "stop", "now"]] = queue.SimpleQueue()
        """What the main thread is to do; a queue whose put a signal handler may call, as an Event's set may not."""
        self._events: EventLoop | None = None
        self.left_behind = False
        """A call has not returned: the interpreter would wait at its end for threads that the handler has started."""
        patience = math.inf if wait is None else wait
        self.handlers = [Running(one, app, self._event_loop, patience, self._look, capture) for one in settings.handlers.values()]

    def _event_loop(self) -> EventLoop:
        if self._events is None:
            self._events = EventLoop()
            self._events.start()
        return self._events

    @property
    def counters(self) -> dict[str, Counters]:
        return {running.settings.name: running.loop.counters for running in self.handlers}

    @property
    def failure(self) -> BaseException | None:
        """Why it stopped by itself: a crash, or of the handlers' failures the first."""
        crashes = [running.threads.crash for running in self.handlers]
        failures = [running.loop.failure for running in self.handlers]
        return next((one for one in [*crashes, *failures] if one is not None), None)

    def lag(self) -> int | None:
        """Records still at the brokers, as far as the clients know."""
        lags = [running.loop.lag for running in self.handlers]
        return None if None in lags else sum(lag for lag in lags if lag is not None)

    def stop(self, *, now: bool = False) -> None:
        """Drains every handler; `now`: does not wait for what is in flight. Any thread may call it, and a signal handler."""
        self._requests.put("now" if now else "stop")

    def _look(self) -> None:
        self._requests.put("look")

    def _stop(self, now: bool) -> None:
        for running in self.handlers:
            running.loop.stop(time.monotonic() + (0.0 if now else running.settings.options.drain))

    def run(self) -> int:
        """Blocks until everything has closed; returns the exit code."""
        with ExitStack() as stack:
            stack.callback(self._end)
            if self._app.lifespan_function is not None:
                stack.enter_context(lifespan(self._app.lifespan_function, lambda: self._event_loop().loop))
            for running in self.handlers:
                self._announce(running.settings)
                running.threads.start()
            self._wait()
        return self._exit_code()

    def _wait(self) -> None:
        reported, before = time.monotonic(), 0
        while not all(running.loop.closed for running in self.handlers):
            with suppress(queue.Empty):
                request = self._requests.get(timeout=1.0)
                if request != "look":
                    self._stop(now=request == "now")
            if any(running.loop.failure or running.threads.crash for running in self.handlers):
                self._stop(now=False)
            if time.monotonic() - reported >= REPORT:
                handled = sum(counters.handled for counters in self.counters.values())
                if handled > before:
                    log.info("%.0f records/s, %d handled, lag %s", (handled - before) / REPORT, handled, self.lag())
                reported, before = time.monotonic(), handled
        for running in self.handlers:
            left_behind = not running.threads.join(1.0)
            if left_behind:
                self.left_behind = True
                log.warning("%s: a call has not returned; left behind, uncommitted", running.settings.name)
            running.close(left_behind=left_behind)

    def _end(self) -> None:
        if self._events is not None:
            self._events.stop()

    def _announce(self, settings: HandlerSettings) -> None:
        for warning in _warnings_of_connections(settings):
            log.warning("%s: %s", settings.name, warning)
        log.info(
            "%s: %s of %s, group %s, dead letters: %s",
            settings.name,
            ", ".join(settings.streams),
            settings.connection,
            settings.group,
            _given_up(settings) or "none",
        )

    def _exit_code(self) -> int:
        code = 0
        for running in self.handlers:
            if running.threads.crash is not None:
                log.error("%s: a bug: %s", running.settings.name, "".join(traceback.format_exception(running.threads.crash)))
                return 1
            if running.loop.failure is not None and code == 0:
                code = running.loop.failure.exit_code
        return code


def run_until_signal(worker: Worker) -> int:
    """Until a signal to stop (a second one does not wait for the drain) or a handler's failure; returns the exit code."""
    signals = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += number != signal.SIGHUP  # of a terminal that closes come several, or one with a SIGTERM: none is in a hurry
        worker.stop(now=signals > 1)

    gc.freeze()  # what was imported stays: records make the collector run, and each time it would look through all that, too
    young, *older = gc.get_threshold()
    if 0 < young < GARBAGE:
        gc.set_threshold(GARBAGE, *older)
    previous = {number: signal.signal(number, stop) for number in stopping_signals()}
    _before.update(previous)
    try:
        return worker.run()
    finally:
        _before.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


_before: dict[signal.Signals, Any] = {}
"""The signal handlers that a process which a handler forks is to have: in ours a SIGTERM would do nothing there."""


def _as_before() -> None:
    for number, handler in _before.items():
        # A terminal's Ctrl-C is the worker's, which drains: what its handlers wait for goes on.
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else handler)


os.register_at_fork(after_in_child=_as_before)


def _given_up(settings: HandlerSettings) -> str | None:
    """Where records go that get no more tries."""
    dead = settings.dead_letter
    return f"{dead[1]} of {dead[0]}" if isinstance(dead, tuple) else dead


def _warnings_of_connections(settings: HandlerSettings) -> list[str]:
    dead = settings.dead_letter
    used = {one.name: one for one in (settings.connection, *(dead[:1] if isinstance(dead, tuple) else ()))}
    return [f"connection {name}: {warning}" for name, one in used.items() for warning in plugins.warnings(one)]


def describe(settings: HandlerSettings, target: str | None) -> dict[str, Any]:
    """What `worker check` says of a handler; raises ConfigError for what only its connector can tell."""
    options = settings.options
    source = make_source(settings)
    make_sink(settings)
    if options.isolation == "process":
        isolation(settings, target, shape(settings.function), True)
    warnings = []
    if shape(settings.function).typed and settings.dead_letter is None:
        warnings.append(
            "an invalid value will stop this handler: set dead_letter= to keep such records, "
            'or dead_letter="discard" to throw them away'
        )
    warnings += [doubt] if (doubt := signature.doubt(settings.function)) else []
    if source.session + STOP > options.drain:
        warnings.append(
            f"a stop may have to wait for the session of a worker that was killed, {source.session:g} s: set drain to "
            f"{source.session + STOP:g} or more (it is {options.drain:g}), and give the process that time to end"
        )
    warnings += _warnings_of_connections(settings)
    if not source.ordered and options.ordered:
        warnings.append("a queue keeps its order within one worker: several need a single active, or exclusive, consumer")
    return {
        "order": "of each partition" if source.ordered else "within one worker" if options.ordered else "none, it is a queue",
        "handler": settings.name,
        "connection": str(settings.connection),
        "streams": list(settings.streams),
        "group": settings.group,
        "membership": source.membership,
        "dead_letter": _given_up(settings),
        "options": {name: str(getattr(options, name)) for name in sorted(options.model_fields_set)},
        "warnings": warnings,
    }
