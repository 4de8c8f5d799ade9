"""Batches from Kafka, Amazon MSK, RabbitMQ or ActiveMQ to a function: in order, tried again, dead-lettered, never lost."""
