"""What a cost model is asked about: the layers of one network, or of many variants of it.

A `Workload` is one network. A `WorkloadBatch` is N variants of one network as arrays, so that a
whole population is priced at once; `WorkloadBatch.of` turns the former into the latter.

Which ops to list: convolutions and matrix products with batch norm and bias folded in, and every
other op that moves data. ReLU is fused into the convolution by every runtime described here and is
not listed; SiLU, sigmoid and the like are listed as "activation", the device's parameters say how
much of their traffic remains. LeakyReLU ("leaky") and Mish ("mish") have kinds of their own:
some runtimes have no kernel for them and leave them to a plugin. "convert" is what a map costs
that is written in integers and read in floating point by some layer, or the other way round. A
matrix product is a 1x1 convolution whose output has one row.

Axis letters: N candidates, L convolutions, K other ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from hw_models.errors import InputError

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

OpKind: TypeAlias = Literal[
    "pool", "resize", "concat", "copy", "add", "activation", "leaky", "mish", "softmax", "decode",
    "unknown", "convert",
]  # fmt: skip
OP_KINDS: tuple[OpKind, ...] = (
    "pool", "resize", "concat", "copy", "add", "activation", "leaky", "mish", "softmax", "decode",
    "unknown", "convert",
)  # fmt: skip

ACTIVATIONS: tuple[OpKind, ...] = ("activation", "leaky", "mish")
"""Kinds that pass once over a tensor, or are left to a plugin."""

PATTERNS: tuple[str, ...] = ("dense", "unstructured", "2ep", "3ep", "2:4")
"""Where the kept weights of a layer may lie.

`2ep`, `3ep`: two or three entries of every 3x3 kernel (R-TOSS, arXiv 2303.02191); `2:4`: two of
four neighbouring weights (Ampere's sparse tensor cores); `unstructured`: anywhere.
"""

INTEGER_BITS, FLOAT_BITS = 8, 32
"""Most bits that runtimes compute with in integers; bits of the maps that they convert to."""
CONVERSION = "/convert"
"""End of the name of an op that changes the format of what a layer wrote."""

DEPTHWISE = 0
"""The value of `ConvBatch.groups` that means one group for each input channel."""


@dataclass(frozen=True, slots=True)
class ConvShape:
    """One convolution (or matrix product) as the runtime sees it.

    Args:
        name: Unique within the network.
        in_channels: Input channels over all groups.
        out_channels: Output channels over all groups.
        kernel: (height, width).
        stride: (vertical, horizontal).
        groups: 1 for dense, `in_channels` for depthwise.
        out_h: Output rows.
        out_w: Output columns.
        weight_bits: Bits a weight is stored in.
        act_bits: Bits an activation is stored in.
        density: Fraction of the weights that is kept, 0 < density <= 1.
        pattern: One of `PATTERNS`.
        siblings: Number of convolutions, this one included, that read the same tensor with the same
            kernel and stride: the runtime runs them as one.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    out_h: int
    out_w: int
    weight_bits: int = 16
    act_bits: int = 16
    density: float = 1.0
    pattern: str = "dense"
    siblings: int = 1

    @property
    def weights(self) -> int:
        """Number of weights, kept or not; the bias is not counted."""
        return self.out_channels * self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, as if dense."""
        return self.weights * self.out_h * self.out_w


@dataclass(frozen=True, slots=True)
class OtherOp:
    """An op that costs time without multiplying: what counts is the data it moves.

    Args:
        name: Unique within the network.
        kind: One of `OP_KINDS`.
        in_channels: Channels read, summed over all inputs.
        out_channels: Channels written.
        in_h: Input rows.
        in_w: Input columns.
        out_h: Output rows.
        out_w: Output columns.
        act_bits: Bits an activation is stored in.
    """

    name: str
    kind: OpKind
    in_channels: int
    out_channels: int
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    act_bits: int = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """The layers of one network in execution order.

    Args:
        layers: Convolutions and other ops.
        batch: Images processed at once.
        input_shape: (channels, rows, columns) of one image.
    """

    layers: tuple[ConvShape | OtherOp, ...]
    batch: int = 1
    input_shape: tuple[int, int, int] = (3, 640, 640)

    @property
    def convs(self) -> tuple[ConvShape, ...]:
        """The convolutions in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, ConvShape))

    @property
    def others(self) -> tuple[OtherOp, ...]:
        """The other ops in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, OtherOp))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole batch, as if dense."""
        return self.batch * sum(conv.macs for conv in self.convs)


