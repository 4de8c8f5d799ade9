"""Batches from Kafka, Amazon MSK, RabbitMQ or ActiveMQ to a function: in order, tried again, dead-lettered, never lost."""

from worker.app import App
from worker.decode import Decode
from worker.errors import ConfigError, Expired, Failed, Invalid, Reject, Retry, WorkerError
from worker.interface import Batch, Partition, Record
from worker.retry import Backoff

__all__ = [
    "App",
    "Backoff",
    "Batch",
    "ConfigError",
    "Decode",
    "Expired",
    "Failed",
    "Invalid",
    "Partition",
    "Record",
    "Reject",
    "Retry",
    "WorkerError",
]
