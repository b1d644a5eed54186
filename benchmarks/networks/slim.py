"""TF-slim classifiers, GoogLeNet (Caffe) and the QuTiBench nets.

Architectures after tensorflow/models `research/slim/nets` and BVLC/caffe
`models/bvlc_googlenet/deploy.prototxt`; CNV and MLP after Blott et al., QuTiBench
(arXiv 1909.05009).
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.networks.builder import Net, Tensor
from hw_models.workload import Workload

_INCEPTION_V1 = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def inception_v1(rows: int, columns: int, *, caffe: bool = False) -> Workload:
    """Inception v1; Caffe's GoogLeNet has 5x5 kernels and local response normalisation."""
    net = Net()
    image = x = Tensor(3, rows, columns)
    x = net.pool(net.conv(x, 64, 7, 2), 3, 2)
    x = net.op("pool", x, x) if caffe else x
    x = net.conv(net.conv(x, 64, 1), 192, 3)
    x = net.op("pool", x, x) if caffe else x
    x = net.pool(x, 3, 2)
    for index, (a, b1, b2, c1, c2, d) in enumerate(_INCEPTION_V1):
        if index in {2, 7}:
            x = net.pool(x, 3 if index == 2 or caffe else 2, 2)
        x = net.concat(
            net.conv(x, a, 1),
            net.conv(net.conv(x, b1, 1), b2, 3),
            net.conv(net.conv(x, c1, 1), c2, 5 if caffe else 3),
            net.conv(net.pool(x, 3), d, 1),
        )
    net.dense(net.global_pool(x), 1000)
    return net.workload(image)


def googlenet(rows: int, columns: int) -> Workload:
    """GoogLeNet as Caffe's model zoo has it."""
    return inception_v1(rows, columns, caffe=True)


def inception_v2(rows: int, columns: int) -> Workload:
    """Inception v2 (batch norm) of TF-slim; its first layer is a separable convolution."""
    net = Net()
    image = x = Tensor(3, rows, columns)
    x = net.conv(net.conv(x, 24, 7, 2, groups=3, activation="none"), 64, 1)
    x = net.pool(x, 3, 2)
    x = net.pool(net.conv(net.conv(x, 64, 1), 192, 3), 3, 2)
    for a, b1, b2, c1, c2, d in ((64, 64, 64, 64, 96, 32), (64, 64, 96, 64, 96, 64)):
        x = _inception_v2_block(net, x, a, (b1, b2), (c1, c2), d)
    x = _inception_v2_reduction(net, x, (128, 160), (64, 96))
    for a, b1, b2, c1, c2, d in (
        (224, 64, 96, 96, 128, 128), (192, 96, 128, 96, 128, 128), (160, 128, 160, 128, 160, 96),
        (96, 128, 192, 160, 192, 96),
    ):  # fmt: skip
        x = _inception_v2_block(net, x, a, (b1, b2), (c1, c2), d)
    x = _inception_v2_reduction(net, x, (128, 192), (192, 256))
    for a, b1, b2, c1, c2, d in ((352, 192, 320, 160, 224, 128), (352, 192, 320, 192, 224, 128)):
        x = _inception_v2_block(net, x, a, (b1, b2), (c1, c2), d)
    net.dense(net.global_pool(x), 1001)
    return net.workload(image)


def _inception_v2_block(
    net: Net, x: Tensor, a: int, b: tuple[int, int], c: tuple[int, int], d: int
) -> Tensor:
    return net.concat(
        net.conv(x, a, 1),
        net.conv(net.conv(x, b[0], 1), b[1], 3),
        net.conv(net.conv(net.conv(x, c[0], 1), c[1], 3), c[1], 3),
        net.conv(net.pool(x, 3), d, 1),
    )


def _inception_v2_reduction(net: Net, x: Tensor, b: tuple[int, int], c: tuple[int, int]) -> Tensor:
    return net.concat(
        net.conv(net.conv(x, b[0], 1), b[1], 3, 2),
        net.conv(net.conv(net.conv(x, c[0], 1), c[1], 3), c[1], 3, 2),
        net.pool(x, 3, 2),
    )


