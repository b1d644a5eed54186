"""YOLOv3, YOLOv4 and their tiny, SPP, CSP and x-mish variants, COCO heads.

Architectures after the cfg files of AlexeyAB/darknet and WongKinYiu/ScaledYOLOv4.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.networks.builder import Net, Tensor
from hw_models.workload import Workload

_OUTPUTS = 255
"""3 anchors x (4 box sides + objectness + 80 classes)."""


def _head(net: Net, x: Tensor, channels: int) -> None:
    net.decode(net.conv(net.conv(x, channels, 3), _OUTPUTS, 1, activation="none"), _OUTPUTS)


def _neck5(net: Net, x: Tensor, channels: int) -> Tensor:
    for index in range(5):
        x = net.conv(x, channels * (1 + index % 2), 1 + 2 * (index % 2))
    return x


def _spp(net: Net, x: Tensor) -> Tensor:
    return net.concat(x, net.pool(x, 5), net.pool(x, 9), net.pool(x, 13))


def yolov3(rows: int, columns: int, *, spp: bool = False) -> Workload:
    """YOLOv3, with spatial pyramid pooling if asked."""
    net = Net("leaky")
    image = x = Tensor(3, rows, columns)
    x = net.conv(x, 32, 3)
    levels = []
    for channels, units in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        x = net.conv(x, channels, 3, 2)
        for _ in range(units):
            x = net.add(net.conv(net.conv(x, channels // 2, 1), channels, 3), x)
        levels.append(x)
    if spp:
        x = net.conv(net.conv(net.conv(x, 512, 1), 1024, 3), 512, 1)
        x = net.conv(_spp(net, x), 512, 1)
        x = net.conv(net.conv(x, 1024, 3), 512, 1)
    else:
        x = _neck5(net, x, 512)
    _head(net, x, 1024)
    for channels, skip in ((256, levels[3]), (128, levels[2])):
        x = net.concat(net.upsample(net.conv(x, channels, 1)), skip)
        x = _neck5(net, x, channels)
        _head(net, x, 2 * channels)
    return net.workload(image)


def yolov3_spp(rows: int, columns: int) -> Workload:
    """YOLOv3-SPP."""
    return yolov3(rows, columns, spp=True)


def yolov3_tiny(rows: int, columns: int) -> Workload:
    """YOLOv3-tiny."""
    net = Net("leaky")
    image = x = Tensor(3, rows, columns)
    for channels in (16, 32, 64, 128):
        x = net.pool(net.conv(x, channels, 3), 2, 2)
    skip = net.conv(x, 256, 3)
    x = net.conv(net.pool(skip, 2, 2), 512, 3)
    x = net.conv(net.conv(net.pool(x, 2, 1), 1024, 3), 256, 1)
    _head(net, x, 512)
    _head(net, net.concat(net.upsample(net.conv(x, 128, 1)), skip), 256)
    return net.workload(image)


def _csp_stage(net: Net, x: Tensor, channels: int, units: int, *, whole: bool = False) -> Tensor:
    """CSPDarknet stage: `whole` for the first one, which does not halve the channels."""
    x = net.conv(x, channels, 3, 2)
    part = channels if whole else channels // 2
    inner = channels // 2
    left, y = net.conv(x, part, 1), net.conv(x, part, 1)
    for _ in range(units):
        y = net.add(net.conv(net.conv(y, inner, 1), part, 3), y)
    return net.conv(net.concat(net.conv(y, part, 1), left), channels, 1)


def yolov4(rows: int, columns: int) -> Workload:
    """YOLOv4: Mish in the backbone, LeakyReLU in the neck."""
    net = Net("mish")
    image = Tensor(3, rows, columns)
    x = _csp_stage(net, net.conv(image, 32, 3), 64, 1, whole=True)
    levels = []
    for channels, units in ((128, 2), (256, 8), (512, 8), (1024, 4)):
        x = _csp_stage(net, x, channels, units)
        levels.append(x)
    net.activation = "leaky"
    x = _spp(net, net.conv(net.conv(net.conv(x, 512, 1), 1024, 3), 512, 1))
    x = top = net.conv(net.conv(net.conv(x, 512, 1), 1024, 3), 512, 1)
    middle = []
    for channels, skip in ((256, levels[2]), (128, levels[1])):
        up = net.upsample(net.conv(x, channels, 1))
        x = _neck5(net, net.concat(net.conv(skip, channels, 1), up), channels)
        middle.append(x)
    _head(net, x, 256)
    for channels, skip in ((256, middle[0]), (512, top)):
        x = _neck5(net, net.concat(net.conv(x, channels, 3, 2), skip), channels)
        _head(net, x, 2 * channels)
    return net.workload(image)


def yolov4_tiny(rows: int, columns: int) -> Workload:
    """YOLOv4-tiny."""
    net = Net("leaky")
    image = x = Tensor(3, rows, columns)
    x = net.conv(net.conv(x, 32, 3, 2), 64, 3, 2)
    skip = x
    for channels in (64, 128, 256):
        x = net.conv(x, channels, 3)
        first = net.conv(net.split(x), channels // 2, 3)
        second = net.conv(first, channels // 2, 3)
        skip = net.conv(net.concat(second, first), channels, 1)
        x = net.pool(net.concat(x, skip), 2, 2)
    x = net.conv(net.conv(x, 512, 3), 256, 1)
    _head(net, x, 512)
    _head(net, net.concat(net.upsample(net.conv(x, 128, 1)), skip), 256)
    return net.workload(image)


def _scaled_csp(net: Net, x: Tensor, channels: int, units: int) -> Tensor:
    """Neck stage of ScaledYOLOv4: BottleneckCSP2 without shortcut."""
    x = net.conv(x, channels, 1)
    left, y = net.conv(x, channels, 1, activation="none"), x
    for _ in range(units):
        y = net.conv(net.conv(y, channels, 1), channels, 3)
    return net.conv(net.activate(net.concat(y, left)), channels, 1)


def scaled_yolov4(rows: int, columns: int, width: float, depths: Sequence[int]) -> Workload:
    """YOLOv4-csp (width 1) and YOLOv4x-mish (width 1.25), Mish throughout.

    Args:
        rows: Input rows.
        columns: Input columns.
        width: Channel multiplier.
        depths: Units of the five backbone stages and of the neck.
    """
    net = Net("mish")

    def c(channels: int) -> int:
        return int(channels * width)

    image = Tensor(3, rows, columns)
    x = net.conv(net.conv(image, c(32), 3), c(64), 3, 2)
    for _ in range(depths[0]):
        x = net.add(net.conv(net.conv(x, c(32), 1), c(64), 3), x)
    levels = []
    for channels, units in zip((128, 256, 512, 1024), depths[1:5], strict=True):
        x = _csp_stage(net, x, c(channels), units)
        levels.append(x)
    # SPPCSP
    left = net.conv(x, c(512), 1, activation="none")
    y = _spp(net, net.conv(net.conv(net.conv(x, c(512), 1), c(512), 3), c(512), 1))
    y = net.conv(net.conv(y, c(512), 1), c(512), 3)
    x = top = net.conv(net.activate(net.concat(y, left)), c(512), 1)
    units, middle = depths[5], []
    for channels, skip in ((256, levels[2]), (128, levels[1])):
        up = net.upsample(net.conv(x, c(channels), 1))
        x = _scaled_csp(net, net.concat(net.conv(skip, c(channels), 1), up), c(channels), units)
        middle.append(x)
    _head(net, x, c(256))
    for channels, skip in ((256, middle[0]), (512, top)):
        x = net.concat(net.conv(x, c(channels), 3, 2), skip)
        x = _scaled_csp(net, x, c(channels), units)
        _head(net, x, c(2 * channels))
    return net.workload(image)


def yolov4_csp(rows: int, columns: int) -> Workload:
    """YOLOv4-csp."""
    return scaled_yolov4(rows, columns, 1.0, (1, 2, 8, 8, 4, 2))


def yolov4x_mish(rows: int, columns: int) -> Workload:
    """YOLOv4x-mish."""
    return scaled_yolov4(rows, columns, 1.25, (1, 3, 10, 10, 5, 3))