def conversion(name: str, channels: int, rows: int, columns: int) -> OtherOp:
    """Return the op that changes the format of the map `name`."""
    size = (channels, channels, rows, columns, rows, columns)
    return OtherOp(name + CONVERSION, "convert", *size, act_bits=FLOAT_BITS)


def is_integer(conv: ConvShape) -> bool:
    """Tell whether a convolution computes in integers, where a runtime can."""
    return max(conv.weight_bits, conv.act_bits) <= INTEGER_BITS


def with_siblings(
    layers: Sequence[ConvShape | OtherOp], reads: Sequence[Hashable]
) -> tuple[ConvShape | OtherOp, ...]:
    """Note which dense convolutions a runtime runs as one.

    Args:
        layers: The layers of a network.
        reads: For each layer, anything that is equal for two layers that read the same tensor.
    """
    keys = [
        (source, layer.kernel, layer.stride)
        if isinstance(layer, ConvShape) and layer.groups == 1
        else None
        for layer, source in zip(layers, reads, strict=True)
    ]
    counts = Counter(keys)
    return tuple(
        replace(layer, siblings=counts[key]) if isinstance(layer, ConvShape) and key else layer
        for layer, key in zip(layers, keys, strict=True)
    )


@dataclass(frozen=True, slots=True)
class ConvBatch:
    """The convolutions of N variants of one network; what a variant lacks has no channels.

    Arrays are [N, L] or broadcast to it ([1, L] where all variants agree).

    Args:
        names: Layer names, length L.
        kernel: (height, width) of each layer, length L.
        stride: (vertical, horizontal) of each layer, length L.
        groups: Groups of each layer, length L; `DEPTHWISE` follows the input channels.
        in_channels: See `ConvShape`.
        out_channels: See `ConvShape`.
        out_h: See `ConvShape`.
        out_w: See `ConvShape`.
        weight_bits: See `ConvShape`.
        act_bits: See `ConvShape`.
        density: See `ConvShape`.
        pattern: Indices into `PATTERNS`.
        siblings: See `ConvShape`, length L; empty for all alone.
    """

    names: tuple[str, ...]
    kernel: tuple[tuple[int, int], ...]
    stride: tuple[tuple[int, int], ...]
    groups: tuple[int, ...]
    in_channels: IntArray
    out_channels: IntArray
    out_h: IntArray
    out_w: IntArray
    weight_bits: IntArray
    act_bits: IntArray
    density: FloatArray
    pattern: IntArray
    siblings: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OpBatch:
    """The other ops of N variants of one network; arrays are [N, K] or broadcast to it.

    What a variant lacks has no channels.

    Args:
        names: Op names, length K.
        kinds: Op kinds, length K.
        in_channels: See `OtherOp`.
        out_channels: See `OtherOp`.
        in_h: See `OtherOp`.
        in_w: See `OtherOp`.
        out_h: See `OtherOp`.
        out_w: See `OtherOp`.
        act_bits: See `OtherOp`.
    """

    names: tuple[str, ...]
    kinds: tuple[OpKind, ...]
    in_channels: IntArray
    out_channels: IntArray
    in_h: IntArray
    in_w: IntArray
    out_h: IntArray
    out_w: IntArray
    act_bits: IntArray


