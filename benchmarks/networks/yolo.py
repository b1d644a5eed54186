"""Classic YOLOv5, YOLOv7 and YOLOX, COCO heads.

Architectures after ultralytics/yolov5 `models/yolov5s.yaml`, WongKinYiu/yolov7
`cfg/deploy/{yolov7,yolov7-tiny}.yaml` and Megvii-BaseDetection/YOLOX `yolox/models`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.networks.builder import Net, Tensor
from hw_models.workload import Workload

_OUTPUTS = 255
"""3 anchors x (4 box sides + objectness + 80 classes)."""


def _heads(net: Net, maps: Sequence[Tensor], *, decode: bool = True) -> None:
    """Predict with anchors on every map."""
    heads = [net.conv(x, _OUTPUTS, 1, activation="none") for x in maps]
    for head in heads if decode else ():
        net.decode(head, _OUTPUTS)


def yolov5(rows: int, columns: int, depth: float, width: float, *, decode: bool = True) -> Workload:
    """Classic YOLOv5 v6 with anchors."""
    net = Net("silu")

    def c(channels: int) -> int:
        return 8 * math.ceil(channels * width / 8)

    def c3(x: Tensor, channels: int, units: int, shortcut: bool) -> Tensor:
        y = net.conv(x, channels // 2, 1)
        for _ in range(max(1, round(units * depth))):
            z = net.conv(net.conv(y, channels // 2, 1), channels // 2, 3)
            y = net.add(z, y) if shortcut else z
        return net.conv(net.concat(y, net.conv(x, channels // 2, 1)), channels, 1)

    image = Tensor(3, rows, columns)
    x = net.conv(image, c(64), 6, 2)
    levels = []
    for channels, units in ((128, 3), (256, 6), (512, 9), (1024, 3)):
        x = c3(net.conv(x, c(channels), 3, 2), c(channels), units, True)
        levels.append(x)
    y = net.conv(x, c(1024) // 2, 1)
    a = net.pool(y, 5)
    b = net.pool(a, 5)
    x = net.conv(net.concat(y, a, b, net.pool(b, 5)), c(1024), 1)
    laterals = []
    for channels, skip in ((512, levels[2]), (256, levels[1])):
        x = net.conv(x, c(channels), 1)
        laterals.append(x)
        x = c3(net.concat(net.upsample(x), skip), c(channels), 3, False)
    outputs = [x]
    for channels, lateral in ((512, laterals[1]), (1024, laterals[0])):
        x = net.concat(net.conv(x, c(channels) // 2, 3, 2), lateral)
        x = c3(x, c(channels), 3, False)
        outputs.append(x)
    _heads(net, outputs, decode=decode)
    return net.workload(image)


def yolov7(rows: int, columns: int) -> Workload:
    """YOLOv7 (deploy form: re-parameterised, implicit layers folded)."""
    net = Net("silu")
    image = Tensor(3, rows, columns)

    def elan(x: Tensor, inner: int, out: int) -> Tensor:
        first, second = net.conv(x, inner, 1), net.conv(x, inner, 1)
        third = net.conv(net.conv(second, inner, 3), inner, 3)
        fourth = net.conv(net.conv(third, inner, 3), inner, 3)
        return net.conv(net.concat(fourth, third, second, first), out, 1)

    def elan_h(x: Tensor, out: int) -> Tensor:
        parts = [net.conv(x, out, 1), net.conv(x, out, 1)]
        y = parts[1]
        for _ in range(4):
            y = net.conv(y, out // 2, 3)
            parts.append(y)
        return net.conv(net.concat(*reversed(parts)), out, 1)

    def down(x: Tensor, channels: int, *others: Tensor) -> Tensor:
        left = net.conv(net.pool(x, 2, 2), channels, 1)
        right = net.conv(net.conv(x, channels, 1), channels, 3, 2)
        return net.concat(right, left, *others)

    x = net.conv(net.conv(net.conv(image, 32, 3), 64, 3, 2), 64, 3)
    x = elan(net.conv(x, 128, 3, 2), 64, 256)
    c3 = elan(down(x, 128), 128, 512)
    c4 = elan(down(c3, 256), 256, 1024)
    c5 = elan(down(c4, 512), 256, 1024)
    # SPPCSPC
    y = net.conv(net.conv(net.conv(c5, 512, 1), 512, 3), 512, 1)
    y = net.concat(y, net.pool(y, 5), net.pool(y, 9), net.pool(y, 13))
    y = net.conv(net.conv(y, 512, 1), 512, 3)
    p5 = net.conv(net.concat(y, net.conv(c5, 512, 1)), 512, 1)
    up = net.upsample(net.conv(p5, 256, 1))
    p4 = elan_h(net.concat(net.conv(c4, 256, 1), up), 256)
    up = net.upsample(net.conv(p4, 128, 1))
    n3 = elan_h(net.concat(net.conv(c3, 128, 1), up), 128)
    n4 = elan_h(down(n3, 128, p4), 256)
    n5 = elan_h(down(n4, 256, p5), 512)
    _heads(net, [net.conv(x, 2 * x.channels, 3) for x in (n3, n4, n5)])
    return net.workload(image)


def yolov7_tiny(rows: int, columns: int) -> Workload:
    """YOLOv7-tiny: LeakyReLU."""
    net = Net("leaky")
    image = Tensor(3, rows, columns)

    def elan(x: Tensor, inner: int, out: int) -> Tensor:
        first, second = net.conv(x, inner, 1), net.conv(x, inner, 1)
        third = net.conv(second, inner, 3)
        return net.conv(net.concat(net.conv(third, inner, 3), third, second, first), out, 1)

    x = elan(net.conv(net.conv(image, 32, 3, 2), 64, 3, 2), 32, 64)
    c3 = elan(net.pool(x, 2, 2), 64, 128)
    c4 = elan(net.pool(c3, 2, 2), 128, 256)
    c5 = elan(net.pool(c4, 2, 2), 256, 512)
    left, y = net.conv(c5, 256, 1), net.conv(c5, 256, 1)
    y = net.conv(net.concat(net.pool(y, 13), net.pool(y, 9), net.pool(y, 5), y), 256, 1)
    p5 = net.conv(net.concat(y, left), 256, 1)
    p4 = elan(net.concat(net.conv(c4, 128, 1), net.upsample(net.conv(p5, 128, 1))), 64, 128)
    n3 = elan(net.concat(net.conv(c3, 64, 1), net.upsample(net.conv(p4, 64, 1))), 32, 64)
    n4 = elan(net.concat(net.conv(n3, 128, 3, 2), p4), 64, 128)
    n5 = elan(net.concat(net.conv(n4, 256, 3, 2), p5), 128, 256)
    _heads(net, [net.conv(x, 2 * x.channels, 3) for x in (n3, n4, n5)])
    return net.workload(image)


def yolox(
    rows: int, columns: int, depth: float, width: float, *, separable: bool = False
) -> Workload:
    """YOLOX; `separable` for the nano model, whose 3x3 convolutions are depthwise separable."""
    net = Net("silu")

    def c(channels: int) -> int:
        return int(channels * width)

    def conv3(x: Tensor, channels: int, stride: int = 1) -> Tensor:
        if separable:
            return net.conv(net.depthwise(x, 3, stride), channels, 1)
        return net.conv(x, channels, 3, stride)

    def csp(x: Tensor, channels: int, units: int, shortcut: bool) -> Tensor:
        y = net.conv(x, channels // 2, 1)
        for _ in range(max(1, round(units * depth))):
            z = conv3(net.conv(y, channels // 2, 1), channels // 2)
            y = net.add(z, y) if shortcut else z
        return net.conv(net.concat(y, net.conv(x, channels // 2, 1)), channels, 1)

    image = Tensor(3, rows, columns)
    # Focus: four strided slices joined.
    focus = Tensor(12, rows // 2, columns // 2)
    x = net.conv(net.op("copy", focus, focus), c(64), 3)
    levels = []
    for channels, units in ((128, 3), (256, 9), (512, 9)):
        x = csp(conv3(x, c(channels), 2), c(channels), units, True)
        levels.append(x)
    x = conv3(x, c(1024), 2)
    y = net.conv(x, c(1024) // 2, 1)
    x = net.conv(net.concat(y, net.pool(y, 5), net.pool(y, 9), net.pool(y, 13)), c(1024), 1)
    x = csp(x, c(1024), 3, False)
    laterals = []
    for channels, skip in ((512, levels[2]), (256, levels[1])):
        x = net.conv(x, c(channels), 1)
        laterals.append(x)
        x = csp(net.concat(net.upsample(x), skip), c(channels), 3, False)
    outputs = [x]
    for channels, lateral in ((256, laterals[1]), (512, laterals[0])):
        x = csp(net.concat(conv3(x, c(channels), 2), lateral), 2 * c(channels), 3, False)
        outputs.append(x)
    for x in outputs:
        stem = net.conv(x, c(256), 1)
        classes = conv3(conv3(stem, c(256)), c(256))
        boxes = conv3(conv3(stem, c(256)), c(256))
        net.conv(classes, 80, 1, activation="sigmoid")
        net.conv(boxes, 4, 1, activation="none")
        net.conv(boxes, 1, 1, activation="sigmoid")
        net.decode(x._replace(channels=85), 85)
    return net.workload(image)
