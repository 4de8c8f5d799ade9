"""The worker beside what a user would pick instead: `python -m benchmarks.peers --help`. Each peer runs in an environment of its
own, and the files of the peers import nothing of ours but `client` and what that needs."""
