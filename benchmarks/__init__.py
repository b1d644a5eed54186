"""Measurements side by side; each module is a command that prints a table.

    python -m benchmarks.throughput     evaluations a second, pool efficiency, candidates priced a second
    python -m benchmarks.hw_models      error of the hardware models on rows they were not fitted on
"""
