"""Where a partition begins: looked up for all partitions in one request per broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from worker.interface import Partition, Start

log = logging.getLogger("worker.kafka")

_PATIENCE = 10.0
_FEW = 20
_MOVING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)


def lookup(consumer: Consumer, partitions: Collection[Partition], at: int) -> dict[Partition, int]:
    """The offset of the first record not older than `at` (milliseconds; OFFSET_BEGINNING and OFFSET_END are times too)."""
    if not partitions:
        return {}
    asked = [TopicPartition(partition.stream, int(partition.id), at) for partition in partitions]
    found = {Partition(f.topic, f.partition): f.offset for f in _ask(consumer, asked)}
    if at == OFFSET_END:
        return found
    # No record is that young: the end.
    return found | lookup(consumer, [p for p, offset in found.items() if offset < 0], OFFSET_END)


def _ask(consumer: Consumer, asked: list[TopicPartition]) -> list[TopicPartition]:
    """The leaders of a topic that was just made, or of a broker that restarts, move: the client asks who they are meanwhile."""
    for wait in _WAITS:
        try:
            return consumer.offsets_for_times(asked, timeout=_PATIENCE)
        except KafkaException as error:
            if error.args[0].code() not in _MOVING:
                raise
            time.sleep(wait)
    return consumer.offsets_for_times(asked, timeout=_PATIENCE)


def starts(
    consumer: Consumer, partitions: Collection[Partition], start: Start, known: Mapping[str, int], group: str
) -> dict[Partition, int]:
    """The first offset of partitions on which the group has no position; says so with the count.

    A partition that was not there when the source opened begins at its earliest record whatever `start` says: what was
    written to it before we heard of it would be skipped else.
    """
    new = {partition for partition in partitions if int(partition.id) >= known.get(partition.stream, 0)}
    old = set(partitions) - new
    at = OFFSET_BEGINNING if start == "earliest" else OFFSET_END if start == "latest" else int(_moment(start) * 1000)
    found = lookup(consumer, old, at) | lookup(consumer, new, OFFSET_BEGINNING)
    ends = lookup(consumer, partitions, OFFSET_END)
    for chosen, name in ((old, str(start)), (new, "earliest, being new")):
        if chosen:
            waiting = sum(max(0, ends[partition] - found[partition]) for partition in chosen)
            log.info("group %s has no position on %s: starting at %s, %d records waiting", group, spans(chosen), name, waiting)
    return found


def _moment(start: Start) -> float:
    assert isinstance(start, datetime)
    return start.timestamp()


def spans(partitions: Iterable[Partition]) -> str:
    """`orders[0..3,7]`: many partitions in few words."""
    by_stream = groupby(sorted(partitions, key=lambda p: (p.stream, int(p.id))), key=lambda p: p.stream)
    return ", ".join(f"{stream}[{_runs([int(p.id) for p in group])}]" for stream, group in by_stream)


def places_from(begin: Mapping[Partition, int]) -> str:
    """`orders[0] from 17, orders[1] from 0`: the first of many."""
    told = [f"{partition} from {begin[partition]}" for partition in sorted(begin, key=lambda p: (p.stream, int(p.id)))]
    return ", ".join(told[:_FEW]) + (f" and {len(told) - _FEW} more: {spans(begin)}" if len(told) > _FEW else "")


def _runs(ids: Sequence[int]) -> str:
    # In a run, the difference between an id and its place stays the same.
    runs = [[i for _, i in run] for _, run in groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
