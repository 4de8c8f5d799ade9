"""The module that a target names, once, and handlers that would silently be missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import App, ConfigError
from worker.loading import load_app
from worker.settings import load

APP = """
from worker import App
app = App("bk", connections={"kafka": "kafka://localhost:9092"})
@app.handler("kafka:a")
def audit(xs: list[int]) -> None: ...
"""
MORE = """
from PACKAGE.main import app
@app.handler("kafka:b")
def charge(xs: list[int]) -> None: ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the user is; what is imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def package(name: str, *, regular: bool) -> None:
    Path(name).mkdir()
    if regular:
        Path(name, "__init__.py").touch()
    Path(name, "main.py").write_text(f"{APP}import {name}.more\n")
    Path(name, "more.py").write_text(MORE.replace("PACKAGE", name))


def refused(target: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(load_app(target), environ={})
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("target", ["h2shop/main.py:app", "h2shop.main:app", "./h2shop/../h2shop/main.py"])
def test_a_file_of_a_package_is_the_module_that_it_is(target: str) -> None:
    package("h2shop", regular=True)
    assert list(load_app(target).handlers) == ["audit", "charge"]


def test_a_file_that_is_imported_twice_is_refused_with_the_name_to_write() -> None:
    package("h2space", regular=False)
    told = refused("h2space/main.py:app")
    assert "imported twice" in told and told.endswith("h2space.main")


def test_a_package_without_an_init_is_named_with_dots() -> None:
    package("h2space", regular=False)
    assert list(load_app("h2space.main:app").handlers) == ["audit", "charge"]


@pytest.mark.parametrize("name", ["queue", "antigravity", "pydantic"])
def test_a_name_that_is_taken(name: str) -> None:
    Path(f"{name}.py").write_text(APP)
    assert "rename" in refused(f"{name}.py:app")


def test_a_module_that_hides_the_users_file() -> None:
    Path("queue.py").write_text(APP)
    assert "rename queue.py" in refused("queue:app")


def test_a_file_is_found_whatever_lies_in_the_current_folder(tmp_path: Path) -> None:
    Path("h2twin.py").write_text("raise RuntimeError")
    Path("below").mkdir()
    Path("below/h2twin.py").write_text(APP)
    Path("below/h2-dash.py").write_text(APP)
    assert list(load_app("below/h2twin.py").handlers) == ["audit"]
    assert list(load_app("below/h2-dash.py").handlers) == ["audit"]


@pytest.mark.parametrize(
    ("decorator", "told"),
    [
        ("@app.handler", "@app.handler('connection:name')"),
        ("@app.handler()", "has no stream"),
        ('@app.handler(["kafka:a", "kafka:b"])', "@app.handler('kafka:a', 'kafka:b')"),
        ("@app.handler(None)", "is a NoneType"),
        ('@app.handler(b"kafka:a")', "is a bytes"),
        ('app.handler("kafka:b")', "decorates no function"),
    ],
)
def test_handlers_that_would_be_missing(decorator: str, told: str) -> None:
    Path("h2app.py").write_text(APP + f"{decorator}\ndef charge(xs: list[int]) -> None: ...\n")
    assert told in refused("h2app:app")


@pytest.mark.parametrize("made", ["App(None)", 'App("x", connections=["kafka://a"])', 'App("x", connections="kafka://a")'])
def test_an_app_of_other_types_is_refused(made: str) -> None:
    Path("h2odd.py").write_text(f"from worker import App\napp = {made}\n")
    assert "line 2" in refused("h2odd:app")


def test_a_decorator_may_be_kept_for_several_functions() -> None:
    app = App("shop", connections={"kafka": "kafka://a"})
    decorate = app.handler("kafka:orders")
    for name in ("one", "two"):
        exec(f"def {name}(b): ...", namespace := {})
        decorate(namespace[name])
    assert list(load(app, environ={}).handlers) == ["one", "two"]
