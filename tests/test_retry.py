"""What becomes of each record after a try: the rows of docs/failures.md."""

from __future__ import annotations

import math
import random

import pytest

from tests.support import batch, indices_of
from worker.errors import Invalid, Reject, Retry
from worker.lane import Lane, Shape, Work
from worker.retry import WHOLE_TRIES, Backoff, Policy
from worker.work import Outcome, Verdict

BOOM = ValueError("boom")
NO_WAIT = Backoff(first=0.0)


def work(size: int, attempt: int = 1, rest: int | None = None) -> Work:
    made = batch(*[b"%d" % i for i in range(size)])
    made.attempt = attempt
    lane = Lane(made.partition, Shape())
    return Work(lane, made, range(size), 0.0, rest=attempt if rest is None else rest)


def again(verdict: Verdict) -> list[tuple[list[int], int, int]]:
    return [(list(part.indices), part.attempt, part.rest) for part in verdict.again]


def given_up(verdict: Verdict) -> dict[int, int]:
    return {one.index: one.attempts for one in verdict.given_up}


def limited(retries: int = 2, *, bisect: bool = True, ordered: bool = True) -> Policy:
    return Policy.of(retries, None, NO_WAIT, bisect, ordered)


class Steps(Backoff):
    """Waits that say after which try: 1, 4, 9 s."""

    def __call__(self, attempt: int) -> float:
        return float(attempt**2)


UNLIMITED = Policy.of(None, None, NO_WAIT, True, True)


def test_all_well_is_all_finished() -> None:
    assert indices_of(limited().decide(work(3), Outcome())) == ([0, 1, 2], [], [])


def test_an_exception_that_is_falsy_is_a_failure() -> None:
    class Errors(Exception):
        def __len__(self) -> int:
            return 0

    assert again(limited().decide(work(2), Outcome(whole=Errors()))) == [([0, 1], 2, 2)]


def test_named_failures_alone_are_tried_again() -> None:
    verdict = limited().decide(work(5), Outcome(failed={3: BOOM, 1: BOOM}))
    assert verdict.finished == [0, 2, 4]
    assert again(verdict) == [([1, 3], 2, 2)]


def test_a_named_failure_without_tries_left_is_given_up() -> None:
    verdict = limited(retries=2).decide(work(2, attempt=3), Outcome(failed={1: BOOM}))
    assert (verdict.finished, again(verdict), given_up(verdict)) == ([0], [], {1: 3})


def test_failed_leaves_those_behind_it_untouched_with_a_fresh_count() -> None:
    verdict = limited().decide(work(6, attempt=2), Outcome(failed={3: BOOM}, untouched=4))
    assert verdict.finished == [0, 1, 2]
    assert again(verdict) == [([3, 4, 5], 3, 1)]


def test_failed_without_tries_left_gives_up_one_and_goes_on_at_once() -> None:
    verdict = limited(retries=0).decide(work(4), Outcome(failed={1: BOOM}, untouched=2))
    assert (verdict.finished, again(verdict), given_up(verdict)) == ([0], [([2, 3], 1, 1)], {1: 1})
    assert verdict.again[0].wait == 0


def test_a_batch_with_two_counts_that_fails_whole_is_parted_where_they_differ() -> None:
    verdict = limited().decide(work(3, attempt=2, rest=1), Outcome(whole=BOOM))
    assert again(verdict) == [([0], 3, 3), ([1, 2], 2, 2)]


def test_a_record_is_not_given_up_for_what_another_may_have_done() -> None:
    """It failed by name once, and then the whole batch did: it may have been another's fault."""
    policy = limited(retries=1)
    verdict = policy.decide(work(3, attempt=2, rest=1), Outcome(whole=BOOM))
    assert again(verdict) == [([0], 3, 3), ([1, 2], 2, 2)]
    assert [part.wait for part in verdict.again] == [0, 0]
    assert given_up(policy.decide(work(1, attempt=3), Outcome(whole=BOOM))) == {0: 3}, "alone it was its own"


def test_a_whole_batch_is_tried_retries_plus_one_times_then_halved_first_half_first() -> None:
    policy = limited(retries=2)
    assert again(policy.decide(work(5, attempt=2), Outcome(whole=BOOM))) == [([0, 1, 2, 3, 4], 3, 3)]
    verdict = policy.decide(work(5, attempt=3), Outcome(whole=BOOM))
    assert again(verdict) == [([0, 1, 2], 4, 4), ([3, 4], 4, 4)]
    assert [part.wait for part in verdict.again] == [0, 0]


