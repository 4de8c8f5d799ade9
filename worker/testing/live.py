"""An app that runs in a thread of the test, against an embedded Kafka or a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from worker import settings
from worker.app import App
from worker.errors import Stopped
from worker.loop import Counters
from worker.run import Worker

PAUSE = 0.005


class Running:
    """What a test sees of an app that `running` runs."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="worker-running", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, Counters]:
        """Of each handler by name: `handled`, `retried`, `dead_lettered`, `discarded`, ..."""
        return self._worker.counters

    def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Returns as soon as `condition()` is true.

        Raises what stopped the app, if something did before, and after `timeout` seconds TimeoutError, which says how far it got.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if not self._thread.is_alive():
                self._raise()
                raise RuntimeError("the app has stopped, and the condition is not true")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true after {timeout:g} s: {self._progress()}")
            time.sleep(PAUSE)

    def stop(self) -> None:
        """As SIGTERM does: what is in flight ends and is committed. The end of the `with` block does it, too."""
        self._worker.stop()
        self._thread.join()
        self._raise()

    def abandon(self) -> None:
        """Stops it, whatever becomes of that: the test has failed already."""
        self._worker.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            code = self._worker.run()
            if code:
                self._failure = self._worker.failure or Stopped(f"the app stopped with exit code {code}")
            elif self._worker.left_behind:
                self._failure = Stopped("a call of a handler did not return within its drain: what it handled is not committed")
        except BaseException as error:
            self._failure = error

    def _raise(self) -> None:
        """Once: who has caught it in the block is not told again at its end."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _progress(self) -> str:
        return "; ".join(
            f"{name}: {one.received} records received, {one.handled} handled, {one.retried} tried again, "
            f"{one.dead_lettered} dead letters, {one.discarded} discarded"
            for name, one in self.counters.items()
        )


@contextmanager
def running(app: App, changes: Mapping[str, object] | None = None) -> Iterator[Running]:
    """Runs all handlers of `app` and its lifespan until the end of the block, then stops as at SIGTERM; raises what made it fail.

    >>> kafka = EmbeddedKafka()
    >>> orders = kafka.topic("orders")
    >>> with running(app, {"connections.kafka": kafka.url, "handlers.charge.streams": f"kafka:{orders}"}) as worker:
    ...     kafka.produce(orders, [b'{"id": 1, "total": 9.5}'])
    ...     worker.until(lambda: worker.counters["charge"].handled == 1)

    `changes` are settings as `--set` takes them; worker.toml and the environment are not read. Raises ConfigError.
    """
    flags = [f"{path}={value}" for path, value in (changes or {}).items()]
    run = Running(Worker(app, settings.load(app, environ={}, flags=flags)))
    try:
        yield run
    except BaseException:
        run.abandon()
        raise
    run.stop()
