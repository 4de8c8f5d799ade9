"""The decorator registers and leaves the function alone."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

import pytest

from worker import App, Backoff, ConfigError
from worker.options import HandlerOptions


def test_the_function_comes_back_unchanged() -> None:
    app = App("shop")

    def charge(values: list[bytes]) -> None: ...

    assert app.handler("kafka:orders", batch_size=5)(charge) is charge
    assert dict(app.handlers["charge"].options) == {"batch_size": 5}


def test_the_decorator_knows_every_option_and_no_other() -> None:
    parameters = inspect.signature(App.handler).parameters
    assert {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY} == set(HandlerOptions.model_fields)


def described() -> dict[str, tuple[str, str]]:
    """Of each option its default and what it means."""
    made = {}
    for name, field in HandlerOptions.model_fields.items():
        default = field.default
        if isinstance(default, Backoff):
            default = default.first
        said = (
            "unset" if default is None else f"{default:,g}" if type(default) in (int, float) and default < 1e6 else str(default)
        )
        made[name] = said, str(field.description)
    return made


def test_help_explains_every_option() -> None:
    """If this fails: put what it expects into the docstring of `App.handler`, which must not need pydantic."""
    lines = [
        line
        for name, (default, meaning) in described().items()
        for line in wrap(f"{name}: {meaning} [default: {default}]", 114, initial_indent="    ", subsequent_indent="        ")
    ]
    told = str(inspect.getdoc(App.handler)).splitlines()
    assert told[-len(lines) :] == lines, "\n".join(lines)


def test_the_page_of_options_says_the_same() -> None:
    page = (Path(__file__).parent.parent / "docs" / "options.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page.partition("# Options of a Kafka connection")[0], re.MULTILINE)
    assert [(name, said.replace("`", "")) for name, said in rows] == [
        (name, meaning) for name, (_, meaning) in described().items()
    ]


def test_what_cannot_be_is_refused_by_name() -> None:
    app = App("shop")

    @app.handler("kafka:orders")
    def charge(values: list[bytes]) -> None: ...

    @app.lifespan
    def pools() -> Iterator[None]:
        yield

    with pytest.raises(ConfigError, match="charge"):
        app.handler("kafka:returns")(charge)
    with pytest.raises(ConfigError, match="no stream"):
        app.handler()(pools)
    with pytest.raises(ConfigError, match="lifespan"):
        app.lifespan(pools)


def test_a_handler_has_the_name_of_its_function() -> None:
    class Charge:
        def __call__(self, values: list[bytes]) -> None: ...

    def charge(database: str, values: list[bytes]) -> None: ...

    app = App("shop")
    app.handler("kafka:orders")(functools.partial(charge, "db"))
    app.handler("kafka:orders")(Charge())
    assert list(app.handlers) == ["charge", "Charge"]


def test_a_lifespan_that_cannot_run_is_refused_with_how_to_write_it() -> None:
    def nothing() -> None: ...
    async def later() -> None: ...
    def of_an_app(app: object) -> Iterator[None]:
        yield

    for function in (nothing, later, of_an_app, 5, Charge):
        with pytest.raises(ConfigError, match="yield"):
            App("shop").lifespan(function)  # type: ignore[type-var]


class Charge:
    pass
