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

if TYPE_CHECKING:
    from worker.app import App
    from worker.settings import Settings


def load(target: str, handlers: Sequence[str], flags: Sequence[str], config: Path | None) -> tuple[App, Settings]:
    app = load_app(target)
    from worker import settings

    default = Path("worker.toml")
    inherited = json.loads(os.environ.get("WORKER_SET", "[]"))  # from worker.supervisor
    file = config or (default if default.exists() else None)
    return app, settings.load(app, file=file, environ=os.environ, flags=[*inherited, *flags], only=handlers)


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
        there = f"it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else "it has no App: app = App('name')"
        raise ConfigError(f"{target}: module {name} has no {attribute}; {there}")
    found = getattr(module, attribute)
    if not isinstance(found, App):
        raise ConfigError(f"{target} is a {type(found).__name__}, not a worker.App")
    found.target = target if ":" in target else f"{target}:{attribute}"
    return found


def _import(name: str) -> Any:
    here = Path.cwd()
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"{name}: no such file in {here}")
        sys.path.insert(0, str(path.parent.resolve()))
        name = path.stem
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    if name.split(".")[0] == "worker" and name != "worker.demo":
        hint = (
            "your worker.py has the name of this package: rename it"
            if Path("worker.py").exists()
            else "that is this package itself"
        )
        raise ConfigError(f"{name}: {hint}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(_own_frames(name, error)) from error
        near = get_close_matches(name, [path.stem for path in here.glob("*.py")], 1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no module {error.name} in {here} or among the installed ones{suggestion}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise ConfigError(_own_frames(name, error)) from error


def _own_frames(name: str, error: BaseException) -> str:
    """The user's part of the traceback."""
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<frozen")) and "importlib" not in frame.filename
    ]
    told = "".join(traceback.format_list(frames) + traceback.format_exception_only(error)).rstrip()
    return f"{name} cannot be imported:\n{told}"


def fail(error: WorkerError) -> NoReturn:
    for line in str(error).splitlines() or [type(error).__name__]:
        logging.getLogger("worker").error(line)
    sys.exit(error.exit_code)


def exit_at_once(code: int) -> NoReturn:
    """Without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
