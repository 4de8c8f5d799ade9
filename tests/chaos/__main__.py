"""The command line of campaigns."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from tests.bugs import BUGS
from tests.chaos import report
from tests.chaos.campaign import Campaign, Result
from tests.chaos.faults import FAULTS
from tests.chaos.stage import stage
from worker.testing import ToxiproxyContainer

BROKERS = ("kafka", "rabbitmq", "activemq")
HUNTS = {
    "commit_before_the_handler": ("kafka", None),
    "position_skips_a_gap": ("kafka", None),
    "a_revoked_batch_is_committed_unfinished": ("kafka", None),
    "settled_at_receipt": ("rabbitmq", None),
    "unconfirmed_dead_letters_count": ("rabbitmq", None),
    "late_results_count": ("rabbitmq", "cut,hang"),  # Kafka's positions are a second fence
    "two_batches_of_a_partition_at_once": ("activemq", None),
    "halves_in_the_wrong_order": ("activemq", None),
}
"""With `--bug all`: which bug is hunted on which broker, and with which faults only."""
PACE, HUNTING, CLOSE = 8.0, 2.0, 1.3
"""Seconds for each fault: of a campaign, of one that hunts a bug, of one that does so with a few kinds of faults only."""


@click.command(epilog="Example: python -m tests.chaos --broker kafka --seconds 600 --faults 50 --seed 7 --json chaos.json")
@click.option("--broker", type=click.Choice([*BROKERS, "all"]), default="all", show_default=True)
@click.option("--seed", type=int, help="Decides all faults and records; unset: a new one, which is printed.")
@click.option("--seconds", type=click.FloatRange(10), default=600.0, show_default=True, help="Of faults, for each broker.")
@click.option("--faults", type=click.IntRange(1), help="How many; unset: one in 8 seconds, and more where a bug is hunted.")
@click.option("--only", help=f"Kinds of faults, with commas: {', '.join(FAULTS)}.")
@click.option("--set", "options", multiple=True, metavar="OPTION=VALUE", help="An option of the handler: isolation=process.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Writes the result to this file, too.")
@click.option("--bug", type=click.Choice([*BUGS, "all"]), help="Plants a bug, which must be found: then the exit code is 0.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the journal and the logs of the workers.")
def main(
    broker: str,
    seed: int | None,
    seconds: float,
    faults: int | None,
    only: str | None,
    options: Sequence[str],
    as_json: Path | None,
    bug: str | None,
    keep: Path | None,
) -> None:
    """Break real brokers, connections and workers at random, and count what was lost, disordered and repeated.

    Exit codes: 0 all promises kept (or every planted bug found), 1 not.
    """
    console = Console()
    _kinds(only)  # complains before anything starts
    seed = random.randrange(1_000_000) if seed is None else seed
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        for number, (name, planted, few) in enumerate(_rounds(broker, bug, only)):
            again = f"python -m tests.chaos --broker {name} --seed {seed} --seconds {seconds:g}"
            least = faults or int(seconds / (PACE if planted is None else HUNTING if few is None else CLOSE))
            again += f" --faults {least}"
            again += f" --only {few}" if few else ""
            again += f" --bug {planted}" if planted else ""
            again += "".join(f" --set {option}" for option in options)
            console.print(f"{again}  # runs this one again", markup=False, highlight=False, soft_wrap=True)
            folder = (keep or Path(temporary)) / f"{number}-{name}"
            results.append(_play(name, folder, seed, seconds, least, _kinds(few), planted, options))
    report.table(results, console)
    if as_json:
        report.write(results, as_json)
    sys.exit(0 if all(bool(result.violations) == bool(result.bug) for result in results) else 1)


def _rounds(broker: str, bug: str | None, only: str | None) -> list[tuple[str, str | None, str | None]]:
    """Which broker, with which bug, with which faults only."""
    if bug is None:
        return [(name, None, only) for name in BROKERS if broker in (name, "all")]
    hunts = HUNTS if bug == "all" else {bug: HUNTS.get(bug, ("kafka", None))}
    if bug != "all" and broker != "all":
        return [(broker, bug, only)]
    return [(name, planted, only or few) for planted, (name, few) in hunts.items() if broker in (name, "all")]


def _kinds(only: str | None) -> list[str]:
    kinds = only.split(",") if only else list(FAULTS)
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        raise click.BadParameter(f"{', '.join(unknown)}: there are {', '.join(FAULTS)}", param_hint="--only")
    return kinds


def _play(
    broker: str,
    folder: Path,
    seed: int,
    seconds: float,
    least: int,
    kinds: Sequence[str],
    bug: str | None,
    options: Sequence[str],
) -> Result:
    """A campaign with containers of its own."""
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"{broker} {time.monotonic() - started:6.1f} s  {line}", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    with ToxiproxyContainer() as toxiproxy, closing(stage(broker, toxiproxy)) as made:
        return Campaign(
            broker, made, folder, seed, seconds, least, kinds, bug, dict(one.split("=", 1) for one in options), tell
        ).run()


if __name__ == "__main__":
    main()
