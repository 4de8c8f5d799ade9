"""An app for `worker run` that says when its first batch has come, and ends."""

from __future__ import annotations

import os
import time

from benchmarks.peers.client import unique
from worker import App, Batch

app = App("bench")


@app.handler(f"kafka:{os.environ.get('BENCH_TOPIC', 'none')}", group=unique(), batch_size=500)
def first(batch: Batch) -> None:
    os.write(1, f"{time.monotonic()}\n".encode())
    os._exit(0)
