"""A small notation for convolutional networks; makes `Workload`s without torch.

A tensor is its shape (channels, rows, columns); an op of `Net` takes tensors, notes a layer and
returns the tensor it makes. Batch norm, bias and ReLU are part of the convolution; other
activations are noted as the pass over memory they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from hw_models.workload import ConvShape, OpKind, OtherOp, Workload


class Tensor(NamedTuple):
    """The shape of one image's activation."""

    channels: int
    rows: int
    columns: int


Network: TypeAlias = Callable[[int, int], Workload]
"""A network as a function of its input's rows and columns."""

_FUSED = {"none", "relu", "leaky"}


@dataclass(slots=True)
class Net:
    """Collects the layers of a network while it is written down.

    Args:
        activation: What follows a convolution unless said otherwise: `none`, `relu`, `leaky`
            (fused), or `silu`, `mish`, `sigmoid` (a pass of their own).
        layers: The layers so far.
    """

    activation: str = "relu"
    layers: list[ConvShape | OtherOp] = field(default_factory=list)

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        valid: bool = False,
        activation: str | None = None,
    ) -> Tensor:
        """Convolve, padded to ceil(size / stride) or, if `valid`, not at all."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        rows, columns = (
            ((x.rows - kh) // stride + 1, (x.columns - kw) // stride + 1)
            if valid
            else (-(-x.rows // stride), -(-x.columns // stride))
        )
        self.layers.append(
            ConvShape(
                f"conv{len(self.layers)}", x.channels, channels, (kh, kw), (stride, stride),
                groups, rows, columns,
            )
        )  # fmt: skip
        out = Tensor(channels, rows, columns)
        kind = self.activation if activation is None else activation
        return out if kind in _FUSED else self.op("activation", out, out)

    def depthwise(
        self, x: Tensor, kernel: int = 3, stride: int = 1, activation: str | None = None
    ) -> Tensor:
        """Convolve every channel on its own."""
        return self.conv(x, x.channels, kernel, stride, groups=x.channels, activation=activation)

    def transposed(self, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        """Convolve transposed: every input pixel meets the whole kernel."""
        self.conv(x, channels, kernel, activation="none")
        return Tensor(channels, x.rows * stride, x.columns * stride)

    def dense(self, x: Tensor, channels: int) -> Tensor:
        """Multiply the flattened tensor with a matrix."""
        return self.conv(Tensor(math.prod(x), 1, 1), channels, activation="none")

    def op(self, kind: OpKind, x: Tensor, out: Tensor, channels_in: int | None = None) -> Tensor:
        """Note an op that moves data."""
        self.layers.append(
            OtherOp(
                f"{kind}{len(self.layers)}", kind, channels_in or x.channels, out.channels,
                x.rows, x.columns, out.rows, out.columns,
            )
        )  # fmt: skip
        return out

    def pool(self, x: Tensor, kernel: int, stride: int = 1, *, valid: bool = False) -> Tensor:
        """Pool, padded unless `valid`."""
        rows, columns = (
            ((x.rows - kernel) // stride + 1, (x.columns - kernel) // stride + 1)
            if valid
            else (-(-x.rows // stride), -(-x.columns // stride))
        )
        return self.op("pool", x, Tensor(x.channels, rows, columns))

    def global_pool(self, x: Tensor) -> Tensor:
        """Average all pixels."""
        return self.op("pool", x, Tensor(x.channels, 1, 1))

    def concat(self, *tensors: Tensor) -> Tensor:
        """Join channels."""
        channels = sum(tensor.channels for tensor in tensors)
        first = tensors[0]
        return self.op("concat", first, Tensor(channels, first.rows, first.columns), channels)

    def split(self, x: Tensor, parts: int = 2) -> Tensor:
        """Take one of `parts` equal slices of the channels."""
        part = Tensor(x.channels // parts, x.rows, x.columns)
        return self.op("concat", part, part)

    def add(self, x: Tensor, _: Tensor) -> Tensor:
        """Add two tensors: the second one is read by the kernel that makes the first."""
        return self.op("add", x, x)

    def activate(self, x: Tensor) -> Tensor:
        """Pass once over the tensor."""
        return self.op("activation", x, x)

    def upsample(self, x: Tensor, factor: int = 2) -> Tensor:
        """Enlarge."""
        return self.op("resize", x, Tensor(x.channels, x.rows * factor, x.columns * factor))

    def workload(self, image: Tensor) -> Workload:
        """Return what was written down."""
        return Workload(tuple(self.layers), 1, tuple(image))
