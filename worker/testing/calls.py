"""One call of a handler as a worker makes it, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from worker.app import App, handlers_of
from worker.errors import ConfigError
from worker.interface import Batch
from worker.options import HandlerOptions
from worker.replay import Replayed, run_here
from worker.signature import name_of
from worker.testing.fake import batch


def call(
    handler: Callable[..., Any], values: Batch | Iterable[bytes | None], *, app: App | None = None, **options: Any
) -> Replayed:
    """Hands the values to a handler as one batch: decoding, tries without their waits, halving, as a worker does all of it.

    >>> ended = call(charge, [b'{"id": 1, "total": 9.5}', b'{"id": 2}'])
    >>> ended.finished
    [0]
    >>> [(bad.id, bad.then) for bad in ended.given_up]
    [(1, 'dead letter')]

    The options are those of the `@app.handler(...)` over the function, and `options` change them; worker.toml and the environment
    are not read. Ids count from 0: the index of each value. A `worker.testing.batch` may have keys. The order is that of a
    partition; `ordered=False` is what a queue does. The lifespan does not run: `running` is for that. `app` is needed only for a
    function that several apps handle.

    Raises `Stopped` where a worker would stop for the handler's fault, as a wrong return is.
    """
    if isinstance(values, bytes | str):
        raise TypeError(f"call({name_of(handler)}, ...) takes a list of values, each as bytes: [b'...']")
    records = values if isinstance(values, Batch) else batch(*values)
    if odd := [value for value in records.values() if not isinstance(value, bytes | None)]:
        raise TypeError(f"a value is bytes, as it comes from the broker, or None, and got a {type(odd[0]).__name__}")
    checked = HandlerOptions(**{**_options(handler, app), **options})
    return run_here(name_of(handler), records, handler, checked, checked.ordered is not False)


def _options(function: Callable[..., Any], app: App | None) -> dict[str, Any]:
    found = [one for one in handlers_of(function) if app is None or app.handlers.get(one.name) is one]
    if app is not None and not found:
        raise ConfigError(f"app {app.name} has no handler {name_of(function)}")
    if any(one.options != found[0].options for one in found):
        raise ConfigError(f"several apps have {name_of(function)} as a handler, with different options: call(..., app=APP)")
    return dict(found[0].options) if found else {}
