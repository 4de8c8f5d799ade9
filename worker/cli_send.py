"""`worker send`: the lines of a file, or of another command, as records of a stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import click

from worker.errors import ConfigError, WorkerError, count
from worker.loading import fail, inherited, load_app, settings_file

if TYPE_CHECKING:
    from worker.send import Sent


class Lines(click.File):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IO[Any]:
        try:
            return super().convert(value, param, ctx)
        except RuntimeError:  # as after <&-
            return self.fail("there is no standard input: name a file", param, ctx)


@click.command(epilog="Example: worker send kafka:orders orders.jsonl --key customer-1")
@click.argument("stream", metavar="CONNECTION:NAME")
@click.argument("file", type=Lines("rb"), default="-")
@click.option("--key", metavar="TEXT", help="The key of all of them; on RabbitMQ a header that the worker reads as the key.")
@click.option("--app", metavar="MODULE:APP", help="The app whose connections are meant, where only its code has them.")
@click.option("--set", "flags", multiple=True, metavar="PATH=VALUE", help="A setting: connections.kafka=kafka://broker:9092.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file [default: worker.toml here, if there is one].",
)
def send(stream: str, file: BinaryIO, key: str | None, app: str | None, flags: Sequence[str], config: Path | None) -> None:
    """Publish each line of FILE, or of what is piped into it, as a record, and wait until the broker has confirmed it.

    Empty lines are left out. The connection is one of worker.toml, of WORKER_CONNECTIONS__NAME, of --set, or of --app.

    Exit codes: 0 all are confirmed, 2 settings, 3 the broker refused, or is away.
    """
    from worker import logs
    from worker.send import Sent
    from worker.send import send as send_lines
    from worker.settings import load_stream

    logs.configure(as_json=False, level="WARNING")
    sent = Sent()
    try:
        loaded = load_app(app) if app is not None else None
        told = [*inherited(), *flags]
        connection, name = load_stream(stream, loaded, file=settings_file(config), environ=os.environ, flags=told)
        send_lines(connection, name, file, None if key is None else key.encode(), sent)
    except ConfigError as error:  # before anything was sent
        fail(error)
    except (WorkerError, KeyboardInterrupt) as error:
        _tell(stream, sent)
        if isinstance(error, WorkerError):
            fail(error)
        raise
    _tell(stream, sent)


def _tell(stream: str, sent: Sent) -> None:
    left_out = f", {count(sent.empty, 'empty line')} left out" if sent.empty else ""
    click.echo(f"{count(sent.confirmed, 'record')} confirmed by {stream}{left_out}")
