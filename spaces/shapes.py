"""Candidates as workloads: the shapes of all layers, for many candidates at once.

Axis letters: N candidates, G groups, L layers (convolutions), K other ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hw_models.workload import (
    CONVERSION,
    DEPTHWISE,
    FLOAT_BITS,
    INTEGER_BITS,
    OP_FIELDS,
    PATTERNS,
    ConvBatch,
    ConvShape,
    OpBatch,
    OpKind,
    OtherOp,
    Workload,
    WorkloadBatch,
    conversion,
    pattern_code,
)
from spaces.groups import Network
from spaces.sparsity.pattern import Pattern
from spaces.trace import FloatArray, IntArray

Bits = tuple[int, int]
"""(weight bits, activation bits) of a layer."""

BASELINE_BITS: Bits = (16, 16)
"""Bits of a layer that is left alone; Jetson engines run in FP16."""


class Shapes:
    """Turns sizes, kept channels, bits and patterns into a `WorkloadBatch`.

    Args:
        network: Layers and groups.
        baseline: Bits that what no layer reads has.
        converts: Whether an op has the format of what it reads, not that in which it is read, and
            maps that change their format are listed: one op behind each convolution, without
            channels where every layer reads what it writes in the format it has.
    """

    def __init__(self, network: Network, baseline: Bits, converts: bool = False) -> None:
        is_conv = np.array([isinstance(step, ConvShape) for step in network.steps])
        reads, writes = network.widths()
        self._conv_widths = reads.of(is_conv), writes.of(is_conv)
        self._op_widths = reads.of(~is_conv), writes.of(~is_conv)
        self._convs = [step for step in network.steps if isinstance(step, ConvShape)]
        self._others = [step for step in network.steps if isinstance(step, OtherOp)]
        self._imgsz = network.imgsz
        self._baseline = baseline
        # For each group inside of a residual block, that block's convolutions and other ops.
        self._blocks = [
            (number, inside[is_conv], inside[~is_conv])
            for number, group in enumerate(network.groups)
            if group.block
            for inside in [network.steps_in(group.block)]
        ]
        layer_of_step = np.cumsum(is_conv) - 1
        readers = [layer_of_step[list(numbers)] for numbers in network.readers]
        self._op_readers = _Related(readers, ~is_conv, len(self._convs))
        self._converts = converts
        self._conv_readers = _Related(readers, is_conv, len(self._convs))
        # What no layer reads is decoded, in floating point.
        writers = [
            layer_of_step[list(numbers if network.readers[step] else ())]
            for step, numbers in enumerate(network.writers)
        ]
        self._op_writers = _Related(writers, ~is_conv, len(self._convs))

    def batch(
        self,
        imgsz_N1: IntArray,
        kept_NG: IntArray,
        bits_NL2: IntArray,
        pattern_NL: IntArray,
        patterns: Sequence[Pattern],
    ) -> WorkloadBatch:
        """Return the workloads of N candidates.

        Args:
            imgsz_N1: Picture sizes.
            kept_NG: Kept channels of each group; where it is 0 inside of a residual block, all
                steps of that block have 0 channels.
            bits_NL2: (weight bits, activation bits) of each layer.
            pattern_NL: Patterns of each layer, as indices into `patterns`.
            patterns: Those in use.
        """
        conv_reads, conv_writes = (widths(kept_NG) for widths in self._conv_widths)
        op_reads, op_writes = (widths(kept_NG) for widths in self._op_widths)
        weight_bits, act_bits = bits_NL2[..., 0], bits_NL2[..., 1]
        needed_bits = act_bits
        for number, convs, others in self._blocks:
            if (dropped := kept_NG[:, number] == 0).any():
                for widths, inside in (
                    (conv_reads, convs), (conv_writes, convs),
                    (op_reads, others), (op_writes, others),
                ):  # fmt: skip
                    widths[np.ix_(dropped, inside)] = 0
                needed_bits = np.where(conv_writes > 0, act_bits, 0)
        conv_h = self._scaled([conv.out_h for conv in self._convs], imgsz_N1)
        conv_w = self._scaled([conv.out_w for conv in self._convs], imgsz_N1)
        others = OpBatch(
            names=tuple(op.name for op in self._others),
            kinds=tuple(op.kind for op in self._others),
            in_channels=op_reads,
            out_channels=op_writes,
            in_h=self._scaled([op.in_h for op in self._others], imgsz_N1),
            in_w=self._scaled([op.in_w for op in self._others], imgsz_N1),
            out_h=self._scaled([op.out_h for op in self._others], imgsz_N1),
            out_w=self._scaled([op.out_w for op in self._others], imgsz_N1),
            act_bits=self._op_readers.most(needed_bits, self._baseline[1]),
        )
        if self._converts:
            widest_bits = np.maximum(weight_bits, act_bits) * (conv_writes > 0)
            converted = self._converted(widest_bits) * conv_writes
            others = replace(others, act_bits=self._op_writers.most(widest_bits, FLOAT_BITS))
            others = _joined(others, self._conversions(converted, conv_h, conv_w))
        used_NL = pattern_NL if (pattern_NL != pattern_NL[:1]).any() else pattern_NL[:1]
        priced = np.array([pattern_code(pattern.priced_as) for pattern in patterns])
        return WorkloadBatch(
            ConvBatch(
                names=tuple(conv.name for conv in self._convs),
                kernel=tuple(conv.kernel for conv in self._convs),
                stride=tuple(conv.stride for conv in self._convs),
                groups=tuple(1 if conv.groups == 1 else DEPTHWISE for conv in self._convs),
                in_channels=conv_reads,
                out_channels=conv_writes,
                out_h=conv_h,
                out_w=conv_w,
                weight_bits=weight_bits,
                act_bits=act_bits,
                density=self._density(conv_reads, conv_writes, used_NL, patterns),
                pattern=priced[used_NL],
                siblings=tuple(conv.siblings for conv in self._convs),
            ),
            others,
        )

    def _density(
        self,
        reads_NL: IntArray,
        writes_NL: IntArray,
        pattern_NL: IntArray,
        patterns: Sequence[Pattern],
    ) -> FloatArray:
        """Return the fraction of its weights that each layer keeps [N, L], or [1, L] if dense."""
        sparse = [index for index, pattern in enumerate(patterns) if pattern.name != "dense"]
        if not np.isin(pattern_NL, sparse).any():
            return np.ones((1, pattern_NL.shape[1]))
        pattern_NL = np.broadcast_to(pattern_NL, reads_NL.shape)
        density_NL = np.ones(reads_NL.shape)
        for index in sparse:
            for number in np.flatnonzero((pattern_NL == index).any(0)):
                kernel = self._convs[number].kernel
                inputs_N, outputs_N = reads_NL[:, number], writes_NL[:, number]
                kept_N = patterns[index].kept(outputs_N, inputs_N, kernel)
                weights_N = outputs_N * inputs_N * (kernel[0] * kernel[1])
                share_N = kept_N / np.maximum(weights_N, 1)
                has_N = pattern_NL[:, number] == index
                density_NL[has_N, number] = np.minimum(share_N, 1.0)[has_N]
        return density_NL

    def _scaled(self, sizes: list[int], imgsz_N1: IntArray) -> IntArray:
        """Return the rows or columns of maps at other picture sizes [N, steps], or [1, steps]."""
        different, which = np.unique(imgsz_N1[:, 0], return_inverse=True)
        table: IntArray = np.array(sizes, dtype=np.int64) * different[:, None] // self._imgsz
        return table if len(different) == 1 else table[which]

    def _converted(self, widest_bits_NL: IntArray) -> IntArray:
        """Tell what each layer writes in another format than some reader wants [N, L]: 1 or 0."""
        integer_NL = (widest_bits_NL <= INTEGER_BITS) & (widest_bits_NL > 0)
        float_NL = widest_bits_NL > INTEGER_BITS
        any_integer_NL = self._conv_readers.most(integer_NL.astype(np.int64), 0) > 0
        any_float_NL = self._conv_readers.most(float_NL.astype(np.int64), 0) > 0
        return (integer_NL & any_float_NL | float_NL & any_integer_NL).astype(np.int64)

    def _conversions(self, channels_NL: IntArray, rows: IntArray, columns: IntArray) -> OpBatch:
        kind: OpKind = "convert"
        return OpBatch(
            names=tuple(conv.name + CONVERSION for conv in self._convs),
            kinds=(kind,) * len(self._convs),
            in_channels=channels_NL,
            out_channels=channels_NL,
            in_h=rows,
            in_w=columns,
            out_h=rows,
            out_w=columns,
            act_bits=np.full((1, len(self._convs)), FLOAT_BITS),
        )


class _Related:
    """For some steps, the layers that read or write what they write or read."""

    def __init__(self, related: list[IntArray], steps: npt.NDArray[np.bool_], layers: int) -> None:
        nobody = np.array([layers])
        chosen = [related[index] for index in np.flatnonzero(steps)]
        chosen = [numbers if len(numbers) else nobody for numbers in chosen]
        self._related = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
        self._first = np.cumsum([0, *map(len, chosen)])[:-1]

    def most(self, values_NL: IntArray, nobody: int) -> IntArray:
        """Return the largest value of each step's layers; `nobody` where there are none."""
        padded = np.concatenate([values_NL, np.full((len(values_NL), 1), nobody)], axis=1)
        most: IntArray = np.maximum.reduceat(padded[:, self._related], self._first, axis=1)
        return most


