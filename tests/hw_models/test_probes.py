from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hw_models.cost import CostModel
from hw_models.device import load_profile
from hw_models.live import DESIGN
from hw_models.networks import measured_network
from hw_models.onnx_reader import read_onnx
from hw_models.probes import probe
from hw_models.workload import ConvShape

NAMES = (
    "stem-16", "conv3-24-40", "conv1-64-32", "down-8", "pools-32", "join-16",
    "yolov5u-w12-d33-c5-s0-q100", "yolov5u-w25-d33-c80-s3-q50",
)  # fmt: skip


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_probe_runs_and_its_file_has_the_layers_of_its_workload(
    name: str, int8: bool, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = probe(name, 64, int8=int8)
    assert made is not None
    path = tmp_path / "probe.onnx"
    path.write_bytes(made.onnx())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = (1, *made.workload.input_shape)
    for output in session.run(None, {"images": np.full(shape, 0.5, np.float32)}):
        assert np.isfinite(output).all()
        assert output.std() > 1e-4  # neither dead nor denormal, which would be slow
    read = read_onnx(path, bits=32).workload
    convs = {conv.name: conv for conv in read.convs if conv.name.startswith("conv")}
    listed = made.workload.convs
    assert set(convs) == {conv.name for conv in listed}
    for conv in listed:
        same = convs[conv.name]
        assert (conv.macs, conv.out_h, conv.weight_bits) == (
            same.macs, same.out_h, same.weight_bits
        )  # fmt: skip


def test_int8_probes_run_in_integers(tmp_path: Path) -> None:
    """What is timed as INT8 must not be computed in FP32 by the runtime."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    made = probe("yolov5u-w25-d33-c80-s0-q100", 64, int8=True)
    assert made is not None
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made.onnx(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    integer = sum(node.op_type == "QLinearConv" for node in nodes)
    quantized = sum(conv.weight_bits == 8 for conv in made.workload.convs)
    assert integer == quantized > 60


def test_bits_follow_the_share_and_ops_follow_what_they_read() -> None:
    some = measured_network("yolov5u-w25-d33-c80-s3-q50", 320, 320, bits=8)
    bits = [layer.act_bits for layer in some.layers if isinstance(layer, ConvShape)]
    assert 0.2 < np.mean(np.array(bits) == 8) < 0.8
    every = measured_network("yolov5u-w25-d33-c80-s0-q100", 320, 320, bits=8)
    assert {op.act_bits for op in every.others if op.kind == "activation"} == {8}
    assert {op.act_bits for op in every.others if op.kind == "decode"} == {32}
    plain = measured_network("yolov5u-w25-d33-c80-s0-q100", 320, 320, bits=32)
    assert {layer.act_bits for layer in plain.layers} == {32}
    changes = [sum(op.kind == "convert" for op in x.others) for x in (some, every, plain)]
    assert changes[0] > 30
    # what the last, unquantised convolutions of the head read
    assert changes[1:] == [6, 0]


def test_fewer_channels_cost_less() -> None:
    model = CostModel(load_profile("jetson-nano-yolobench"))
    dense = measured_network("yolov5u-w25-d33-c80-s0-q100", 320, 320, bits=32)
    pruned = measured_network("yolov5u-w25-d33-c80-s1-q100", 320, 320, bits=32)
    assert model.predict(pruned).latency_ms < model.predict(dense).latency_ms


def test_the_design_is_made_of_probes_and_holds_whole_networks_out() -> None:
    for trial in DESIGN:
        assert probe(trial.network, 32, int8=False) is not None, trial
    held = {trial.network for trial in DESIGN if trial.role == "validate"}
    assert len(held) >= 8
    fitted = {(trial.network, trial.rows) for trial in DESIGN if trial.role == "calibrate"}
    assert not {(t.network, t.rows) for t in DESIGN if t.role == "validate"} & fitted


def test_other_names_are_no_probes() -> None:
    assert probe("yolov5s", 320, int8=False) is None
