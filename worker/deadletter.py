"""What happens to records that get no more tries: published and confirmed, discarded by the user's choice, or a stop."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from worker.errors import Expired, Flooded, PublishError, Stopped, Unavailable, count, say
from worker.interface import KEY_HEADER, LEFT_OUT_HEADER, NULL_HEADER, DeadLetter, Record, Sink, shown
from worker.lane import Work
from worker.retry import Backoff
from worker.work import GivenUp, Verdict

log = logging.getLogger("worker")
Headers = Sequence[tuple[str, bytes | None]]

HEADERS = (
    "dead_letter_stream",
    "dead_letter_partition",
    "dead_letter_id",
    "dead_letter_timestamp",
    "dead_letter_time",
    "dead_letter_error",
    "dead_letter_message",
    "dead_letter_attempts",
    "dead_letter_handler",
)
"""Where from (stream, partition, id; the record's own timestamp and the time it was given up, in milliseconds since the
epoch), why (the error's type and message, tries) and by whom (APP.FUNCTION). Names that every broker allows."""
REDRIVES = "dead_letter_redrives"
"""How often a record was redriven: a header of it from then on."""
PASS = "dead_letter_pass"
"""Which run put a letter back behind the others, as it was not meant."""
RESERVED = frozenset({*HEADERS, REDRIVES, PASS, KEY_HEADER, NULL_HEADER, LEFT_OUT_HEADER})
"""Names by which a letter speaks: a record's own headers of these names do not come into its letter, as they would be taken at
their word when it is redriven (`dead_letter_null`: its value would be thrown away)."""
MESSAGE = 1_000
"""Characters of an error's message, and of an id, that go along: headers grow until the broker refuses the record."""
FUSE = 1_000
"""Records over which the share of dead letters is taken."""


def letter(given_up: GivenUp, record: Record[bytes], handler: str, now: float) -> DeadLetter:
    """The record with its headers and ours; ours of an earlier time are replaced, so that they cannot pile up."""
    error, headers = given_up.error, shown(record.headers)
    told = (
        record.partition.stream,
        str(record.partition.id),
        str(record.id),
        "" if record.timestamp is None else str(record.timestamp),
        str(int(now * 1000)),
        type(error).__name__,
        say(error).partition(": ")[2][:MESSAGE],
        str(given_up.attempts + _before(headers, handler)),
        handler,
    )
    own = [header for header in headers if header[0] not in RESERVED]
    ours = [(name, text[:MESSAGE].encode(errors="replace")) for name, text in zip(HEADERS, told, strict=True)]
    if redrives := _redrives(headers):
        ours.append((REDRIVES, b"%d" % redrives))
    return DeadLetter(record, error, given_up.attempts, [*own, *ours])


def _before(headers: Headers, handler: str) -> int:
    """Tries of an earlier time, of a letter that came back to its handler by itself, as from a queue of letters that expire."""
    told = dict(headers)
    return _count(told.get("dead_letter_attempts")) if told.get("dead_letter_handler") == handler.encode() else 0


def _redrives(headers: Headers) -> int:
    """The count of a record that was redriven must survive; whatever else a producer calls so does not."""
    return _count(next((value for name, value in headers if name == REDRIVES), None))


def _count(told: bytes | None) -> int:
    return int(told) if told is not None and told.isdigit() and len(told) < 10 else 0


class Fuse:
    """Blows when more than `share` of the last 1,000 records were given up: a bad deploy must not empty a topic.

    Fewer than 1,000 records count as 1,000, so that the first bad record of a quiet topic does not blow it.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._dead = 0

    def passes(self, records: int, dead: int) -> bool:
        """Counts a batch, unless its dead letters would be too many."""
        with self._lock:
            total = max(self._records + records, FUSE)
            if dead and self._share < 1 and self._dead + dead > self._share * total:
                return False
            self._batches.append((records, dead))
            self._records += records
            self._dead += dead
            while self._records - self._batches[0][0] >= FUSE:
                gone = self._batches.popleft()
                self._records -= gone[0]
                self._dead -= gone[1]
            return True


class DeadLetters:
    """For the threads of one handler.

    `stream` is where `sink` writes. `broker`: the source rejects them afterwards, and the broker's own policy says where they go.
    """

    def __init__(
        self,
        handler: str,
        sink: Sink | None,
        *,
        discard: bool,
        fuse: Fuse,
        broker: bool = False,
        pauses: bool = False,
        stream: str | None = None,
        timeout: float = 60.0,
        backoff: Backoff = Backoff(),  # noqa: B008, frozen
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.handler = handler
        self._sink = sink
        self._discard = discard
        self._broker = broker
        self._stream = stream
        self._remedy = "Mend what it needs or the handler" if pauses else "Mend the handler and start again"
        self._fuse = fuse
        self._timeout = timeout
        self._backoff = backoff
        self._clock = clock
        self._wait = wait
        self._wall = wall

    def handled(self, records: int) -> None:
        """So many succeeded, none failed."""
        self._fuse.passes(records, 0)

    def give_up(self, work: Work, given_up: Sequence[GivenUp], handled: int) -> list[DeadLetter]:
        """Returns what is to be published before those given up have ended; raises Stopped or Flooded: then nothing of this batch
        may be committed."""
        if self._sink is None and not self._broker and not self._discard:
            raise Stopped(
                f"{_say(work, given_up[0])}; it may not be tried again: "
                'set dead_letter="CONNECTION:NAME" to keep such records, or dead_letter="discard" to throw them away'
            )
        failed = sum(not isinstance(letter.error, Expired) for letter in given_up)  # a backlog that expired is no flood
        if (failed and work.probe) or not self._fuse.passes(handled + len(given_up), failed):
            raise Flooded(
                f"too many of the last records {'were discarded' if self._discard else 'became dead letters'}, "
                f"now {_say(work, given_up[0])}; nothing more is {'discarded' if self._discard else 'published'} or committed. "
                f"{self._remedy}, or set flood=1 to let them all through"
            )
        if self._sink is None:
            told = count(len(given_up), "record", "records") + " discarded"
            if not self._discard:
                told = count(len(given_up), "dead letter")
            log.error("%s: %s: %s", self.handler, told, _say(work, given_up[0]))
            return []
        now = self._wall()
        records = [work.batch.record(one.index) for one in given_up]
        if any(self._is_own_letter(record) for record in records):
            raise Stopped(
                f"it reads its own dead letters: {work.batch.partition.stream} is its dead_letter, too, by another URL, and each "
                "would come round for ever: name another stream"
            )
        return [letter(one, record, self.handler, now) for one, record in zip(given_up, records, strict=True)]

    def _is_own_letter(self, record: Record[bytes]) -> bool:
        """Two URLs may lead to one broker, and nobody can tell before."""
        return record.partition.stream == self._stream and ("dead_letter_handler", self.handler.encode()) in shown(record.headers)

    def publish(self, group: Sequence[tuple[Work, Verdict]]) -> None:
        """Returns when the letters of all are durable; but those of a partition that is somebody else's by now are given up by
        its new owner. Raises PublishError, `permanent` where trying again is of no use."""
        if self._sink is not None and (published := self._publish(self._sink, group)):
            work, verdict = group[0]
            log.error("%s: %s: %s", self.handler, count(published, "dead letter"), _say(work, verdict.given_up[0]))

    def _publish(self, sink: Sink, group: Sequence[tuple[Work, Verdict]]) -> int:
        """How many."""
        deadline = self._clock() + self._timeout
        attempt = 1
        while letters := [one for work, verdict in group if not work.lane.gone for one in verdict.letters]:
            try:
                sink.publish(letters)
                break
            except (PublishError, Unavailable) as error:
                pause = self._backoff(attempt)
                permanent = getattr(error, "permanent", False)
                if permanent or self._clock() + pause >= deadline:
                    raise PublishError(f"dead letters could not be published: {error}", permanent=permanent) from error
                log.warning("%s: dead letters: %s; trying again in %.1f s", self.handler, error, pause)
                self._wait(pause)
                attempt += 1
        return len(letters)


def _say(work: Work, given_up: GivenUp) -> str:
    told = say(given_up.error)[:MESSAGE]
    return f"record {work.batch.record(given_up.index).id} of {work.batch.partition}, attempt {given_up.attempts}: {told}"
