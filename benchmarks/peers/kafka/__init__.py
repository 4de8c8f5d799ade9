"""Who reads from Kafka: one file each, written the way its own documentation recommends for speed, with commits on."""
