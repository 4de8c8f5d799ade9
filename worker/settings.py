"""Code, worker.toml, environment and flags into one checked value, before anything opens.

code < worker.toml < WORKER_HANDLERS__CHARGE__BATCH_SIZE=500 < --set handlers.charge.batch_size=500
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import ValidationError

from worker import plugins
from worker.app import App
from worker.errors import ConfigError
from worker.interface import Connection
from worker.options import HandlerOptions
from worker.supervised import OURS

PREFIX = "WORKER_"
SECTIONS = ("connections", "handlers")
SECRET = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|private|\.key|_key|\.pem|_pem|jaas|oauthbearer.config", re.IGNORECASE
)
KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT)\w*|PORT(_\d+_\w+)?)$")
"""What Kubernetes sets for a service called worker."""

URL_AS_STREAM = "a stream is written connection:name: the URL goes to App(connections={'kafka': URL}), the stream is kafka:name"

log = logging.getLogger("worker")


class Given(NamedTuple):
    """A value, and where it came from."""

    value: Any
    origin: str


Layered = dict[str, dict[str, Given]]
"""By handler or connection, then by option."""


@dataclass(frozen=True)
class HandlerSettings:
    """Everything that is said about one handler, checked."""

    name: str
    function: Callable[..., Any]
    connection: Connection
    streams: tuple[str, ...]
    options: HandlerOptions
    group: str
    label: str
    """APP.FUNCTION: who writes a dead letter, and the group if none is named."""
    dead_letter: tuple[Connection, str] | Literal["broker", "discard"] | None


@dataclass(frozen=True)
class Settings:
    app: str
    connections: dict[str, Connection]
    handlers: dict[str, HandlerSettings]


@dataclass
class Complaints:
    """Collected, so that one run names them all."""

    lines: list[str] = field(default_factory=list)

    def add(self, path: str, given: Given | None, why: str) -> None:
        shown = "" if given is None else " = ***" if SECRET.search(path) else f" = {_masked(given.value)}"
        origin = "" if given is None else f" (from {given.origin})"
        self.lines.append(_one_line(f"{path if given is None else _path(path)}{shown}{origin}: {why}"))


def load(
    app: App,
    *,
    file: Path | None = None,
    environ: Mapping[str, str],
    flags: Sequence[str] = (),
    only: Collection[str] = (),
) -> Settings:
    """All layers, merged and checked; `only`: the handlers to run (none named: all of them).

    Raises ConfigError with a line for each complaint: the option, its value, where it came from, and what is allowed.
    """
    complaints = Complaints()
    given: dict[str, Layered] = {"connections": _connections_in_code(app), "handlers": _handlers_in_code(app)}
    _name_unknown_variables(environ, complaints)
    for path, value in _layers(given, file, environ, flags):
        _merge(given, path, value, app, complaints)
    connections = {name: _connection(name, options, complaints) for name, options in given["connections"].items()}
    handlers = {}
    for name in app.handlers:
        if only and name not in only:
            continue
        handlers[name] = _handler(app, name, given["handlers"][name], connections, complaints)
    _name_those_that_share([handler for handler in handlers.values() if handler], complaints)
    for name in only:
        if name not in app.handlers:
            complaints.add(
                "--handler", Given(name, "flags"), f"app {app.name} has {_either(app.handlers)}{_near(name, app.handlers)}"
            )
    for line in app.undecorated:
        complaints.add(f"app {app.name}", None, f"{line} decorates no function: what was to follow it is no handler")
    if not app.handlers:
        complaints.add(f"app {app.name}", None, "it has no handler: decorate a function with @app.handler('connection:stream')")
    if complaints.lines:
        raise ConfigError("\n".join(complaints.lines))
    return Settings(
        app.name,
        {name: connection for name, connection in connections.items() if connection},
        {name: handler for name, handler in handlers.items() if handler},
    )


def load_stream(
    stream: str, app: App | None, *, file: Path | None = None, environ: Mapping[str, str], flags: Sequence[str] = ()
) -> tuple[Connection, str]:
    """One stream and its connection, which an app may have or not; what is said of handlers is not looked at."""
    complaints = Complaints()
    app = app or App("none")
    given: dict[str, Layered] = {"connections": _connections_in_code(app), "handlers": {}}
    _name_unknown_variables(environ, complaints)
    for path, value in _layers(given, file, environ, flags):
        if path[0] != "handlers":
            _merge(given, path, value, app, complaints)
    named = Given(stream, "the command line")
    wanted = stream.partition(":")[0]
    connections = {name: _connection(name, told, complaints) for name, told in given["connections"].items() if name == wanted}
    found = _source("stream", named, connections or dict.fromkeys(given["connections"]), complaints)
    if found is not None and len(found[1]) > 1:
        complaints.add("stream", named, "name one stream")
    if complaints.lines or found is None:
        raise ConfigError("\n".join(complaints.lines))
    return found[0], found[1][0]


# The layers


def _layers(
    given: Mapping[str, Layered], file: Path | None, environ: Mapping[str, str], flags: Sequence[str]
) -> Iterator[tuple[list[str], Given]]:
    """What is said outside of the code, the later the stronger."""
    yield from _from_file(file)
    yield from _from_environment(environ, given)
    yield from _from_flags(flags)


def _connections_in_code(app: App) -> Layered:
    layered: Layered = {}
    for name, value in app.connections.items():
        options = value if isinstance(value, Mapping) else {"url": value}
        layered[str(name)] = {str(option): Given(told, "code") for option, told in options.items()}
    return layered


def _handlers_in_code(app: App) -> Layered:
    return {
        handler.name: {
            "streams": Given(list(handler.streams), "code"),
            **{option: Given(value, "code") for option, value in handler.options.items()},
        }
        for handler in app.handlers.values()
    }


def _from_file(file: Path | None) -> Iterator[tuple[list[str], Given]]:
    if file is None:
        return
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8-sig"))  # TOML is UTF-8, whatever the locale says
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    for section, names in content.items():
        if not isinstance(names, dict):
            yield [section], Given(names, str(file))
            continue
        for name, told in names.items():
            if isinstance(told, dict):
                for option, value in _flat(told):
                    yield [section, name, option], Given(value, str(file))
            else:
                yield [section, name], Given(told, str(file))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads `sasl.password = "x"` as a table in a table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Layered]) -> Iterator[tuple[list[str], Given]]:
    for variable, value in environ.items():
        parts = variable.removeprefix(PREFIX).lower().split("__")
        if not variable.startswith(PREFIX) or parts[0] not in SECTIONS or len(parts) < 2:
            continue
        names = {name.lower(): name for name in known[parts[0]]}
        yield [parts[0], names.get(parts[1], parts[1]), *parts[2:]], Given(value, f"environment {variable}")


def _from_flags(flags: Sequence[str]) -> Iterator[tuple[list[str], Given]]:
    for flag in flags:
        path, equals, value = flag.partition("=")
        if not equals:
            raise ConfigError(f"--set {_path(path)}: write --set handlers.NAME.OPTION=VALUE or --set connections.NAME=URL")
        section, _, rest = path.strip().partition(".")
        name, dot, option = rest.partition(".")
        yield [section, name, option] if dot else [section, name], Given(value, "--set")


def _merge(given: dict[str, Layered], path: list[str], value: Given, app: App, complaints: Complaints) -> None:
    if path[0] not in SECTIONS or len(path) < 2 or not path[1]:
        complaints.add(".".join(path), value, f"there are connections.NAME and handlers.NAME.OPTION{_near(path[0], SECTIONS)}")
    elif path[0] == "connections":
        given["connections"].setdefault(path[1], {})["__".join(path[2:]) or "url"] = value
    elif path[1] not in app.handlers:
        complaints.add(".".join(path), value, f"app {app.name} has {_either(app.handlers)}{_near(path[1], app.handlers)}")
    elif len(path) != 3:
        complaints.add(".".join(path), value, f"write handlers.{path[1]}.OPTION")
    else:
        given["handlers"][path[1]][path[2]] = value


# The checks


def _handler(
    app: App, name: str, given: Mapping[str, Given], connections: Mapping[str, Connection | None], complaints: Complaints
) -> HandlerSettings | None:
    before = len(complaints.lines)
    options = _options(name, given, complaints)
    source = _source(f"handlers.{name}.streams", given["streams"], connections, complaints)
    if options is None or source is None:
        return None
    connection, streams = source
    dead_letter = _dead_letter(name, given.get("dead_letter"), options, connection, streams, connections, complaints)
    if options.dead_letter is None:
        _nowhere(name, given, options, connection, complaints)
    if len(complaints.lines) > before:
        return None
    label = f"{app.name}.{name}"
    return HandlerSettings(
        name, app.handlers[name].function, connection, streams, options, options.group or label, label, dead_letter
    )


def _options(name: str, given: Mapping[str, Given], complaints: Complaints) -> HandlerOptions | None:
    values = {}
    for option, one in given.items():
        if option == "streams":
            continue
        if option not in HandlerOptions.model_fields:
            complaints.add(f"handlers.{name}.{option}", one, f"no such option{_near(option, HandlerOptions.model_fields)}")
        elif one.value != "":  # an empty variable is an unset one
            values[option] = one.value
    try:
        return HandlerOptions(**values)
    except ValidationError as error:
        # One of an option: what may be of several types has one for each of them.
        problems = {str(one["loc"][0]): one["msg"] for one in error.errors(include_url=False, include_context=False)}
        for option, problem in problems.items():
            complaints.add(f"handlers.{name}.{option}", given[option], "; ".join(_bounds(option)) or problem)
        return None


def _bounds(option: str) -> Iterator[str]:
    information = HandlerOptions.model_fields[option]
    schema = HandlerOptions.model_json_schema()["properties"][option]
    variants = [schema, *schema.get("anyOf", [])]
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than", "exclusiveMaximum": "less than"}
    for variant in variants:
        if variant.get("type") in ("integer", "number", "boolean"):
            yield {"integer": "a whole number", "number": "a number", "boolean": "true or false"}[variant["type"]]
        yield from (f"{said} {variant[key]:,}" for key, said in words.items() if key in variant)
        if "enum" in variant:
            yield "one of " + ", ".join(variant["enum"])
    yield information.description or ""


def _source(
    path: str, given: Given, connections: Mapping[str, Connection | None], complaints: Complaints
) -> tuple[Connection, tuple[str, ...]] | None:
    told = given.value.split(",") if isinstance(given.value, str) else given.value
    if not isinstance(told, list | tuple):
        complaints.add(path, given, "a text, or a list of texts, each written connection:name")
        return None
    named = [str(stream).strip().partition(":") for stream in told]
    if not named or not all(colon and stream for _, colon, stream in named):
        complaints.add(path, given, "a stream is written connection:name")
        return None
    if any(stream.startswith("//") for _, _, stream in named):
        complaints.add(path, given, URL_AS_STREAM)
        return None
    if len({connection for connection, _, _ in named}) > 1:
        complaints.add(path, given, "the streams of one handler are of one connection: write a handler for each")
        return None
    connection = _known(path, given, named[0][0], connections, complaints)
    return None if connection is None else (connection, tuple(stream for _, _, stream in named))


def _known(
    path: str, given: Given, name: str, connections: Mapping[str, Connection | None], complaints: Complaints
) -> Connection | None:
    if name not in connections:
        remedy = f": App(connections={{'{name}': 'kafka://host:9092'}}) or {PREFIX}CONNECTIONS__{name.upper()}=kafka://host:9092"
        complaints.add(path, given, f"no connection is called {name}{_near(name, connections) or remedy}")
    return connections.get(name)


def _dead_letter(
    name: str,
    given: Given | None,
    options: HandlerOptions,
    source: Connection,
    streams: Sequence[str],
    connections: Mapping[str, Connection | None],
    complaints: Complaints,
) -> tuple[Connection, str] | Literal["broker", "discard"] | None:
    if given is None or options.dead_letter is None:
        return None
    if options.dead_letter == "broker":
        return "broker"
    if options.dead_letter == "discard":
        return "discard"
    path = f"handlers.{name}.dead_letter"
    at, _, stream = options.dead_letter.partition(":")
    if stream.startswith("//"):
        complaints.add(path, given, URL_AS_STREAM)
        return None
    connection = _known(path, given, at, connections, complaints)
    if connection is None:
        return None
    if any(plugins.reads(source, one, connection, stream) for one in streams):
        complaints.add(path, given, "the handler reads that stream itself: its dead letters would come round for ever")
        return None
    return connection, stream


def _nowhere(name: str, given: Mapping[str, Given], options: HandlerOptions, source: Connection, complaints: Complaints) -> None:
    """A limit without a place for what exceeds it: nothing is thrown away that nobody asked to be."""
    for option in ("retries", "max_age"):
        if getattr(options, option) is not None:
            complaints.add(
                f"handlers.{name}.{option}",
                given[option],
                f'say what becomes of the record then: dead_letter="{source.name}:NAME" keeps it, '
                'dead_letter="discard" throws it away',
            )


def _connection(name: str, given: Mapping[str, Given], complaints: Complaints) -> Connection | None:
    path = f"connections.{name}"
    if "url" not in given:
        origin = next((one.origin for one in given.values()), "code")
        complaints.add(path, Given("", origin), "it has no url: kafka://host:9092")
        return None
    url = given["url"]
    if url.value is None or url.value == "":
        complaints.add(path, url, "it is not set: write a URL, kafka://host:9092")
        return None
    for option, one in given.items():
        if one.value is None:
            complaints.add(f"{path}.{option}", one, "it is not set: leave the option out, or set it")
            return None
    try:
        parts = urlsplit(str(url.value))
        user, at, hosts = parts.netloc.rpartition("@")
        username, colon, password = user.partition(":")
        if not parts.scheme or "://" not in str(url.value) or not hosts or re.search(r"[\s,]{2}|\s|^,|,$", hosts):
            raise ValueError
    except ValueError:
        complaints.add(
            path, url, "a connection is a URL: kafka://host:9092, kafka://user:password@host1:9092,host2:9092?option=value"
        )
        return None
    if "#" in str(url.value) or "@" in parts.path + parts.query:
        complaints.add(
            path,
            url,
            "a user and a password end at the first / or ? or #: write %2F, %3F and %23 for these in a password, "
            "and %40 for an @ in an option",
        )
        return None
    options = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **{o: g.value for o, g in given.items() if o != "url"}}
    return Connection(
        name,
        parts.scheme.lower(),
        hosts,
        parts.path,
        unquote(username) if at else None,
        unquote(password) if colon else None,
        options,
    )


def _name_unknown_variables(environ: Mapping[str, str], complaints: Complaints) -> None:
    """Of what is meant for us and means nothing: a mistake in what looks like a setting, else a warning."""
    for variable in environ:
        if not variable.startswith(PREFIX) or variable in OURS or variable.startswith(f"{PREFIX}TEST_"):
            continue
        rest = variable.removeprefix(PREFIX)
        section, *names = rest.lower().split("__")
        if (section in SECTIONS and names) or KUBERNETES.search(variable):
            continue
        near = get_close_matches(section.split("_")[0], SECTIONS, 1)
        if not near and not names:
            log.warning("the environment variable %s means nothing to the worker", variable)
            continue
        right = f"{PREFIX}CONNECTIONS__NAME or {PREFIX}HANDLERS__NAME__OPTION"
        if near:
            right = f"{PREFIX}{near[0].upper()}__{rest.partition('__' if names else '_')[2]}, with two underscores between names"
        complaints.add(variable, None, f"no setting is called so; did you mean {right}?")


def _name_those_that_share(handlers: Sequence[HandlerSettings], complaints: Complaints) -> None:
    """Two handlers that read a stream together get a part of it each, and nobody who writes two wants that."""
    for one, other in combinations(handlers, 2):
        for stream, second in product(one.streams, other.streams):
            if not _same(one.connection, stream, other.connection, second):
                continue
            grouped = plugins.grouped(one.connection, stream)
            if grouped and one.group != other.group:
                continue
            what = f"{one.connection.name}:{stream}"
            if stream != second:
                what += f" and {other.connection.name}:{second}"
            complaints.add(
                f"handlers.{one.name} and handlers.{other.name}",
                None,
                f"they read {what} together{f' in group {one.group}' if grouped else ''}: each record goes to one of them. "
                + ("Give each its own group" if grouped else "Give each its own queue, or do both in one handler"),
            )
            break


def _same(one: Connection, stream: str, other: Connection, second: str) -> bool:
    selectors = {connection.options.get("selector") for connection in (one, other)}
    if len(selectors) == 2 and None not in selectors:  # so that each gets its own messages
        return False
    return plugins.reads(one, stream, other, second) or plugins.reads(other, second, one, stream)


# How it is said


def _path(path: str) -> str:
    """As far as it is one: somebody may have written a colon for the = before a URL."""
    match = re.match(r"[\w.+<>-]*", path)
    return match[0] if match else ""


def _near(word: str, known: Collection[str]) -> str:
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _either(names: Collection[str]) -> str:
    return "the handlers " + ", ".join(sorted(names)) if names else "no handlers"


def _one_line(text: str) -> str:
    """A value that was read from a file often has its end of line with it."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _masked(value: Any) -> str:
    """Without what may be a secret: a user and password before an @, and a URL's query, even where it is malformed."""
    text = re.sub(r"(^|//).*@", r"\1***@", str(value), flags=re.DOTALL)
    return re.sub(r"\?.*", "?***", text, flags=re.DOTALL)