def _stem_v4(net: Net, x: Tensor) -> Tensor:
    x = net.conv(net.conv(net.conv(x, 32, 3, 2, valid=True), 32, 3, valid=True), 64, 3)
    x = net.concat(net.pool(x, 3, 2, valid=True), net.conv(x, 96, 3, 2, valid=True))
    left = net.conv(net.conv(x, 64, 1), 96, 3, valid=True)
    right = net.conv(net.conv(net.conv(x, 64, 1), 64, (1, 7)), 64, (7, 1))
    x = net.concat(left, net.conv(right, 96, 3, valid=True))
    return net.concat(net.conv(x, 192, 3, 2, valid=True), net.pool(x, 3, 2, valid=True))


def inception_v4(rows: int, columns: int) -> Workload:
    """Inception v4."""
    net = Net()
    image = Tensor(3, rows, columns)
    x = _stem_v4(net, image)
    for _ in range(4):
        x = net.concat(
            net.conv(x, 96, 1),
            net.conv(net.conv(x, 64, 1), 96, 3),
            net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3),
            net.conv(net.pool(x, 3), 96, 1),
        )
    x = net.concat(
        net.conv(x, 384, 3, 2, valid=True),
        net.conv(net.conv(net.conv(x, 192, 1), 224, 3), 256, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(7):
        b = net.conv(net.conv(net.conv(x, 192, 1), 224, (1, 7)), 256, (7, 1))
        c = net.conv(net.conv(net.conv(x, 192, 1), 192, (7, 1)), 224, (1, 7))
        c = net.conv(net.conv(c, 224, (7, 1)), 256, (1, 7))
        x = net.concat(net.conv(x, 384, 1), b, c, net.conv(net.pool(x, 3), 128, 1))
    b = net.conv(net.conv(x, 192, 1), 192, 3, 2, valid=True)
    c = net.conv(net.conv(net.conv(x, 256, 1), 256, (1, 7)), 320, (7, 1))
    x = net.concat(b, net.conv(c, 320, 3, 2, valid=True), net.pool(x, 3, 2, valid=True))
    for _ in range(3):
        b = net.conv(x, 384, 1)
        c = net.conv(net.conv(net.conv(x, 384, 1), 448, (3, 1)), 512, (1, 3))
        x = net.concat(
            net.conv(x, 256, 1),
            net.conv(b, 256, (1, 3)), net.conv(b, 256, (3, 1)),
            net.conv(c, 256, (1, 3)), net.conv(c, 256, (3, 1)),
            net.conv(net.pool(x, 3), 256, 1),
        )  # fmt: skip
    net.dense(net.global_pool(x), 1001)
    return net.workload(image)


def inception_resnet_v2(rows: int, columns: int) -> Workload:
    """Inception-ResNet v2."""
    net = Net()
    image = x = Tensor(3, rows, columns)
    x = net.conv(net.conv(net.conv(x, 32, 3, 2, valid=True), 32, 3, valid=True), 64, 3)
    x = net.conv(net.pool(x, 3, 2, valid=True), 80, 1, valid=True)
    x = net.pool(net.conv(x, 192, 3, valid=True), 3, 2, valid=True)
    x = net.concat(
        net.conv(x, 96, 1),
        net.conv(net.conv(x, 48, 1), 64, 5),
        net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3),
        net.conv(net.pool(x, 3), 64, 1),
    )
    for _ in range(10):
        c = net.conv(net.conv(net.conv(x, 32, 1), 48, 3), 64, 3)
        b = net.conv(net.conv(x, 32, 1), 32, 3)
        mixed = net.concat(net.conv(x, 32, 1), b, c)
        x = net.add(net.conv(mixed, x.channels, 1), x)
    x = net.concat(
        net.conv(x, 384, 3, 2, valid=True),
        net.conv(net.conv(net.conv(x, 256, 1), 256, 3), 384, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(20):
        b = net.conv(net.conv(net.conv(x, 128, 1), 160, (1, 7)), 192, (7, 1))
        x = net.add(net.conv(net.concat(net.conv(x, 192, 1), b), x.channels, 1), x)
    x = net.concat(
        net.conv(net.conv(x, 256, 1), 384, 3, 2, valid=True),
        net.conv(net.conv(x, 256, 1), 288, 3, 2, valid=True),
        net.conv(net.conv(net.conv(x, 256, 1), 288, 3), 320, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(10):
        b = net.conv(net.conv(net.conv(x, 192, 1), 224, (1, 3)), 256, (3, 1))
        x = net.add(net.conv(net.concat(net.conv(x, 192, 1), b), x.channels, 1), x)
    net.dense(net.global_pool(net.conv(x, 1536, 1)), 1001)
    return net.workload(image)


def resnet(rows: int, columns: int, units: Sequence[int], version: int) -> Workload:
    """ResNet of TF-slim: the last unit of a block strides, in its 3x3 convolution.

    Version 2 puts batch norm and ReLU before the convolutions: a pass of its own in each unit.
    """
    net = Net()
    image = x = Tensor(3, rows, columns)
    x = net.pool(net.conv(x, 64, 7, 2), 3, 2)
    for block, count in enumerate(units):
        depth = 64 * 2**block
        for unit in range(count):
            stride = 2 if unit == count - 1 and block < 3 else 1
            source = net.activate(x) if version == 2 else x
            if unit == 0:
                shortcut = net.conv(source, 4 * depth, 1, stride)
            else:
                shortcut = net.pool(x, 1, stride) if stride > 1 else x
            y = net.conv(net.conv(source, depth, 1), depth, 3, stride)
            x = net.add(net.conv(y, 4 * depth, 1), shortcut)
    x = net.activate(x) if version == 2 else x
    net.dense(net.global_pool(x), 1000 if version == 1 else 1001)
    return net.workload(image)


def resnet_basic(
    net: Net,
    image: Tensor,
    units: Sequence[int] = (2, 2, 2, 2),
    strides: Sequence[int] = (1, 2, 2, 2),
) -> Tensor:
    """Note the body of a ResNet of basic blocks (torchvision's resnet18 by default)."""
    x = net.pool(net.conv(image, 64, 7, 2), 3, 2)
    for block, (count, first_stride) in enumerate(zip(units, strides, strict=False)):
        width = 64 * 2**block
        for unit in range(count):
            stride = first_stride if unit == 0 else 1
            same = stride == 1 and x.channels == width
            shortcut = x if same else net.conv(x, width, 1, stride)
            x = net.add(net.conv(net.conv(x, width, 3, stride), width, 3), shortcut)
    return x


def mobilenet_v1_body(net: Net, image: Tensor, width: float) -> list[Tensor]:
    """Note the layers of MobileNet v1 and return the tensor after each of its 14 layers."""

    def channels(count: int) -> int:
        return max(8, int(count * width))

    x = net.conv(image, channels(32), 3, 2)
    steps = [x]
    for out, stride in (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1),
        (512, 1), (512, 1), (1024, 2), (1024, 1),
    ):  # fmt: skip
        x = net.conv(net.depthwise(x, 3, stride), channels(out), 1)
        steps.append(x)
    return steps


def mobilenet_v1(rows: int, columns: int, width: float) -> Workload:
    """MobileNet v1."""
    net = Net()
    image = Tensor(3, rows, columns)
    x = mobilenet_v1_body(net, image, width)[-1]
    net.dense(net.global_pool(x), 1001)
    return net.workload(image)


def cnv(width: float) -> Workload:
    """CNV of QuTiBench on 32x32 images; `width` scales every hidden layer."""
    net = Net()
    image = x = Tensor(3, 32, 32)
    for channels in (128, 256, 512):
        for _ in range(2):
            x = net.conv(x, int(channels * width), 3, valid=True)
        x = net.pool(x, 2, 2, valid=True) if channels < 512 else x
    for channels in (int(1024 * width), int(1024 * width), 10):
        x = net.dense(x, channels)
    return net.workload(image)


def mlp(width: float) -> Workload:
    """MLP of QuTiBench on 28x28 images; `width` scales every hidden layer."""
    net = Net()
    image = x = Tensor(1, 28, 28)
    for channels in (*(int(2048 * width),) * 3, 10):
        x = net.dense(x, channels)
    return net.workload(image)
