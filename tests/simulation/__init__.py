"""Seeded random runs of the real turn over a fake broker: `python -m tests.simulation --help`."""