def test_halves_get_one_try_each_and_a_lone_record_is_given_up() -> None:
    policy = limited(retries=2)
    assert again(policy.decide(work(2, attempt=5), Outcome(whole=BOOM))) == [([0], 6, 6), ([1], 6, 6)]
    assert given_up(policy.decide(work(1, attempt=6), Outcome(whole=BOOM))) == {0: 6}


def test_without_bisect_the_whole_batch_is_given_up() -> None:
    assert given_up(limited(retries=0, bisect=False).decide(work(3), Outcome(whole=BOOM))) == {0: 1, 1: 1, 2: 1}


def test_without_a_limit_it_is_split_after_the_fifth_failure_and_the_parts_go_on_for_ever() -> None:
    assert again(UNLIMITED.decide(work(4, WHOLE_TRIES - 1), Outcome(whole=BOOM))) == [([0, 1, 2, 3], 5, 5)]
    assert again(UNLIMITED.decide(work(4, WHOLE_TRIES), Outcome(whole=BOOM))) == [([0, 1], 6, 6), ([2, 3], 6, 6)]
    assert again(UNLIMITED.decide(work(1, 1_000), Outcome(whole=BOOM))) == [([0], 1_001, 1_001)]


def test_dead_letter_alone_means_ten_retries_and_neither_means_for_ever() -> None:
    assert Policy.of(None, "kafka:dead", NO_WAIT, True, True).tries == 11
    assert Policy.of(None, None, NO_WAIT, True, True).tries == math.inf
    assert Policy.of(0, "kafka:dead", NO_WAIT, True, True).tries == 1
    assert Policy.of(3, None, NO_WAIT, True, True).tries == 4


def test_reject_gives_up_the_whole_batch_or_the_one_named() -> None:
    assert given_up(UNLIMITED.decide(work(2), Outcome(whole=Reject("no")))) == {0: 1, 1: 1}
    verdict = UNLIMITED.decide(work(3), Outcome(failed={1: Reject("no")}))
    assert (verdict.finished, given_up(verdict)) == ([0, 2], {1: 1})


def test_retry_waits_as_asked_spends_a_try_and_never_halves() -> None:
    verdict = limited(retries=1).decide(work(2), Outcome(whole=Retry(7.0)))
    assert again(verdict) == [([0, 1], 2, 2)]
    assert verdict.again[0].wait == 7.0
    assert given_up(limited(retries=1).decide(work(2, attempt=2), Outcome(whole=Retry(7.0)))) == {0: 2, 1: 2}


@pytest.mark.parametrize("attempt", [1, 2, 5])
@pytest.mark.parametrize("bisect", [True, False])
def test_each_failure_waits_for_its_own_step_of_the_backoff(attempt: int, bisect: bool) -> None:
    policy = Policy.of(9, None, Steps(), bisect, True)
    for outcome in (Outcome(whole=BOOM), Outcome(whole=Retry()), Outcome(failed={1: BOOM}), Outcome(failed={0: Retry()})):
        [part] = policy.decide(work(3, attempt), outcome).again
        assert (part.attempt, part.wait) == (attempt + 1, attempt**2), outcome


def test_the_two_parts_of_a_batch_with_two_counts_wait_for_their_own_steps() -> None:
    policy = Policy.of(9, None, Steps(), True, True)
    assert [part.wait for part in policy.decide(work(3, 3, rest=1), Outcome(whole=BOOM)).again] == [9, 1]


def test_a_retry_named_for_a_record_spends_a_try_like_any_other() -> None:
    policy = limited(retries=2)
    assert again(policy.decide(work(2, attempt=2), Outcome(failed={1: Retry(7.0)}))) == [([1], 3, 3)]
    assert given_up(policy.decide(work(2, attempt=3), Outcome(failed={1: Retry(7.0)}))) == {1: 3}
    assert given_up(policy.decide(work(2, attempt=3, rest=1), Outcome(failed={0: Retry(), 1: Retry()}))) == {0: 3}


def test_a_retry_of_no_seconds_is_one_of_no_seconds() -> None:
    policy = Policy.of(2, None, Steps(), True, True)
    assert policy.decide(work(1), Outcome(whole=Retry(0.0))).again[0].wait == 0.0
    assert policy.decide(work(1), Outcome(failed={0: Retry(0.0)})).again[0].wait == 0.0


