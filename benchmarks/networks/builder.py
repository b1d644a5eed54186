"""A small notation for convolutional networks; makes `Workload`s without torch.

A tensor is its shape (channels, rows, columns); an op of `Net` takes tensors, notes a layer and
returns the tensor it makes. Batch norm, bias and ReLU are part of the convolution; other
activations are noted as the pass over memory they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from hw_models.workload import ConvShape, OpKind, OtherOp, Workload, with_siblings


class Tensor(NamedTuple):
    """The shape of one image's activation, and the layer that made it (-1: the input)."""

    channels: int
    rows: int
    columns: int
    made_by: int = -1

    @property
    def elements(self) -> int:
        """Number of values."""
        return self.channels * self.rows * self.columns


Network: TypeAlias = Callable[[int, int], Workload]
"""A network as a function of its input's rows and columns."""

_FUSED = {"none", "relu"}


def _kind(activation: str) -> OpKind:
    kinds: dict[str, OpKind] = {"mish": "mish", "leaky": "leaky"}
    return kinds.get(activation, "activation")


@dataclass(slots=True)
class Net:
    """Collects the layers of a network while it is written down.

    Args:
        activation: What follows a convolution unless said otherwise: `none`, `relu`, `leaky`
            (fused), or `silu`, `sigmoid` (a pass of their own), `mish` (see hw_models.workload).
        layers: The layers so far.
        sources: For each layer, the layer that made what it reads.
    """

    activation: str = "relu"
    layers: list[ConvShape | OtherOp] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

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
        out = self._made(Tensor(channels, rows, columns), x)
        kind = self.activation if activation is None else activation
        if kind in _FUSED:
            return out
        return self.op(_kind(kind), out, out)

    def _made(self, out: Tensor, x: Tensor) -> Tensor:
        self.sources.append(x.made_by)
        return out._replace(made_by=len(self.layers) - 1)

    def depthwise(
        self, x: Tensor, kernel: int = 3, stride: int = 1, activation: str | None = None
    ) -> Tensor:
        """Convolve every channel on its own."""
        return self.conv(x, x.channels, kernel, stride, groups=x.channels, activation=activation)

    def transposed(self, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        """Convolve transposed: every input pixel meets the whole kernel."""
        out = self.conv(x, channels, kernel, activation="none")
        return out._replace(rows=x.rows * stride, columns=x.columns * stride)

    def dense(self, x: Tensor, channels: int) -> Tensor:
        """Multiply the flattened tensor with a matrix."""
        return self.conv(Tensor(x.elements, 1, 1, x.made_by), channels, activation="none")

    def op(self, kind: OpKind, x: Tensor, out: Tensor, channels_in: int | None = None) -> Tensor:
        """Note an op that moves data."""
        self.layers.append(
            OtherOp(
                f"{kind}{len(self.layers)}", kind, channels_in or x.channels, out.channels,
                x.rows, x.columns, out.rows, out.columns,
            )
        )  # fmt: skip
        return self._made(out, x)

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
        part = Tensor(x.channels // parts, x.rows, x.columns, x.made_by)
        return self.op("concat", part, part)

    def add(self, x: Tensor, _: Tensor) -> Tensor:
        """Add two tensors: the second one is read by the kernel that makes the first."""
        return self.op("add", x, x)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the network's activation to a tensor that no convolution made."""
        return self.op(_kind(self.activation), x, x)

    def upsample(self, x: Tensor, factor: int = 2) -> Tensor:
        """Enlarge."""
        return self.op("resize", x, Tensor(x.channels, x.rows * factor, x.columns * factor))

    def decode(self, x: Tensor, channels: int) -> None:
        """Turn a head's map into boxes and scores, `channels` values a pixel."""
        self.op("decode", x, x._replace(channels=channels))

    def workload(self, image: Tensor) -> Workload:
        """Return what was written down."""
        layers = with_siblings(self.layers, self.sources)
        return Workload(layers, 1, (image.channels, image.rows, image.columns))
