"""A program that prints when its first record has come: with no import but the client's, as somebody without us would have it."""

import os
import sys
import time

from confluent_kafka import Consumer

client = Consumer({"bootstrap.servers": sys.argv[1], "group.id": f"bench-{os.urandom(6).hex()}", "auto.offset.reset": "earliest"})
client.subscribe([sys.argv[2]])
while client.poll(0.1) is None:
    pass
print(time.monotonic(), flush=True)
os._exit(0)
