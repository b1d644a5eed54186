from __future__ import annotations

import pytest

from hw_models.errors import InputError
from hw_models.networks import at_size, measured_network
from hw_models.workload import (
    ConvShape,
    OtherOp,
    Workload,
    WorkloadBatch,
    pattern_code,
    with_siblings,
)


def conv(name: str, kernel: int = 1, stride: int = 1, groups: int = 1) -> ConvShape:
    return ConvShape(name, 8, 16, (kernel, kernel), (stride, stride), groups, 10, 10)


def test_weights_and_macs() -> None:
    assert conv("c", 3).weights == 16 * 8 * 9
    assert conv("c", 3, groups=8).weights == 16 * 9
    workload = Workload((conv("c", 3), OtherOp("p", "pool", 16, 16, 10, 10, 5, 5)), batch=4)
    assert workload.macs == 4 * 100 * 16 * 8 * 9
    assert [layer.name for layer in workload.convs] == ["c"]
    assert [layer.name for layer in workload.others] == ["p"]


def test_siblings_read_the_same_tensor_with_the_same_kernel() -> None:
    pool = OtherOp("p", "pool", 8, 8, 10, 10, 10, 10)
    layers = [conv("a"), conv("b"), conv("c", 3), conv("d", stride=2), conv("e", groups=8), pool,
              conv("f")]  # fmt: skip
    marked = with_siblings(layers, ["x", "x", "x", "x", "x", "x", "y"])
    counts = [layer.siblings for layer in marked if isinstance(layer, ConvShape)]
    assert counts == [2, 2, 1, 1, 1, 1]
    assert marked[5] is pool


def test_rows_of_a_batch_keep_what_all_share() -> None:
    batch = WorkloadBatch.of(measured_network("yolov8n", 320, 320))
    assert batch.size == 1
    part = batch.rows(5, 9)
    assert part.convs.in_channels is batch.convs.in_channels
    assert part.convs.siblings == batch.convs.siblings


def test_unknown_patterns_are_refused() -> None:
    with pytest.raises(InputError, match="Unknown sparsity pattern '9ep'"):
        pattern_code("9ep")


@pytest.mark.parametrize(
    ("name", "size", "gmacs", "million_weights"),
    [  # published figures: multiply-adds and parameters, biases and batch norm left out
        ("resnet50", 224, 4.09, 25.5),
        ("vgg16", 224, 15.5, 138.3),
        ("mobilenet_v2", 224, 0.301, 3.47),
        ("inception_v4", 299, 12.27, 42.6),
        ("inception_resnet_v2", 299, 13.2, 55.7),
        ("mobilenet_v1_1p0_224", 224, 0.569, 4.21),
        ("yolov3", 416, 32.9, 61.9),
        ("yolov4", 416, 30.0, 64.3),
        ("yolov5_d33w25", 640, 2.25, 1.87),
        ("yolov5_d1w1", 640, 54.5, 46.5),
        ("yolov7", 640, 52.3, 36.9),
        ("yolov8n", 640, 4.37, 3.15),
        ("yolox_s", 640, 13.4, 8.95),
    ],
)
def test_layer_tables_have_the_published_size(
    name: str, size: int, gmacs: float, million_weights: float
) -> None:
    workload = measured_network(name, size, size)
    assert workload.macs / 1e9 == pytest.approx(gmacs, rel=0.012)
    weights = sum(layer.weights for layer in workload.convs) / 1e6
    assert weights == pytest.approx(million_weights, rel=0.012)


def test_sizes_scale_and_single_pixels_stay() -> None:
    workload = at_size(measured_network("resnet50", 224, 224), 448, 224)
    assert (workload.convs[0].out_h, workload.convs[0].out_w) == (224, 112)
    assert workload.convs[-1].out_h == 1


def test_an_unknown_network_is_an_input_error() -> None:
    with pytest.raises(InputError, match="No layer table of network 'resnet51'"):
        measured_network("resnet51", 224, 224)


def test_flattened_maps_grow_with_the_area() -> None:
    pixel = OtherOp("pixel", "pool", 8, 8, 20, 20, 1, 1)
    tokens = OtherOp("tokens", "softmax", 400, 400, 400, 1, 400, 1)
    network = Workload((pixel, tokens), input_shape=(3, 640, 640))
    assert at_size(network, 320, 1280).others == (
        OtherOp("pixel", "pool", 8, 8, 10, 40, 1, 1),
        OtherOp("tokens", "softmax", 400, 400, 400, 1, 400, 1),
    )
    assert at_size(network, 320, 320).others[1].in_h == 100
