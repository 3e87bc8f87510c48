"""One module a goal: `python -m benchmarks.NAME [--quick]`, peers in the same run, one JSON line at the end."""
