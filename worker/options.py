"""What a handler can be told: each option once, with its default, its bounds and its help text."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from worker.retry import Backoff


def _backoff(value: Any) -> Any:
    """A number, or the text of one, is the first wait."""
    try:
        made = Backoff(first=float(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else value
        waits = (float(made.first), float(made.limit))
    except (AttributeError, OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not 0 <= waits[0] <= DAY or not 0 <= waits[1] <= DAY:
        raise ValueError(f"{waits} are not within bounds")
    return made


DAY = 86_400


class HandlerOptions(BaseModel):
    """The options of one handler, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    batch_size: int = Field(100, ge=1, le=10_000, description="most records in a batch")
    window: float = Field(0.5, ge=0, le=300, description="seconds from a batch's first record to its start; 0: at once")
    max_bytes: int = Field(
        6 * 1024 * 1024, ge=1, le=2**31 - 1, description="most bytes of values in a batch; a larger record goes alone"
    )
    retries: int | None = Field(
        None, ge=0, description="tries after the first, needs dead_letter; unset: 10 with dead_letter, else for ever"
    )
    backoff: Annotated[Backoff, BeforeValidator(_backoff)] = Field(
        Backoff(), description="seconds before the second try, 0 to 86,400, doubled each time up to 60, with jitter"
    )
    dead_letter: str | None = Field(
        None,
        pattern=r"^(broker|discard|[^:]+:.+)$",
        description="where given-up records go: connection:name, broker, or discard to throw them away",
    )
    dead_letter_timeout: float = Field(60.0, gt=0, le=DAY, description="seconds to try to publish before the handler stops")
    flood: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the last 1,000 records that, dead-lettered or discarded, stops the handler; 1: never",
    )
    on_flood: Literal["stop", "probe"] = Field(
        "stop", description="stop: the handler ends (exit 4); probe: it pauses, tries one record, and goes on when that passes"
    )
    max_age: float | None = Field(
        None, gt=0, le=3650 * DAY, description="seconds after which a record is given up without another try, needs dead_letter"
    )
    max_age_from: Literal["record", "arrival"] = Field(
        "record", description="age counts from the record's timestamp or its arrival"
    )
    timeout: float | None = Field(
        None, gt=0, le=7 * DAY, description="seconds a batch may take; then it has failed and is tried again"
    )
    isolation: Literal["thread", "process"] = Field(
        "thread", description="process: calls run in processes of their own, which may crash or be killed"
    )
    bisect: bool = Field(True, description="halve a batch that keeps failing until the bad record stands alone")
    parallel: int = Field(1, ge=1, le=1_000, description="batches of one partition at once, records of one key in order")
    concurrency: int = Field(1, ge=1, le=1_000, description="partitions handled at once by threads")
    ordered: bool | None = Field(
        None, description="False: a failed record waits aside and the rest goes on; unset: True on Kafka, False on queues"
    )
    group: str | None = Field(None, min_length=1, description="consumer group; unset: APP.FUNCTION")
    start: Literal["earliest", "latest"] | datetime = Field(
        "earliest", description="where a group without a position begins: earliest, latest, or a date and time"
    )
    drain: float = Field(25.0, ge=0, le=DAY, description="seconds a batch in flight may take at shutdown and rebalance")
    commit_interval: float = Field(1.0, gt=0, le=300, description="seconds between commits: what a kill can repeat")
