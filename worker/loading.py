"""The user's app and its settings, for every command, and how a command fails."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from worker.errors import ConfigError, WorkerError
from worker.supervised import SET

if TYPE_CHECKING:
    from worker.app import App
    from worker.settings import Settings

DEFAULT = "worker.toml"

log = logging.getLogger("worker")


def load(target: str, handlers: Sequence[str], flags: Sequence[str], config: Path | None) -> tuple[App, Settings]:
    app = load_app(target)
    from worker import settings

    file = settings_file(config)
    if file is None:
        _say_what_is_not_read(target)
    return app, settings.load(app, file=file, environ=os.environ, flags=flags, only=handlers)


def settings_file(config: Path | None) -> Path | None:
    return config or (Path(DEFAULT) if os.path.lexists(DEFAULT) else None)


def inherited() -> list[str]:
    """The `--set` of a supervisor, which may hold passwords: what the app starts does not inherit it."""
    told = os.environ.pop(SET, "[]")
    try:
        flags = json.loads(told)
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise ValueError
    except ValueError:
        raise ConfigError(f"the environment variable {SET} is the worker's own, and unreadable: unset it") from None
    return flags


def _say_what_is_not_read(target: str) -> None:
    """Settings that lie beside the app, where a service that is started in another folder does not look."""
    path = Path(target.partition(":")[0])
    beside = path.parent / DEFAULT
    if path.suffix == ".py" and beside.is_file():
        log.warning("%s is not read, as it is not in the current folder: --config %s", beside, beside)


def load_app(target: str) -> App:
    """The App named by `package.module:attribute` or `path/file.py:attribute`; ConfigError says what is wrong with it."""
    from worker.app import App

    name, _, attribute = target.partition(":")
    module = _import(name)
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    if not attribute:
        if len(apps) != 1:
            raise ConfigError(f"{target}: say which app: " + (", ".join(f"{name}:{key}" for key in apps) or f"{name}:app"))
        attribute = apps[0]
    if not hasattr(module, attribute):
        if (shadowed := Path(f"{name}.py")).exists() and not _is_file(module, shadowed):
            raise ConfigError(f"{target}: {name} is the name of {getattr(module, '__file__', 'a module')}: rename {shadowed}")
        there = f"it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else "it has no App: app = App('name')"
        raise ConfigError(f"{target}: module {name} has no {attribute}; {there}")
    found = getattr(module, attribute)
    if not isinstance(found, App):
        raise ConfigError(f"{target} is a {type(found).__name__}, not a worker.App")
    _check_imported_once(found, module.__name__)
    found.target = target if ":" in target else f"{target}:{attribute}"
    return found


def _is_file(module: Any, file: Path) -> bool:
    return os.path.realpath(getattr(module, "__file__", None) or "") == os.path.realpath(file)


def _import(name: str) -> Any:
    try:
        here = Path.cwd()
    except OSError as error:
        raise ConfigError(f"the current folder is gone ({error.strerror}): cd to another one") from error
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    if name.endswith(".py") or "/" in name:
        return _import_file(name, here)
    return _import_module(name, here)


_files: set[str] = set()
"""Modules that were imported as files: a process may load several of one name, as tests do."""


def _import_file(target: str, here: Path) -> Any:
    path = Path(target)
    if not path.is_file():
        raise ConfigError(f"{target}: no such file in {here}")
    name = _name_of_file(path.resolve())
    if name in _files and not _is_file(sys.modules.get(name), path):
        sys.modules.pop(name, None)
    module = _import_module(name, here)
    _files.add(name)
    if not _is_file(module, path):
        raise ConfigError(
            f"{target}: {name} is the name of {getattr(module, '__file__', None) or 'another module'}: rename {path}"
        )
    return module


def _import_module(name: str, here: Path) -> Any:
    if name.split(".")[0] == "worker" and name != "worker.demo":
        hint = "that is this package itself"
        if Path("worker.py").exists() or Path("worker").is_dir():
            hint = f"your {'worker.py' if name == 'worker' else 'package worker'} has the name of this package: rename it"
        raise ConfigError(f"{name}: {hint}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(_own_frames(name, error)) from error
        near = get_close_matches(name, [path.stem for path in here.glob("*.py")], 1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no module {error.name} in {here} or among the installed ones{suggestion}") from error
    except ConfigError as error:
        raise ConfigError(f"{_last_line_of_the_user(error)}{error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise ConfigError(_own_frames(name, error)) from error


def _name_of_file(path: Path) -> str:
    """The module that a file is, as what imports it calls it: a part of its package, if there is an __init__.py beside it.

    Under another name it would be imported a second time by its own package, with an App of its own.
    """
    parts, folder = [] if path.name == "__init__.py" else [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts, folder = [folder.name, *parts], folder.parent
    name = ".".join(parts)
    if any("." in part for part in parts):
        raise ConfigError(f"{path}: a module has no dot in its name: rename it")
    if parts[0] in sys.stdlib_module_names:  # it would be found instead, or hidden from all that needs it
        raise ConfigError(f"{path}: {parts[0]} is the name of a module of Python itself: rename it")
    sys.path.insert(0, str(folder))
    return name


def _last_line_of_the_user(error: BaseException) -> str:
    """Where in the user's code it was."""
    frames = _frames(error)
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


def _check_imported_once(found: App, target: str) -> None:
    """ConfigError if a file that makes this app was imported under two names: half of the handlers are on the other App."""
    from worker.app import App

    names: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(file := getattr(module, "__file__", None), str):
            names.setdefault(os.path.realpath(file), []).append(name)
    for file, several in names.items():
        if len(several) < 2:
            continue
        apps = {id(one) for name in several for one in list(vars(sys.modules[name]).values()) if _is_twin(one, found, App)}
        if len(apps) > 1:
            others = [name for name in several if name != target]
            raise ConfigError(
                f"{file} is imported twice, as {' and '.join(several)}, and each has an app {found.name} of its own with some of "
                f"the handlers: call it everywhere as the others do, {others[0]}"
            )


def _is_twin(one: object, found: App, kind: type) -> bool:
    return isinstance(one, kind) and getattr(one, "name", None) == found.name


def _own_frames(name: str, error: BaseException) -> str:
    """The user's part of the traceback."""
    told = "".join(traceback.format_list(_frames(error)) + traceback.format_exception_only(error)).rstrip()
    return f"{name} cannot be imported:\n{told}"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    ours = f"{Path(__file__).parent}{os.sep}"
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<frozen")) and "importlib" not in frame.filename
    ]


def fail(error: WorkerError) -> NoReturn:
    for line in str(error).splitlines() or [type(error).__name__]:
        log.error(line)
    sys.exit(error.exit_code)


def exit_at_once(code: int) -> NoReturn:
    """Without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