def test_a_reject_among_named_failures_is_given_up_alone() -> None:
    verdict = limited().decide(work(3), Outcome(failed={0: Reject("no"), 2: BOOM}))
    assert (verdict.finished, again(verdict), given_up(verdict)) == ([1], [([2], 2, 2)], {0: 1})


def test_invalid_records_are_given_up_beside_whatever_else_happened() -> None:
    outcome = Outcome(bad={1: Invalid("bad")}, whole=BOOM)
    verdict = limited().decide(work(3), outcome)
    assert (again(verdict), given_up(verdict)) == ([([0, 2], 2, 2)], {1: 1})
    verdict = limited().decide(work(4), Outcome(bad={3: Invalid("bad")}, failed={0: BOOM}, untouched=1))
    assert (again(verdict), given_up(verdict)) == ([([0, 1, 2], 2, 1)], {3: 1})


def test_in_order_all_wait_for_the_longest_and_out_of_order_each_for_its_own() -> None:
    outcome = Outcome(failed={0: Retry(5.0), 1: BOOM})
    assert [part.wait for part in limited().decide(work(2), outcome).again] == [5.0]
    assert sorted(part.wait for part in limited(ordered=False).decide(work(2), outcome).again) == [0.0, 5.0]


def test_out_of_order_the_untouched_do_not_wait_for_the_failed_one() -> None:
    verdict = limited(ordered=False).decide(work(3), Outcome(failed={0: Retry(5.0)}, untouched=1))
    assert [(list(part.indices), part.wait) for part in verdict.again] == [([0], 5.0), ([1, 2], 0.0)]


@pytest.mark.parametrize("seed", range(300))
def test_every_record_has_exactly_one_fate(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(1, 12)
    bad = {i: Invalid("x") for i in range(size) if rng.random() < 0.2}
    fine = [i for i in range(size) if i not in bad]
    outcome = Outcome(bad)
    if fine:
        failing = {i: rng.choice([BOOM, Retry(1.0), Reject()]) for i in rng.sample(fine, rng.randint(1, len(fine)))}
        first = min(failing)
        kinds = [Outcome(bad, whole=rng.choice([BOOM, Retry(), Reject()])), Outcome(bad, failing)]
        kinds.append(Outcome(bad, {first: failing[first]}, first + 1))
        outcome = rng.choice(kinds)
    policy = Policy.of(rng.choice([None, 0, 2]), None, NO_WAIT, rng.random() < 0.5, rng.random() < 0.5)
    attempt = rng.randint(1, 7)
    verdict = policy.decide(work(size, attempt, rng.choice([attempt, 1])), outcome)
    finished, again_, given = indices_of(verdict)
    assert sorted([*finished, *again_, *given]) == list(range(size))
    if policy.ordered and outcome.untouched is not None:
        assert again_ == sorted(again_), "what is tried again stays in order"


def test_backoff_doubles_to_a_limit_with_jitter() -> None:
    backoff = Backoff(first=1.0, limit=10.0)
    for attempt, most in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (500, 10.0)):
        waits = [backoff(attempt) for _ in range(200)]
        assert most / 2 <= min(waits) and max(waits) <= most
        assert max(waits) - min(waits) > most / 4


def test_what_is_given_up_is_in_order() -> None:
    outcome = Outcome(bad={2: Invalid("x")}, failed={0: Reject(), 4: Reject()})
    assert [one.index for one in limited().decide(work(5), outcome).given_up] == [0, 2, 4]


@pytest.mark.parametrize("policy", [UNLIMITED, limited(5)])
def test_what_a_handler_finds_unreadable_is_given_up_without_tries_or_waits(policy: Policy) -> None:
    """A whole batch over it is halved at once until that record stands alone."""
    unreadable = Invalid("headers")
    assert given_up(policy.decide(work(3), Outcome(failed={1: unreadable}, untouched=2))) == {1: 1}
    halved = policy.decide(work(3), Outcome(whole=unreadable))
    assert again(halved) == [([0, 1], 2, 2), ([2], 2, 2)] and all(part.wait == 0 for part in halved.again)
    assert given_up(policy.decide(work(1, attempt=3), Outcome(whole=unreadable))) == {0: 3}


def test_a_call_that_was_ended_between_records_has_not_finished_the_rest() -> None:
    verdict = limited().decide(work(4), Outcome(untouched=2))
    assert list(verdict.finished) == [0, 1] and again(verdict) == [([2, 3], 1, 1)]
