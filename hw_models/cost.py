"""Predict latency, energy and size of networks on a device.

The model of one convolution (docs/hardware-models.md derives it):

    t = launch + depth x K + sqrt(compute^2 + memory^2)
    compute = pixels x (out channels + tile channels) x K / rate
    memory  = bytes / bandwidth

with K the length of the reduction (input channels of a group x kernel area), pixels and channels
padded to the device's steps; and of any other op: t = launch + share x bytes / bandwidth.
Depth and rate scale with the GPU clock, bandwidth with the memory clock, launches and the fixed
time, which are waiting rather than work, with the square root of the GPU clock.

Axis letters: N candidates, L convolutions, K other ops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hw_models.device import PRECISIONS, Coefficients, DeviceProfile, PowerMode
from hw_models.errors import InputError
from hw_models.workload import (
    ACTIVATIONS,
    DEPTHWISE,
    OP_KINDS,
    PATTERNS,
    ConvBatch,
    OpBatch,
    OpKind,
    Workload,
    WorkloadBatch,
)

Reals: TypeAlias = npt.NDArray[np.floating[Any]]
Vector: TypeAlias = npt.NDArray[np.float64]

WAITING_EXPONENT = 0.5
"""Of the GPU clock in the speed of launches: of 0.3, 0.5, 0.7 and 1 none has less error on the
calibrate rows of the TX2 (three clocks), fitted or left out (docs/hardware-models.md)."""
HOST_EXPONENT = 3.0
"""Power of a host core goes with its clock times the square of its voltage, which follows it."""
_CHUNK = 512
"""Candidates priced at once: few enough that the temporaries of a 60-layer net stay in cache."""
_BEYOND = 2.0
"""A network this many times larger or smaller than any fitted one is extrapolated."""
_WIDER = 1.5
"""The interval's width grows by this factor when extrapolating."""
_IMAGE = 4
"""Images have kernels of their own, which pad to this many channels."""
_INDEX_BITS = {"unstructured": 1.0, "2ep": 4 / 9, "3ep": 4 / 9, "2:4": 1.0}
"""Stored bits a weight to say which are kept: a bit mask; one of at most 16 patterns a 3x3 kernel;
two bits for each kept weight of 2:4."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The predicted share of one layer.

    Args:
        name: The layer.
        kind: `conv` or the kind of the op.
        latency_ms: Predicted time.
        energy_mj: Predicted energy.
        size_bytes: Stored weights.
        macs: Multiply-accumulates, as if dense.
    """

    name: str
    kind: str
    latency_ms: float
    energy_mj: float
    size_bytes: float
    macs: float


