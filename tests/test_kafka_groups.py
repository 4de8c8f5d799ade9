"""Parts of the Kafka source that need no broker: names that are taken, patterns, ends of logs."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Message

from worker.connectors import kafka
from worker.connectors.kafka_batch import KafkaBatch
from worker.connectors.kafka_source import KafkaSource
from worker.errors import Refused, Unavailable
from worker.interface import Connection, Partition, SourceOptions

SOMEWHERE = Connection("kafka", "kafka", "h")
EMBEDDED = Connection("kafka", "kafka", "embedded")


def message(partition: int, offset: int, topic: str = "orders", error: KafkaError | None = None) -> Message:
    return Message(topic=topic, partition=partition, offset=offset, value=b"v", error=error)


def test_a_name_that_a_killed_member_had_is_asked_for_again_until_its_session_has_ended() -> None:
    """KIP-848 refuses the newcomer, and whether the other one is alive cannot be known before."""
    now = [0.0]
    options = SourceOptions(Connection("kafka", "kafka", "h", options={"group.protocol": "consumer"}), ("orders",), "group")
    source = KafkaSource(options, clock=lambda: now[0])
    text = f"Fatal error: {KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()}: Fatal consumer error: taken"
    for taken in (KafkaError(KafkaError.UNRELEASED_INSTANCE_ID), KafkaError(KafkaError._FATAL, text)):
        now[0], source._taken_since = 0.0, None
        refusal = source._refusal(taken)
        assert isinstance(refusal, Unavailable) and "perhaps the one that was killed" in str(refusal)
        now[0] = 60.0
        assert isinstance(source._refusal(taken), Unavailable)
        now[0] = 91.0
        assert isinstance(source._refusal(taken), Refused)
    assert isinstance(source._refusal(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)), Refused)


@pytest.mark.embedded
def test_a_pattern_that_the_client_refuses_is_named_and_final() -> None:
    source = KafkaSource(SourceOptions(EMBEDDED, ("^rx-(?!us).*",), "group"))
    with pytest.raises(Refused, match=r"the client does not understand \^rx-\(\?!us\)"):
        source.open(lambda partitions, lost: None)


def test_topics_whose_name_a_pattern_does_not_match_whole_are_told_with_kip_848(caplog: pytest.LogCaptureFixture) -> None:
    options = {"group.protocol": "consumer"}
    source = kafka.source(SourceOptions(Connection("kafka", "kafka", "h", options=options), ("^rx-(eu|us)",), "group"))
    source._known = {"rx-eu.orders": 1, "rx-us": 1, "other": 1}
    source._look_for_matches("^rx-(eu|us)")
    assert caplog.messages == [
        "with KIP-848 ^rx-(eu|us) must match a topic's whole name: rx-eu.orders and the like are not read; write ^rx-(eu|us).*"
    ]


def test_a_pattern_is_never_gone() -> None:
    source = kafka.source(SourceOptions(SOMEWHERE, ("^rx",), "group"))
    source._without_errors([message(0, 0, "^rx", KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))])
    assert not source._gone


def test_the_position_goes_to_the_end_of_the_log_only_over_what_is_finished() -> None:
    source = kafka.source(SourceOptions(SOMEWHERE, ("orders",), "group"))
    here = Partition("orders", 0)
    source._positions.own(here, 0, committed=True)
    source._delivered[here] = 7

    def end(offset: int) -> int:
        source._without_errors([message(0, offset, error=KafkaError(KafkaError._PARTITION_EOF))])
        source._follow_ends()
        return source._positions.next(here)

    assert end(9) == 0, "0 to 6 are in flight"
    source.commit([KafkaBatch(here, [message(0, 4)])])
    assert end(9) == 5, "some of them still"
    source._held = [message(0, 7)]
    source.commit([KafkaBatch(here, [message(0, 6)])])
    assert end(9) == 7, "one was popped and not handed out"
    source._held = []
    assert end(9) == 9
    assert end(8) == 9 and not source._ends, "that was before"
