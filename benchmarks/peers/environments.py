"""Where the peers live: each kind in a virtual environment of its own, pinned, made when it is first needed."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(__file__).parent / ".environments"
PINS = {
    "aiokafka": ["aiokafka==0.14.0", "cramjam==2.14.0", "pydantic==2.14.4"],
    "faststream": [
        "faststream[confluent,kafka,rabbit]==0.7.8",
        "confluent-kafka==2.16.1",
        "aiokafka==0.14.0",
        "aio-pika==10.2.1",
        "pydantic==2.14.4",
    ],
    "quix": ["quixstreams==3.28.1"],
    "arroyo": ["sentry-arroyo==2.48.0", "confluent-kafka==2.16.1", "pydantic==2.14.4"],
    "faust": ["faust-streaming==0.15.3", "mode-streaming==0.7.1", "aiokafka==0.14.0", "pydantic==2.14.4"],
    "dramatiq": ["dramatiq[rabbitmq]==2.2.1", "pika==1.4.4", "pydantic==2.14.4"],
    "queues": ["pika==1.4.4", "aio-pika==10.2.1", "stomp.py==9.0.0", "pydantic==2.14.4"],
    "plots": ["matplotlib==3.10.*"],
}


def python(name: str) -> str:
    """The interpreter of an environment; ours for the name ""."""
    if not name:
        return sys.executable
    folder = HOME / name
    wanted = "\n".join(PINS[name])
    stamp, found = folder / "pins", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making an environment for {name}: {', '.join(PINS[name])}")
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([found, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *PINS[name]], check=True)
        stamp.write_text(wanted)
    return str(found)