@dataclass(frozen=True, slots=True)
class Cost:
    """A prediction; never to be shown as a measurement.

    Args:
        latency_ms: Time of one batch on the compute units.
        low_ms: Lower end of the 90 % interval.
        high_ms: Upper end of the 90 % interval.
        energy_mj: Energy the device takes from the profile's measuring point in that time.
        size_bytes: Stored weights.
        macs: Multiply-accumulates of one batch, as if dense.
        per_layer: The share of each layer, in the order of the workload; what is left to the
            totals belongs to the inference as a whole.
        extrapolated: Why the interval was widened, one sentence each; empty inside the calibrated
            range.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    energy_mj: float
    size_bytes: float
    macs: float
    per_layer: tuple[LayerCost, ...]
    extrapolated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CostBatch:
    """Predictions for N candidates; every array is [N]. See `Cost`."""

    latency_ms: Vector
    low_ms: Vector
    high_ms: Vector
    energy_mj: Vector
    size_bytes: Vector
    macs: Vector


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """Time in us, energy in uJ, size in bytes and MACs of each layer, all [N, L] or [N, K].

    `log_width` is the half width of the 90 % interval of log(time).
    """

    time_us: Reals
    energy_uj: Reals
    size_bytes: Reals
    macs: Reals
    log_width: Reals


class CostModel:
    """Prices networks on one device in one power mode.

    Args:
        profile: The device.
        power_mode: One of its modes; None for the default.

    Raises:
        InputError: The device has no such mode.
    """

    def __init__(self, profile: DeviceProfile, power_mode: str | None = None) -> None:
        self.profile = profile
        self.mode = profile.mode(power_mode)
        self._tables = Tables(profile, self.mode)

    def predict(self, workload: Workload) -> Cost:
        """Price one network.

        Raises:
            InputError: A layer has bits or a pattern that are illegal on this device.
        """
        self._refuse_illegal(workload)
        batch = WorkloadBatch.of(workload)
        convs = self._tables.convs(batch.convs, batch.batch)
        others = self._tables.others(batch.others, batch.batch)
        totals = self._totals(convs, others)
        time, low, high, energy, size, macs = (float(array[0]) for array in totals)
        conv_costs = iter(_layers(batch.convs.names, ("conv",) * len(workload.convs), convs))
        other_costs = iter(_layers(batch.others.names, batch.others.kinds, others))
        is_conv = (hasattr(layer, "kernel") for layer in workload.layers)
        per_layer = tuple(next(conv_costs) if conv else next(other_costs) for conv in is_conv)
        reasons = self._extrapolated(workload, macs)
        return Cost(time, low, high, energy, size, macs, per_layer, reasons)

    def predict_batch(self, batch: WorkloadBatch) -> CostBatch:
        """Price N variants of one network."""
        chunks = [
            self._totals(
                self._tables.convs(part.convs, part.batch),
                self._tables.others(part.others, part.batch),
            )
            for part in (
                batch.rows(first, min(first + _CHUNK, batch.size))
                for first in range(0, batch.size, _CHUNK)
            )
        ]
        return CostBatch(*(np.concatenate(column) for column in zip(*chunks, strict=True)))

    def _totals(self, convs: LayerArrays, others: LayerArrays) -> tuple[Vector, ...]:
        conv_us, other_us = _total(convs.time_us), _total(others.time_us)
        time_us = conv_us + other_us + self._tables.fixed_us
        macs = _total(convs.macs)
        # The expected error is that of the precisions the time is spent in.
        spread = np.exp(_total(convs.time_us * convs.log_width) / np.maximum(conv_us, 1e-9))
        energy_uj = _total(convs.energy_uj) + _total(others.energy_uj)
        energy_uj = energy_uj + self._tables.fixed_us * float(self._tables.power_w)
        columns = (
            time_us / 1e3, time_us / spread / 1e3, time_us * spread / 1e3, energy_uj / 1e3,
            _total(convs.size_bytes), macs,
        )  # fmt: skip
        return tuple(np.broadcast_arrays(*columns))

    def host_energy_mj(self, workload: Workload) -> float:
        """Return the energy of feeding one batch from the host, which no prediction includes.

        It belongs to the harness the profile's energies were measured with, not to the network.
        """
        values = float(np.prod(workload.input_shape))
        return self._tables.host_us(values, workload.batch) * self._tables.host_w / 1e3

    def _extrapolated(self, workload: Workload, macs: float) -> tuple[str, ...]:
        executed = {
            self.profile.executed_bits(max(conv.weight_bits, conv.act_bits))
            for conv in workload.convs
        }
        reasons = []
        for bits in sorted(executed):
            interval = self.profile.intervals[bits]
            low, high = interval.gmacs
            if not interval.calibrated:
                reasons.append(f"No measurement at {bits} bits was fitted for {self.profile.name}.")
            elif not low / _BEYOND <= macs / 1e9 <= high * _BEYOND:
                reasons.append(
                    f"{macs / 1e9:.3g} GMAC are outside the calibrated {low:.3g} to {high:.3g}"
                    f" at {bits} bits."
                )
        return tuple(reasons)

    def _refuse_illegal(self, workload: Workload) -> None:
        for conv in workload.convs:
            how = self.profile.execution(conv.weight_bits, conv.act_bits, conv.pattern)
            if how == "illegal":
                raise InputError(
                    f"Layer {conv.name}: {conv.weight_bits}-bit weights, {conv.act_bits}-bit"
                    f" activations, pattern {conv.pattern} are illegal on {self.profile.name}.",
                    "Choose another precision or pattern for it.",
                )


def _total(array: Reals) -> Vector:
    return np.asarray(array.sum(axis=1, dtype=np.float64))


def _layers(names: tuple[str, ...], kinds: tuple[str, ...], arrays: LayerArrays) -> list[LayerCost]:
    columns = (arrays.time_us / 1e3, arrays.energy_uj / 1e3, arrays.size_bytes, arrays.macs)
    rows = np.stack([column[0] for column in columns], axis=1).astype(np.float64)
    return [
        LayerCost(name, kind, *(float(value) for value in row))
        for name, kind, row in zip(names, kinds, rows, strict=True)
    ]


class Tables:
    """A profile's numbers at one mode's clocks, by precision: what turns layers into costs.

    Args:
        profile: The device.
        mode: Its clocks.
        dtype: float32 for speed, float64 where derivatives are taken.

    Attributes:
        waiting: Speed of launches and the fixed time, 1 at the reference clock.
    """

    def __init__(
        self, profile: DeviceProfile, mode: PowerMode, dtype: type[np.floating[Any]] = np.float32
    ) -> None:
        reference = profile.mode(profile.reference_mode)
        gpu = mode.gpu_mhz / reference.gpu_mhz
        emc = mode.emc_mhz / reference.emc_mhz
        self.waiting = gpu**WAITING_EXPONENT
        self.dtype = dtype
        self._bits = [profile.executed_bits(bits) for bits in PRECISIONS]
        executed = [profile.coefficients[bits] for bits in self._bits]

        def table(value: Callable[[Coefficients], float]) -> Reals:
            return np.asarray([value(numbers) for numbers in executed], dtype=dtype)

        self._launch_us = table(lambda c: c.launch_us / self.waiting)
        self._op_launch_us = table(lambda c: c.op_launch_us / self.waiting)
        self._depth_us = table(lambda c: c.depth_ns / gpu / 1e3)
        self._dense_us = table(lambda c: 1e-3 / (c.dense_gmacs * gpu))
        self._winograd_us = table(lambda c: 1e-3 / (c.dense_gmacs * c.winograd_gain * gpu))
        self._pointwise_us = table(lambda c: 1e-3 / (c.pointwise_gmacs * gpu))
        self._matrix_us = table(lambda c: 1e-3 / (c.matrix_gmacs * gpu))
        self._depthwise_us = table(lambda c: 1e-3 / (c.depthwise_gmacs * gpu))
        self._byte_us = table(lambda c: 1e-3 / (c.bandwidth_gbs * emc))
        self._tile = table(lambda c: c.tile_channels)
        self._channel_step = table(lambda c: float(c.channel_step))
        self._map_step = table(lambda c: float(c.map_step))
        self._pixel_step = table(lambda c: float(c.pixel_step))
        self._act_bytes = np.asarray([bits / 8 for bits in self._bits], dtype=dtype)
        intervals = [profile.intervals[bits] for bits in self._bits]
        self._log_width = np.asarray([each.log_width for each in intervals], dtype=dtype)
        fewest, most = zip(*(each.gmacs for each in intervals), strict=True)
        self._fewest_macs = np.asarray(fewest, dtype=dtype) * dtype(1e9 / _BEYOND)
        self._most_macs = np.asarray(most, dtype=dtype) * dtype(1e9 * _BEYOND)
        self._op_bytes = np.asarray(
            [[_op_bytes(kind, profile, bits) for bits in self._bits] for kind in OP_KINDS], dtype
        )
        self._op_launches = np.asarray(
            [[_op_launches(kind, profile, bits) for bits in self._bits] for kind in OP_KINDS], dtype
        )
        self.fixed_us = profile.fixed_us / self.waiting

        energy = profile.energy
        dynamic = gpu**energy.clock_exponent
        self.power_w = dtype(mode.idle_w + energy.busy_w * dynamic)
        self._mac_uj = np.asarray(
            [energy.pj_per_mac.get(bits, np.nan) * dynamic / 1e6 for bits in self._bits],
            dtype=dtype,
        )
        self._moved_byte_uj = dtype(energy.pj_per_byte * dynamic / 1e6)
        host = mode.cpu_mhz / reference.cpu_mhz
        self.host_w = float(mode.idle_w + energy.host_w * host**HOST_EXPONENT)
        self._host_us = energy.host_us / host
        self._host_us_per_image = energy.host_us_per_image / host
        self._host_us_per_value = energy.host_ns_per_value / emc / 1e3

        gains = [profile.pattern_gains.get(name) for name in PATTERNS]
        self._pattern_time = np.asarray([1 / g.speedup if g else 1 for g in gains], dtype=dtype)
        self._pattern_energy = np.asarray([g.energy_share if g else 1 for g in gains], dtype=dtype)
        self._index_bits = np.asarray([_INDEX_BITS.get(name, 0) for name in PATTERNS], dtype=dtype)

    def host_us(self, values: float, images: int) -> float:
        """Return the host's time for a batch, `values` being the input values of one image."""
        each = self._host_us_per_image + values * self._host_us_per_value
        return float(self._host_us + images * each)

    def convs(self, convs: ConvBatch, images: int | Reals) -> LayerArrays:
        """Price convolutions; every result is [N, L].

        Args:
            convs: The layers.
            images: Images at once, for all or for each layer.
        """
        real = self._real
        kernel, stride = real(_areas(convs.kernel)), real(_areas(convs.stride))
        square3 = _is_square3(convs.kernel, convs.stride)
        # Siblings are run as one: each bears its part of what is done once.
        part = 1 / real(convs.siblings or (1,))
        channels_in, channels_out = real(convs.in_channels), real(convs.out_channels)
        noted = real(convs.groups)
        depthwise = (noted == DEPTHWISE) | ((noted > 1) & (noted == channels_in))
        groups = np.where(noted == DEPTHWISE, channels_in, noted)
        groups = np.maximum(groups, 1)  # 0 where there are no channels
        code = _code(np.maximum(convs.weight_bits, convs.act_bits))
        area = real(convs.out_h) * real(convs.out_w)
        pixels = area * real(images)
        group_in = channels_in / groups
        depth = group_in * kernel
        weights = channels_out * depth
        macs = pixels * weights
        single = area == 1

        tile = np.where(square3, self._map_step[code], 1)
        tiled = _padded(real(convs.out_h), tile) * _padded(real(convs.out_w), tile)
        step = self._channel_step[code]
        padded = np.where(
            depthwise,
            macs,
            np.where(single, pixels, _padded(tiled * real(images), self._pixel_step[code]))
            * (_padded(channels_out, step) + self._tile[code] * part)
            * (np.where(group_in <= _IMAGE, _IMAGE, _padded(group_in, step)) * kernel),
        )
        rate = np.where(kernel > 1, self._dense_us[code], self._pointwise_us[code])
        rate = np.where(square3, self._winograd_us[code], rate)
        rate = np.where(single & (kernel == 1), self._matrix_us[code], rate)
        compute_us = padded * np.where(depthwise, self._depthwise_us[code], rate)
        data = pixels * (channels_in * stride * part + channels_out) + weights
        data = data * self._act_bytes[code]
        memory_us = data * self._byte_us[code]
        time_us = (self._launch_us[code] + self._depth_us[code] * depth) * part + np.sqrt(
            compute_us * compute_us + memory_us * memory_us
        )
        if not channels_out.all():  # what a variant lacks
            time_us = time_us * (channels_out > 0)
        energy_uj = time_us * self.power_w + macs * self._mac_uj[code]
        energy_uj = energy_uj + data * self._moved_byte_uj
        pattern = np.asarray(convs.pattern)
        if pattern.any():
            time_us = time_us * self._pattern_time[pattern]
            energy_uj = energy_uj * self._pattern_energy[pattern]
        stored_bits = real(convs.weight_bits) * real(convs.density) + np.where(
            pattern > 0, self._index_bits[pattern], 0
        )
        size = weights * stored_bits / self.dtype(8)
        total = macs.sum(axis=1, keepdims=True)
        beyond = (total < self._fewest_macs[code]) | (total > self._most_macs[code])
        width = self._log_width[code] * np.where(beyond, self.dtype(_WIDER), self.dtype(1))
        return LayerArrays(*np.broadcast_arrays(time_us, energy_uj, size, macs, width))

    def others(self, ops: OpBatch, images: int | Reals) -> LayerArrays:
        """Price the other ops; every result is [N, K]."""
        real = self._real
        code = _code(ops.act_bits)
        elements = real(ops.in_channels) * real(ops.in_h) * real(ops.in_w)
        elements = elements + real(ops.out_channels) * real(ops.out_h) * real(ops.out_w)
        kinds = _kind_codes(ops.kinds)
        # [K, precision]: what one start and one element cost each op.
        start_us = self._op_launch_us * self._op_launches[kinds]
        row = np.arange(len(kinds))
        data = elements * real(images) * self._op_bytes[kinds][row, code]
        time_us = start_us[row, code] + data * self._byte_us[code]
        if not elements.all():
            time_us = time_us * (elements > 0)
        energy_uj = time_us * self.power_w + data * self._moved_byte_uj
        zero = np.zeros_like(time_us)
        return LayerArrays(*np.broadcast_arrays(time_us, energy_uj, zero, zero, zero))

    def _real(self, array: Any) -> Reals:
        return np.asarray(array, dtype=self.dtype)


