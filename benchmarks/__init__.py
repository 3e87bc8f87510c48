"""One module a goal: `python -m benchmarks.NAME [--quick]`, peers in the same run, one JSON line at the end.

With `--record` the result is kept in `benchmarks/results/` and on the page `docs/reference/benchmarks.md`.
"""
