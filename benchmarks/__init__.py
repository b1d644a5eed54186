"""Measurements side by side; each module is a command that prints a table.

python -m benchmarks.throughput     evaluations, pool efficiency, candidates priced
python -m benchmarks.hw_models      error of the hardware models on rows they were not fitted on
python -m benchmarks.quantization   bits, clips, roundings and grids: accuracy kept without training
python -m benchmarks.pruning        criteria, ways to make up for channels, choices of what goes
python -m benchmarks.patterns       sparsity patterns: storage, accuracy kept, predicted gains
"""
