"""What does a network cost on a device? Numpy only: no torch, no ray.

workload.py      ConvShape, Workload, WorkloadBatch: what a cost model is asked about
onnx_reader.py   any ONNX file -> Workload
networks.py      the networks of the measured rows (measurements/networks.csv) -> Workload
device.py        profiles: capabilities, power modes, fitted coefficients (devices/*.yaml)
cost.py          CostModel: latency with interval, energy, size, one value a layer and the sum
cost_table.py    measured tables of layer times, as SPDY publishes them
points.py        measured rows (measurements/*.csv), and pricing many of them at once
calibration.py   rows -> profile; latency_fit.py and energy_fit.py do the fitting
cli.py           paretrim predict, paretrim calibrate
errors.py        the errors a user can meet
"""