@dataclass(frozen=True, slots=True)
class WorkloadBatch:
    """N variants of one network.

    Args:
        convs: Their convolutions.
        others: Their other ops.
        batch: Images processed at once.
    """

    convs: ConvBatch
    others: OpBatch
    batch: int = 1

    @property
    def size(self) -> int:
        """Number of variants N."""
        arrays = [*_arrays(self.convs, CONV_FIELDS), *_arrays(self.others, OP_FIELDS)]
        return max(len(array) for array in arrays)

    def rows(self, first: int, last: int) -> WorkloadBatch:
        """Return the variants first..last-1 (views; broadcast axes stay broadcast)."""

        def cut(batch: ConvBatch | OpBatch, fields: tuple[str, ...]) -> dict[str, Any]:
            arrays = zip(fields, _arrays(batch, fields), strict=True)
            return {name: a if len(a) == 1 else a[first:last] for name, a in arrays}

        return WorkloadBatch(
            replace(self.convs, **cut(self.convs, CONV_FIELDS)),
            replace(self.others, **cut(self.others, OP_FIELDS)),
            self.batch,
        )

    @classmethod
    def of(cls, workload: Workload) -> WorkloadBatch:
        """Return the batch of one variant, N = 1."""
        return cls(_conv_batch(workload.convs), _op_batch(workload.others), workload.batch)


CONV_FIELDS = (
    "in_channels", "out_channels", "out_h", "out_w", "weight_bits", "act_bits", "density",
    "pattern",
)  # fmt: skip
OP_FIELDS = ("in_channels", "out_channels", "in_h", "in_w", "out_h", "out_w", "act_bits")


def pattern_code(pattern: str) -> int:
    """Return the index of a pattern's name in `PATTERNS`.

    Raises:
        InputError: The name is none of `PATTERNS`.
    """
    if pattern not in PATTERNS:
        raise InputError(
            f"Unknown sparsity pattern {pattern!r}; expected one of {', '.join(PATTERNS)}."
        )
    return PATTERNS.index(pattern)


def _arrays(batch: ConvBatch | OpBatch, fields: tuple[str, ...]) -> list[npt.NDArray[Any]]:
    return [cast("npt.NDArray[Any]", getattr(batch, field)) for field in fields]


def _row(values: list[int]) -> IntArray:
    return np.asarray(values, dtype=np.int64).reshape(1, -1)


def _conv_batch(convs: tuple[ConvShape, ...]) -> ConvBatch:
    return ConvBatch(
        names=tuple(conv.name for conv in convs),
        kernel=tuple(conv.kernel for conv in convs),
        stride=tuple(conv.stride for conv in convs),
        groups=tuple(conv.groups for conv in convs),
        in_channels=_row([conv.in_channels for conv in convs]),
        out_channels=_row([conv.out_channels for conv in convs]),
        out_h=_row([conv.out_h for conv in convs]),
        out_w=_row([conv.out_w for conv in convs]),
        weight_bits=_row([conv.weight_bits for conv in convs]),
        act_bits=_row([conv.act_bits for conv in convs]),
        density=np.asarray([[conv.density for conv in convs]], dtype=np.float64),
        pattern=_row([pattern_code(conv.pattern) for conv in convs]),
        siblings=tuple(conv.siblings for conv in convs),
    )


def _op_batch(ops: tuple[OtherOp, ...]) -> OpBatch:
    return OpBatch(
        names=tuple(op.name for op in ops),
        kinds=tuple(op.kind for op in ops),
        in_channels=_row([op.in_channels for op in ops]),
        out_channels=_row([op.out_channels for op in ops]),
        in_h=_row([op.in_h for op in ops]),
        in_w=_row([op.in_w for op in ops]),
        out_h=_row([op.out_h for op in ops]),
        out_w=_row([op.out_w for op in ops]),
        act_bits=_row([op.act_bits for op in ops]),
    )
