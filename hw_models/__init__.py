"""What does a network cost on a device? Numpy only: no torch, no ray.

workload.py      ConvShape, Workload, WorkloadBatch: what a cost model is asked about
onnx_reader.py   any ONNX file -> Workload
device.py        profiles: capabilities, power modes, fitted coefficients (devices/*.yaml)
cost.py          CostModel: latency with interval, energy, size, one value a layer and the sum
errors.py        the errors a user can meet
"""