def _joined(ops: OpBatch, more: OpBatch) -> OpBatch:
    """Return all ops of two batches."""

    def side_by_side(field: str) -> IntArray:
        arrays = (getattr(ops, field), getattr(more, field))
        count = max(map(len, arrays))
        return np.concatenate([np.broadcast_to(x, (count, x.shape[1])) for x in arrays], axis=1)

    arrays = {field: side_by_side(field) for field in OP_FIELDS}
    return OpBatch(ops.names + more.names, ops.kinds + more.kinds, **arrays)


def workload_of(
    steps: tuple[ConvShape | OtherOp, ...],
    batch: WorkloadBatch,
    imgsz: int,
) -> Workload:
    """Return the first workload of a batch: the steps that it has, in execution order."""
    convs, others = batch.convs, batch.others
    conv_number = {name: number for number, name in enumerate(convs.names)}
    op_number = {name: number for number, name in enumerate(others.names)}
    layers = list[ConvShape | OtherOp]()
    for step in steps:
        if isinstance(step, ConvShape):
            at = (0, conv_number[step.name])
            in_channels = int(convs.in_channels[at])
            if in_channels == 0:
                continue
            layer: ConvShape | OtherOp = replace(
                step,
                in_channels=in_channels,
                out_channels=int(convs.out_channels[at]),
                groups=1 if step.groups == 1 else in_channels,
                weight_bits=int(convs.weight_bits[at]),
                act_bits=int(convs.act_bits[at]),
                density=float(convs.density[at]),
                pattern=PATTERNS[int(convs.pattern[at])],
            )
        else:
            at = (0, op_number[step.name])
            if others.in_channels[at] == 0:
                continue
            layer = replace(
                step,
                in_channels=int(others.in_channels[at]),
                out_channels=int(others.out_channels[at]),
                act_bits=int(others.act_bits[at]),
            )
        layers.append(layer)
    for column in np.flatnonzero([kind == "convert" for kind in others.kinds]):
        if channels := int(others.in_channels[0, column]):
            name = others.names[column].removesuffix(CONVERSION)
            rows, columns = int(others.in_h[0, column]), int(others.in_w[0, column])
            layers.append(conversion(name, channels, rows, columns))
    return Workload(tuple(layers), input_shape=(3, imgsz, imgsz))
