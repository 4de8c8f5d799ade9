"""`worker new`: a folder to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from worker.errors import WorkerError
from worker.loading import fail


@click.command(epilog="Example: worker new billing")
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a folder with an app, its Kafka (compose.yaml), its settings (worker.toml) and a test; never over what is there."""
    from worker import logs
    from worker.new import FILES
    from worker.new import new as write

    logs.configure(as_json=False, level="WARNING")
    try:
        write(folder)
    except WorkerError as error:
        fail(error)
    click.echo(f"{folder}: {', '.join(FILES)}")
    click.echo(f"""
cd {folder}
docker compose up -d
worker run app.py:app

and in another terminal there:

echo '{{"id": 1, "total": 9.5}}' | worker send kafka:orders
pytest    # after pip install pytest""")
