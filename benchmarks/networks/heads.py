"""SSD-MobileNet-v1, SSD-ResNet34, fcn-resnet18 and the trt_pose nets.

Architectures after tensorflow/models `object_detection` (ssd_mobilenet_v1_coco), release 0.5 of
mlcommons/inference (`others/cloud/single_stage_detector/pytorch/ssd_r34.py`), dusty-nv/
pytorch-segmentation (fcn_resnet18) and NVIDIA-AI-IOT/trt_pose (`models/common.py`).
"""

from __future__ import annotations

from benchmarks.networks.builder import Net, Tensor
from benchmarks.networks.slim import mobilenet_v1_body, resnet_basic
from hw_models.workload import Workload


def ssd_mobilenet_v1(rows: int, columns: int) -> Workload:
    """SSD-MobileNet-v1 with its box and class predictors.

    Suppression is not included; MLPerf's plugin for it reads the predictors' maps as they are.
    """
    net = Net()
    image = Tensor(3, rows, columns)
    steps = mobilenet_v1_body(net, image, 1.0)
    maps = [steps[11], steps[13]]
    for squeeze, channels in ((256, 512), (128, 256), (128, 256), (64, 128)):
        maps.append(net.conv(net.conv(maps[-1], squeeze, 1), channels, 3, 2))
    for index, x in enumerate(maps):
        anchors = 3 if index == 0 else 6
        net.conv(x, anchors * 4, 1, activation="none")
        net.conv(x, anchors * 91, 1, activation="none")
    return net.workload(image)


def ssd_resnet34(rows: int, columns: int) -> Workload:
    """SSD-ResNet34 of MLPerf ("SSD-Large") with its box and class predictors, 81 classes.

    The body ends with its third block, which keeps the resolution of the second one; predictors
    take every third place. Suppression is not included.
    """
    net = Net()
    image = Tensor(3, rows, columns)
    maps = [resnet_basic(net, image, (3, 4, 6), (1, 2, 1))]
    for squeeze, channels, stride, valid in (
        (256, 512, 2, False),
        (256, 512, 2, False),
        (128, 256, 2, False),
        (128, 256, 2, True),
        (128, 256, 1, True),
    ):
        maps.append(net.conv(net.conv(maps[-1], squeeze, 1), channels, 3, stride, valid=valid))
    for x, anchors in zip(maps, (4, 6, 6, 6, 4, 4), strict=True):
        net.conv(x, anchors * 4, 3, 3, activation="none")
        net.conv(x, anchors * 81, 3, 3, activation="none")
    return net.workload(image)


def fcn_resnet18(rows: int, columns: int) -> Workload:
    """fcn-resnet18 of jetson-inference: no upsampling in the engine, 21 classes."""
    net = Net()
    image = Tensor(3, rows, columns)
    x = resnet_basic(net, image)
    net.conv(net.conv(x, 128, 3), 21, 1, activation="none")
    return net.workload(image)


def _pose_head(net: Net, x: Tensor) -> None:
    for maps in (18, 42):
        y = x
        for _ in range(3):
            y = net.transposed(y, 256, 4, 2)
        attention = net.conv(y, 256, 3, activation="sigmoid")
        net.conv(net.add(attention, y), maps, 1, activation="none")


def pose_resnet18(rows: int, columns: int) -> Workload:
    """resnet18_baseline_att of trt_pose."""
    net = Net()
    image = Tensor(3, rows, columns)
    _pose_head(net, resnet_basic(net, image))
    return net.workload(image)


def pose_densenet121(rows: int, columns: int) -> Workload:
    """densenet121_baseline_att of trt_pose."""
    net = Net()
    image = Tensor(3, rows, columns)
    x = net.pool(net.conv(image, 64, 7, 2), 3, 2)
    for block, units in enumerate((6, 12, 24, 16)):
        for _ in range(units):
            y = net.conv(net.conv(net.activate(x), 128, 1), 32, 3, activation="none")
            x = net.concat(x, y)
        if block < 3:
            x = net.conv(net.activate(x), x.channels // 2, 1, activation="none")
            x = net.pool(x, 2, 2)
    _pose_head(net, net.activate(x))
    return net.workload(image)
