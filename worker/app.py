"""The app: connections by name, handlers by decoration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from worker.errors import ConfigError
from worker.lifespan import check_lifespan
from worker.retry import Backoff
from worker.signature import name_of

Function = TypeVar("Function", bound=Callable[..., Any])
Lifespan = TypeVar("Lifespan", bound=Callable[[], Iterator[None] | AsyncIterator[None]])


@dataclass(frozen=True)
class Handler:
    """A function and what the code says of it: only the options that were given."""

    name: str
    function: Callable[..., Any]
    streams: tuple[str, ...]
    options: Mapping[str, Any]


class App:
    """A name, connections, and handlers.

    >>> app = App("billing", connections={"kafka": "kafka://localhost:9092"})
    >>> @app.handler("kafka:orders", batch_size=500, dead_letter="kafka:orders.dead")
    ... def charge(orders: list[bytes]) -> None: ...

    `connections` maps a name to a URL, or to a mapping with `url` and anything the client library can be told. The
    environment may say otherwise: WORKER_CONNECTIONS__KAFKA=kafka://broker:9092.
    """

    def __init__(self, name: str, connections: Mapping[str, str | Mapping[str, Any]] | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"an app needs a name, as text, and got {name!r}: App('billing')")
        if not isinstance(connections, Mapping | None):
            raise ConfigError(
                f"app {name}: connections is a {type(connections).__name__}: "
                "write a mapping of names to URLs, {'kafka': 'kafka://host:9092'}"
            )
        self.name = name
        self.connections = dict(connections or {})
        self.handlers: dict[str, Handler] = {}
        self.undecorated: list[str] = []
        """`@app.handler(...)` lines that no function followed."""
        self.lifespan_function: Callable[[], Any] | None = None
        self.target: str | None = None
        """MODULE:APP, where another process finds it; set by the command."""

    def handler(
        self,
        *streams: str,
        batch_size: int | None = None,
        window: float | None = None,
        max_bytes: int | None = None,
        retries: int | None = None,
        backoff: float | Backoff | None = None,
        dead_letter: str | None = None,
        dead_letter_timeout: float | None = None,
        flood: float | None = None,
        on_flood: Literal["stop", "probe"] | None = None,
        max_age: float | None = None,
        max_age_from: Literal["record", "arrival"] | None = None,
        timeout: float | None = None,
        isolation: Literal["thread", "process"] | None = None,
        bisect: bool | None = None,
        parallel: int | None = None,
        concurrency: int | None = None,
        ordered: bool | None = None,
        group: str | None = None,
        start: Literal["earliest", "latest"] | datetime | None = None,
        drain: float | None = None,
        commit_interval: float | None = None,
    ) -> Callable[[Function], Function]:
        """Registers the function under its own name and returns it unchanged.

        A stream is `connection:name`, split at the first colon; several must be of one connection. None: the default,
        or what `worker.toml`, the environment or a flag says. The options are those of `worker.options.HandlerOptions`.
        Raises ConfigError.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "streams") and value is not None}
        _check_streams(streams)
        line = f"@app.handler({', '.join(repr(stream.partition('//')[0]) for stream in streams)})"
        self.undecorated.append(line)

        def register(function: Function) -> Function:
            name = name_of(function)
            if name in self.handlers:
                raise ConfigError(f"two handlers are called {name}: rename one, as the name is in its group and its settings")
            if not streams:
                raise ConfigError(f"handler {name} has no stream: @app.handler('connection:name')")
            if line in self.undecorated:
                self.undecorated.remove(line)
            self.handlers[name] = Handler(name, function, streams, given)
            return function

        return register

    def lifespan(self, function: Lifespan) -> Lifespan:
        """A generator, sync or async, with one yield: what is before runs before the first batch, the rest after the drain.

        `@asynccontextmanager` or `@contextmanager` over it changes nothing. The async one runs on the event loop of the async
        handlers. Raises ConfigError if there is one already, or for a function that is none.
        """
        if self.lifespan_function is not None:
            raise ConfigError(f"app {self.name} has a lifespan already")
        check_lifespan(function)
        self.lifespan_function = function
        return function


def _check_streams(streams: Sequence[Any]) -> None:
    odd = [stream for stream in streams if not isinstance(stream, str)]
    if not odd:
        return
    wrong = odd[0]
    if callable(wrong):
        raise ConfigError(f"handler {name_of(wrong)} has no stream: @app.handler needs one, @app.handler('connection:name')")
    if isinstance(wrong, list | tuple | set | frozenset):
        several = ", ".join(repr(str(one)) for one in wrong)
        raise ConfigError(f"streams are texts, one after the other: @app.handler({several})")
    raise ConfigError(f"a stream is a text, and {wrong!r} is a {type(wrong).__name__}: @app.handler('connection:name')")
