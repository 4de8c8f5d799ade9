"""A captured batch, handled again without a broker: the same decoding, the same tries without their waits, the same ends."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worker.app import App
from worker.call import Call, Caller
from worker.capture import Captured
from worker.decode import shape
from worker.errors import ConfigError, Expired, Invalid, Reject, Stopped, Stuck
from worker.interface import Batch
from worker.lane import Lane, Shape, Work
from worker.options import HandlerOptions
from worker.retry import WHOLE_TRIES, Policy
from worker.threads import EventLoop
from worker.watch import Watch, stack_of, stack_of_task, too_slow
from worker.work import GivenUp, Outcome

OnError = Callable[[Exception], None]
STOPS = "stops the handler"


@dataclass(frozen=True)
class End:
    """A record that gets no more tries, and what a worker does with it."""

    id: int | str
    error: Exception
    attempts: int
    """Calls that it was in."""
    then: str
    """"dead letter", "discarded", "given up" (retries without dead_letter), "stops the handler" or "tried for ever"."""
    tried: str = ""
    """`3 tries and 2 splits`."""


@dataclass
class Replayed:
    finished: list[int | str] = field(default_factory=list)
    """Ids, in the order they finished in."""
    given_up: list[End] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    """What the function raised or returned, call by call, also where a later call succeeded."""
    calls: int = 0
    left_behind: bool = False
    """A call took too long, and may not have returned yet."""


def replay(file: Path | str, target: App | Callable[..., Any], handler: str | None = None, **options: Any) -> Replayed:
    """Handles the batch in `file` with the handler that it was captured from, or with a function and the options given.

    What the function does, it does. Raises ConfigError for a file or a handler that does not fit, and `Stopped` as a worker
    would.
    """
    captured = Captured.load(Path(file))
    function: Callable[..., Any]
    if isinstance(target, App):
        name = handler or captured.handler
        if name not in target.handlers:
            raise ConfigError(f"app {target.name} has no handler {name}; it has {', '.join(target.handlers) or 'none'}")
        function, options = target.handlers[name].function, {**target.handlers[name].options, **options}
    else:
        function = target
    checked = HandlerOptions(**options)
    return run_here(captured.handler, captured.batch(), function, checked, captured.in_order(checked))


def run_here(name: str, batch: Batch, function: Callable[..., Any], options: HandlerOptions, ordered: bool) -> Replayed:
    """`run` with an event loop of its own."""
    events = EventLoop()
    events.start()
    try:
        return run(name, batch, function, options, ordered, events)
    finally:
        events.stop()


def run(
    name: str,
    batch: Batch,
    function: Callable[..., Any],
    options: HandlerOptions,
    ordered: bool,
    events: EventLoop,
    *,
    elsewhere: Callable[[Batch, dict[int, Exception]], Outcome] | None = None,
    on_error: OnError = lambda error: None,
) -> Replayed:
    """An async handler runs on `events`; `on_error` is called with what the function raised or returned."""
    wants = shape(function)
    policy = Policy.of(options.retries, options.dead_letter, options.backoff, options.bisect, ordered)
    for_ever = policy.tries == math.inf
    if for_ever:
        policy = replace(policy, tries=WHOLE_TRIES)
    caller = Caller(name, function, wants, ordered)
    lane = Lane(batch.partition, Shape(max(1, len(batch)), 0.0, max(1, batch.size()), 1, ordered, positioned=False))
    lane.flush = True
    lane.waiting.add(batch, 0.0)
    made = Replayed()
    while works := list(lane.start(math.inf)):
        for work in works:
            made.calls += 1
            try:
                if elsewhere is not None:
                    outcome = elsewhere(work.batch, {})
                elif wants.is_async:
                    outcome = _asynchronous(caller, work, options.timeout, events)
                else:
                    outcome = _synchronous(caller, work, options.timeout)
            except TimeoutError as late:  # the function's own is in its outcome
                outcome = Outcome(whole=late)
                made.left_behind = True
            for error in (outcome.whole, *outcome.failed.values()):
                if error is not None:
                    made.errors.append(error)
                    on_error(error)
            verdict = policy.decide(work, outcome)
            made.finished += [work.batch.record(index).id for index in verdict.finished]
            made.given_up += [_end(work.batch, one, options, for_ever) for one in verdict.given_up]
            if any(end.then == STOPS for end in made.given_up):
                return made
            lane.settle(work, verdict, 0.0)
    return made


def _asynchronous(caller: Caller, work: Work, timeout: float | None, events: EventLoop) -> Outcome:
    call = Call(caller.shape, work.batch, {})
    ended = asyncio.run_coroutine_threadsafe(_awaited(caller, work, call, timeout), events.loop)
    if timeout is None:
        return ended.result()
    wait({ended}, timeout * 2)  # it ends itself, unless its loop is stuck: as the worker, after twice the time
    if not ended.done():
        Watch(timeout).report(caller.name, work, stack_of(sys._current_frames().get(events.thread.ident or 0)))
        raise Stuck(f"handler {caller.name} blocks the event loop, where a worker stops: {too_slow(timeout)}")
    return ended.result()


async def _awaited(caller: Caller, work: Work, call: Call, timeout: float | None) -> Outcome:
    task = asyncio.ensure_future(caller.asynchronous(call))
    done, _ = await asyncio.wait({task}, timeout=timeout)
    if done:
        return task.result()
    assert timeout is not None
    Watch(timeout).report(caller.name, work, stack_of_task(task))
    task.cancel()  # and not waited for: it may swallow that
    raise too_slow(timeout)


def _synchronous(caller: Caller, work: Work, timeout: float | None) -> Outcome:
    if timeout is None:
        return caller(work.batch, {})
    ended: Future[Outcome] = Future()

    def call() -> None:
        try:
            ended.set_result(caller(work.batch, {}))
        except BaseException as error:
            ended.set_exception(error)

    thread = threading.Thread(target=call, name="worker-replay", daemon=True)
    thread.start()
    thread.join(timeout)
    if not ended.done():
        Watch(timeout).report(caller.name, work, stack_of(sys._current_frames().get(thread.ident or 0)))
        raise too_slow(timeout)
    return ended.result()


def _end(batch: Batch, one: GivenUp, options: HandlerOptions, for_ever: bool) -> End:
    if options.dead_letter is not None:
        then = "discarded" if options.dead_letter == "discard" else "dead letter"
    elif not for_ever:  # a worker would ask for a dead_letter
        then = "given up"
    else:
        then = STOPS if isinstance(one.error, Invalid | Reject | Stopped | Expired) else "tried for ever"
    return End(batch.record(one.index).id, one.error, one.attempts, then, one.tried)
