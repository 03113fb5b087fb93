"""Benchmarks: the same cases for pytest-benchmark (our history) and ``python -m bench.grid``."""
