"""What does a network cost on a device? Numpy only: no torch, no ray.

workload.py      ConvShape, Workload, WorkloadBatch: what a cost model is asked about
onnx_reader.py   any ONNX file -> Workload; onnx_shapes.py loads it and infers shapes,
                 onnx_decoding.py finds what decodes boxes in it
networks.py      the networks of the measured rows (measurements/networks.csv) -> Workload
device.py        profiles: capabilities, power modes, fitted coefficients (devices/*.yaml)
cost.py          CostModel: latency with interval, energy, size, one value a layer and the sum
cost_table.py    measured tables of layer times, as SPDY publishes them
points.py        measured rows (measurements/*.csv), and pricing many of them at once
calibration.py   rows -> profile; latency_fit.py and energy_fit.py do the fitting
live.py          what is measured on a live CPU worker, and the plan of its profile
probes.py probe_graph.py   the networks of that: ONNX file and Workload from one description
measurement.py   Measurement, MeasureProtocol, Device: what was measured, how, on what
device.proto     what a device worker understands; device_pb2.py is generated from it
client.py        a connection to one worker; gRPC's errors become ours here
member.py        one device: steady, calm, and computing what it must
pool.py          measuring on whichever device is free and well
leases.py golden.py   who may use a device; the network that shows whether it is well
worker/          the program that runs on the board: a distribution of its own
devices_cli.py   paretrim devices
cli_options.py   how to reach protected workers: options of several commands
cli.py           paretrim predict, paretrim calibrate
errors.py        the errors a user can meet
"""
