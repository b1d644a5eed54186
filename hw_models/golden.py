"""A small network whose outputs are known: is a device computing rightly, and as fast as before?

Its time is the reference against which drift is seen. The worker makes the inputs of a model from a
fixed seed (`numpy.random.RandomState(0).random_sample` a tensor, in the file's order), so the
outputs can be computed here.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from hw_models.measurement import DeviceCallError, Measurement, MeasureProtocol, Output

SIZE = 80
CHANNELS = (3, 16, 32, 32)
TOLERANCE = 0.01
"""Relative; kernels that sum in another order or in TF32 stay well below, wrong ones do not."""

PROTOCOL = MeasureProtocol("fp32", warm_up=5, number=20, repeat=10, min_time_s=0.0, idle_s=0.0)
"""Samples of some milliseconds: a program that takes turns on the same core slows each of them,
while most single inferences would slip through between its turns."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The network and what it must compute."""

    model: bytes
    expected: Output


@functools.cache
def golden() -> Golden:
    """Make the network: three 3x3 convolutions with ReLU, 32 million multiply-accumulates."""
    from onnx import TensorProto, helper, load_from_string, numpy_helper
    from onnx.reference import ReferenceEvaluator

    random = np.random.RandomState(7)
    nodes, weights = [], []
    tensor = "x"
    for layer in range(len(CHANNELS) - 1):
        fan_in = CHANNELS[layer] * 9
        shape = (CHANNELS[layer + 1], CHANNELS[layer], 3, 3)
        values = random.randn(*shape).astype(np.float32) * np.float32(math.sqrt(2 / fan_in))
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        strides = [2, 2] if layer == 0 else [1, 1]
        nodes.append(
            helper.make_node(
                "Conv", [tensor, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=strides
            )
        )
        tensor = f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [tensor]))
    half = SIZE // 2
    graph = helper.make_graph(
        nodes,
        "golden",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, CHANNELS[-1], half, half])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    data: bytes = model.SerializeToString()
    image = np.random.RandomState(0).random_sample((1, 3, SIZE, SIZE)).astype(np.float32)
    (result,) = ReferenceEvaluator(load_from_string(data)).run(None, {"x": image})
    numbers = np.asarray(result, np.float64)
    rms = float(np.sqrt(np.square(numbers).mean()))
    return Golden(data, Output(tensor, numbers.shape, float(numbers.mean()), rms, finite=True))


def check_outputs(measurement: Measurement, expected: Output) -> None:
    """Raise DeviceCallError unless the device computed what it must."""
    close = functools.partial(math.isclose, rel_tol=TOLERANCE)
    for output in measurement.outputs:
        if output.name == expected.name:
            if (
                output.finite
                and output.dims == expected.dims
                and close(output.mean, expected.mean)
                and close(output.rms, expected.rms)
            ):
                return
            raise DeviceCallError(
                f"{measurement.device}: it computes wrongly: expected {expected}, got {output}."
            )
    raise DeviceCallError(f"{measurement.device}: the golden model's output is missing.")
