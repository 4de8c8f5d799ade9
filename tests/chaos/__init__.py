"""Campaigns of faults on real brokers: `python -m tests.chaos --help`."""
