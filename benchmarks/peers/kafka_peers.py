"""Who is measured on Kafka, in which environment, and how fast each is about."""

from __future__ import annotations

from benchmarks.peers.run import Peer

OURS = Peer("ours", "kafka.ours")
BARE = Peer("bare consume(500)", "kafka.confluent")
AIOKAFKA = Peer("aiokafka getmany", "kafka.aiokafka_getmany", "aiokafka", speed=300_000)
FASTSTREAM = Peer("FastStream confluent, raw", "kafka.faststream_batch", "faststream", speed=150_000)
PEERS = [
    OURS,
    BARE,
    AIOKAFKA,
    FASTSTREAM,
    Peer("FastStream aiokafka, raw", "kafka.faststream_batch", "faststream", 100_000, {"PEER": "aiokafka"}),
    Peer("FastStream, its defaults", "kafka.faststream_batch", "faststream", 20_000, {"PEER": "defaults"}),
    Peer("Quix Streams", "kafka.quix_dataframe", "quix", 40_000),
    Peer("Arroyo", "kafka.arroyo_batch", "arroyo", 40_000),
    Peer("Faust", "kafka.faust_take", "faust", 5_000),
]
