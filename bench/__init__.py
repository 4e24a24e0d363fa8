"""Benchmarks beside their peers, on this machine, in one run: ``make bench``. Measurements, not tests.

Each ``bench_*.py`` has a ``main()`` that prints medians, ratios and the target, and returns 1 when it is missed.
"""