def _op_bytes(kind: OpKind, profile: DeviceProfile, bits: int) -> float:
    """Return the bytes an op moves for each element it reads or writes."""
    if kind == "convert":
        return profile.traffic.get(kind, 0.0) * bits / 8
    if kind not in profile.plugins:
        return profile.traffic["activation" if kind in ACTIVATIONS else kind] * bits / 8
    # In FP32, after reading and writing everything to change the format, and again to change back.
    return 4.0 if bits == 32 else 4.0 + (4.0 + bits / 8)


def _op_launches(kind: OpKind, profile: DeviceProfile, bits: int) -> int:
    """Return the kernels an op starts.

    An addition is part of the convolution before it, and so is a change of format, unless the
    profile has a share for it; decoding takes about ten kernels for three maps: runtimes fuse its
    arithmetic, not the joining, moving and softmax in between.
    """
    if kind in profile.plugins:
        return 1 if bits == 32 else 3
    if kind == "convert":
        return int(kind in profile.traffic)
    return {"add": 0, "decode": 3}.get(kind, 1)


# A batch is priced again and again: what depends on the network alone is kept.
@lru_cache(maxsize=64)
def _areas(sides: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    return np.asarray([vertical * horizontal for vertical, horizontal in sides], dtype=np.int64)


@lru_cache(maxsize=64)
def _is_square3(
    kernel: tuple[tuple[int, int], ...], stride: tuple[tuple[int, int], ...]
) -> npt.NDArray[np.bool_]:
    """Tell which convolutions are 3x3 at stride 1: those that Winograd's algorithm is for."""
    pairs = zip(kernel, stride, strict=True)
    return np.asarray([k == (3, 3) and s == (1, 1) for k, s in pairs], dtype=bool)


@lru_cache(maxsize=64)
def _kind_codes(kinds: tuple[OpKind, ...]) -> npt.NDArray[np.intp]:
    return np.asarray([OP_KINDS.index(kind) for kind in kinds], dtype=np.intp)


def _padded(size: Reals, step: Reals) -> Reals:
    return np.asarray(np.ceil(size / step) * step)


_CODES = np.minimum(np.searchsorted(np.asarray(PRECISIONS), np.arange(33)), len(PRECISIONS) - 1)


def _code(bits: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the index of the narrowest of `PRECISIONS` that holds numbers of these bits."""
    return np.asarray(np.take(_CODES, bits, mode="clip"))
