"""What the worker costs beside a bare client: `python -m benchmarks` or `make bench`.

Every measured run is a process of its own (`benchmarks.measured`) that prints one line of JSON; the cases run them in turns,
ours and the bare client's, and judge the ratio of each pair.
"""
