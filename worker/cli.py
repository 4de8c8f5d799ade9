"""The command: flags and exit codes."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from worker.cli_dead_letters import dead_letters
from worker.cli_new import new
from worker.cli_replay import replay
from worker.cli_send import send
from worker.errors import Stuck, WorkerError
from worker.loading import exit_at_once, fail, inherited, load

common = [
    click.argument("app", metavar="MODULE:APP"),
    click.option("--handler", "handlers", multiple=True, metavar="NAME", help="Only this handler (several: several times)."),
    click.option("--set", "flags", multiple=True, metavar="PATH=VALUE", help="A setting: handlers.charge.batch_size=500."),
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings file [default: worker.toml here, if there is one].",
    ),
    click.option("--json", "as_json", is_flag=True, help="Log lines and results as JSON, one object a line."),
]


def options(function: Any) -> Any:
    for decorate in reversed(common):
        function = decorate(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: worker run shop.billing:app")
@click.version_option(package_name="stream-worker")
def cli() -> None:
    """Write a function, decorate it, run it: it gets batches from a broker, in order, and nothing is lost."""


@cli.command(epilog="Example: worker run shop.billing:app --processes 4 --set connections.kafka=kafka://broker:9092")
@options
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True, help="So many processes, restarted when they crash."
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Give up (exit 3) when a broker is away for so long [default: never].",
)
@click.option(
    "--capture",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write each failing batch to a file there, for worker replay: the last 100, at most 64 MiB.",
)
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO", show_default=True)
def run(
    app: str,
    handlers: Sequence[str],
    flags: Sequence[str],
    config: Path | None,
    as_json: bool,
    processes: int,
    wait: float | None,
    capture: Path | None,
    log_level: str,
) -> None:
    """Run the handlers of an app until Ctrl-C, SIGTERM or SIGHUP, which drain; a second one does not wait.

    Exit codes: 0 clean, 1 a handler stopped the worker or crashed, 2 settings, 3 a broker refused, 4 dead letters.
    """
    from worker import logs, supervised, supervisor

    logs.configure(as_json=as_json, level=log_level)
    try:
        supervised.adopted()
        flags = [*inherited(), *flags]
        loaded, settings = load(app, handlers, flags, config)
        if processes > 1:
            arguments = _arguments(app, handlers, config, as_json, wait, capture, log_level)
            sys.exit(supervisor.supervise(arguments, processes, settings=flags))
        from worker.run import Worker, run_until_signal

        supervised.follow_parent()
        worker = Worker(loaded, settings, wait, capture)
        logs.hear()  # also the connectors', whatever the app configures from here on
        try:
            code = run_until_signal(worker)
        except Exception:
            if worker.left_behind:
                traceback.print_exc()
                exit_at_once(1)
            raise
        if any(running.loop.failure and not isinstance(running.loop.failure, Stuck) for running in worker.handlers):
            supervised.tell_supervisor()
    except WorkerError as error:
        fail(error)
    if worker.left_behind:
        exit_at_once(code)
    sys.exit(code)


def _arguments(
    app: str,
    handlers: Sequence[str],
    config: Path | None,
    as_json: bool,
    wait: float | None,
    capture: Path | None,
    log_level: str,
) -> list[str]:
    arguments = ["run", app, "--log-level", log_level]
    for name in handlers:
        arguments += ["--handler", name]
    if config is not None:
        arguments += ["--config", str(config)]
    if as_json:
        arguments.append("--json")
    if wait is not None:
        arguments += ["--wait", str(wait)]
    if capture is not None:
        arguments += ["--capture", str(capture)]
    return arguments


@cli.command(epilog="Example: worker check shop.billing:app")
@options
def check(app: str, handlers: Sequence[str], flags: Sequence[str], config: Path | None, as_json: bool) -> None:
    """Check the settings of an app, without asking any broker: exit 0 or 2."""
    from worker import logs
    from worker.run import describe

    logs.configure(as_json=as_json, level="WARNING")
    try:
        loaded, settings = load(app, handlers, [*inherited(), *flags], config)
        told = [describe(handler, loaded.target) for handler in settings.handlers.values()]
    except WorkerError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(told))
        return
    for one in told:
        click.echo(
            f"{one['handler']}: {', '.join(one['streams'])} of {one['connection']}, group {one['group']}"
            + (f", protocol {one['membership']}" if one["membership"] else "")
        )
        click.echo(f"  order: {one['order']}")
        click.echo(f"  dead letters: {one['dead_letter'] or 'none'}")
        for name, value in one["options"].items():
            click.echo(f"  {name} = {value}")
        for warning in one["warnings"]:
            click.secho(f"  warning: {warning}", fg="yellow")


@cli.command(epilog="Example: worker demo --records 5000")
@click.option("--records", type=click.IntRange(1, 50_000), default=50_000, show_default=True, help="Orders to produce.")
@click.option("--json", "as_json", is_flag=True, help="Only the result, as JSON.")
def demo(records: int, as_json: bool) -> None:
    """Run the example on an embedded Kafka, no broker needed, and check that nothing is lost: exit 0 or 1."""
    from worker import logs
    from worker.demo import demo as run_demo

    logs.configure(as_json=as_json, level="WARNING")
    try:
        sys.exit(run_demo(records, as_json=as_json))
    except WorkerError as error:
        fail(error)


cli.add_command(dead_letters)
cli.add_command(replay)
cli.add_command(new)
cli.add_command(send)


def main() -> None:
    try:
        try:
            cli()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        if sys.stderr is not None:
            sys.stderr.write(f"the output cannot be written: {error.strerror}\n")
        os._exit(1)  # an orderly end would try to write it again
