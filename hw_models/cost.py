"""Predict latency, energy and size of networks on a device.

The model of one convolution (docs/hardware-models.md derives it):

    t = launch + depth x K + sqrt((MACs / rate)^2 + (bytes / bandwidth)^2)

with K the length of its reduction, and of any other op: t = launch + bytes / bandwidth.
Launch, depth and rate scale with the GPU clock, bandwidth with the memory clock.

Axis letters: N candidates, L convolutions, K other ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hw_models.device import PRECISIONS, DeviceProfile, PowerMode
from hw_models.errors import InputError
from hw_models.workload import (
    DEPTHWISE,
    PATTERNS,
    ConvBatch,
    IntArray,
    OpBatch,
    Workload,
    WorkloadBatch,
)

Reals: TypeAlias = npt.NDArray[np.float32]

_CHUNK = 512
"""Candidates priced at once: few enough that the temporaries of a 60-layer net stay in cache."""
_Z90 = 1.645
"""Half width of a central 90 % interval of a normal distribution, in standard deviations."""


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
        latency_ms: Time of one batch.
        low_ms: Lower end of the 90 % interval.
        high_ms: Upper end of the 90 % interval.
        energy_mj: Energy of one batch.
        size_bytes: Stored weights.
        macs: Multiply-accumulates of one batch, as if dense.
        per_layer: The share of each layer, in the order of the workload.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    energy_mj: float
    size_bytes: float
    macs: float
    per_layer: tuple[LayerCost, ...]


@dataclass(frozen=True, slots=True)
class CostBatch:
    """Predictions for N candidates; every array is [N]. See `Cost`."""

    latency_ms: npt.NDArray[np.float64]
    low_ms: npt.NDArray[np.float64]
    high_ms: npt.NDArray[np.float64]
    energy_mj: npt.NDArray[np.float64]
    size_bytes: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _LayerArrays:
    """Time in us, energy in uJ, size in bytes and MACs of each layer, all [N, L] or [N, K]."""

    time_us: Reals
    energy_uj: Reals
    size_bytes: Reals
    macs: Reals


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
        self._tables = _Tables(profile, self.mode)

    def predict(self, workload: Workload) -> Cost:
        """Price one network.

        Raises:
            InputError: A layer has bits or a pattern that are illegal on this device.
        """
        batch = WorkloadBatch.of(workload)
        self._refuse_illegal(workload)
        convs = self._tables.convs(batch.convs, batch.batch)
        others = self._tables.others(batch.others, batch.batch)
        totals = self._totals(convs, others)
        by_name = dict(
            zip(batch.convs.names, _layers(batch.convs.names, "conv", convs), strict=True)
        )
        for index, name in enumerate(batch.others.names):
            kind = batch.others.kinds[index]
            by_name[name] = _layers((name,), kind, others, index)[0]
        time, low, high, energy, size, macs = (float(array[0]) for array in totals)
        per_layer = tuple(by_name[layer.name] for layer in workload.layers)
        return Cost(time, low, high, energy, size, macs, per_layer)

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

    def _totals(
        self, convs: _LayerArrays, others: _LayerArrays
    ) -> tuple[npt.NDArray[np.float64], ...]:
        def total(first: Reals, second: Reals) -> npt.NDArray[np.float64]:
            both: npt.NDArray[np.float64] = first.sum(axis=1, dtype=np.float64)
            return both + second.sum(axis=1, dtype=np.float64)

        time_ms = (total(convs.time_us, others.time_us) + self._tables.fixed_us) / 1e3
        spread = np.exp(_Z90 * self.profile.residual_sigma)
        energy = total(convs.energy_uj, others.energy_uj) / 1e3
        energy = energy + self._tables.fixed_us * self._tables.power_w / 1e3
        size = total(convs.size_bytes, others.size_bytes)
        macs = total(convs.macs, others.macs)
        columns = (time_ms, time_ms / spread, time_ms * spread, energy, size, macs)
        return tuple(np.broadcast_arrays(*columns))

    def _refuse_illegal(self, workload: Workload) -> None:
        for conv in workload.convs:
            how = self.profile.execution(conv.weight_bits, conv.act_bits, conv.pattern)
            if how == "illegal":
                raise InputError(
                    f"Layer {conv.name}: {conv.weight_bits}-bit weights, {conv.act_bits}-bit"
                    f" activations, pattern {conv.pattern} are illegal on {self.profile.name}.",
                    "Choose another precision or pattern for it.",
                )


def _layers(
    names: tuple[str, ...], kind: str, arrays: _LayerArrays, first: int = 0
) -> list[LayerCost]:
    return [
        LayerCost(
            name, kind,
            float(arrays.time_us[0, index]) / 1e3, float(arrays.energy_uj[0, index]) / 1e3,
            float(arrays.size_bytes[0, index]), float(arrays.macs[0, index]),
        )
        for index, name in enumerate(names, start=first)
    ]  # fmt: skip


def _f32(array: IntArray) -> Reals:
    return np.asarray(array, dtype=np.float32)


class _Tables:
    """The profile's numbers at one mode's clocks, by precision code 0..2, in float32."""

    def __init__(self, profile: DeviceProfile, mode: PowerMode) -> None:
        reference = profile.mode(profile.reference_mode)
        gpu = mode.gpu_mhz / reference.gpu_mhz
        emc = mode.emc_mhz / reference.emc_mhz
        executed = [profile.coefficients[profile.executed_bits(bits)] for bits in PRECISIONS]

        def table(values: list[float]) -> Reals:
            return np.asarray(values, dtype=np.float32)

        self.launch_us = table([c.launch_us / gpu for c in executed])
        self.depth_us = table([c.depth_ns / gpu / 1e3 for c in executed])
        self.dense_us = table([1e-3 / (c.dense_gmacs * gpu) for c in executed])
        self.pointwise_us = table([1e-3 / (c.pointwise_gmacs * gpu) for c in executed])
        self.depthwise_us = table([1e-3 / (c.depthwise_gmacs * gpu) for c in executed])
        self.byte_us = table([1e-3 / (c.bandwidth_gbs * emc) for c in executed])
        self.step = table([float(c.channel_step) for c in executed])
        self.act_bytes = table([profile.executed_bits(bits) / 8 for bits in PRECISIONS])
        self.mac_uj = table(
            [profile.energy.pj_per_mac[profile.executed_bits(bits)] / 1e6 for bits in PRECISIONS]
        )
        self.byte_uj = np.float32(profile.energy.pj_per_byte / 1e6)
        self.power_w = mode.idle_w + profile.energy.busy_w * gpu + profile.energy.offset_w
        self.traffic = profile.traffic
        self.fixed_us = profile.fixed_us / gpu
        self.executed_patterns = [profile.patterns[name] == "executed" for name in PATTERNS]

    def convs(self, convs: ConvBatch, images: int) -> _LayerArrays:
        """Price convolutions; every result is [N, L]."""
        kernel = np.asarray([kh * kw for kh, kw in convs.kernel], dtype=np.float32)
        stride = np.asarray([sh * sw for sh, sw in convs.stride], dtype=np.float32)
        groups = np.asarray(convs.groups, dtype=np.float32)
        channels_in, channels_out = _f32(convs.in_channels), _f32(convs.out_channels)
        depthwise = (groups == DEPTHWISE) | ((groups > 1) & (groups == channels_in))
        groups = np.where(groups == DEPTHWISE, channels_in, groups)
        code = _code(np.maximum(convs.weight_bits, convs.act_bits))
        step = self.step[code]
        pixels = _f32(convs.out_h) * _f32(convs.out_w) * np.float32(images)

        group_in = channels_in / groups
        depth = group_in * kernel
        weights = channels_out * depth
        padded_in = np.where(depthwise, group_in, np.ceil(group_in / step) * step)
        padded_out = np.where(depthwise, channels_out, np.ceil(channels_out / step) * step)
        rate = np.where(
            depthwise,
            self.depthwise_us[code],
            np.where(kernel > 1, self.dense_us[code], self.pointwise_us[code]),
        )
        compute_us = pixels * padded_out * padded_in * kernel * rate
        act_bytes = self.act_bytes[code]
        data = pixels * (channels_in * stride + channels_out) * act_bytes + weights * act_bytes
        memory_us = data * self.byte_us[code]
        time_us = (
            self.launch_us[code]
            + self.depth_us[code] * depth
            + np.sqrt(compute_us * compute_us + memory_us * memory_us)
        )
        macs = pixels * weights
        energy = time_us * np.float32(self.power_w) + macs * self.mac_uj[code]
        energy = energy + data * self.byte_uj
        density = np.asarray(convs.density, dtype=np.float32)
        size = weights * density * _f32(convs.weight_bits) / np.float32(8)
        return _LayerArrays(*np.broadcast_arrays(time_us, energy, size, macs))

    def others(self, ops: OpBatch, images: int) -> _LayerArrays:
        """Price the other ops; every result is [N, K]."""
        share = np.asarray([self.traffic[kind] for kind in ops.kinds], dtype=np.float32)
        code = _code(ops.act_bits)
        elements = _f32(ops.in_channels) * _f32(ops.in_h) * _f32(ops.in_w)
        elements = elements + _f32(ops.out_channels) * _f32(ops.out_h) * _f32(ops.out_w)
        data = elements * self.act_bytes[code] * share * np.float32(images)
        time_us = self.launch_us[code] * share + data * self.byte_us[code]
        energy = time_us * np.float32(self.power_w) + data * self.byte_uj
        zero = np.zeros_like(time_us)
        return _LayerArrays(*np.broadcast_arrays(time_us, energy, zero, zero))


def _code(bits: IntArray) -> npt.NDArray[np.intp]:
    """Return the index of the narrowest of `PRECISIONS` that holds numbers of these bits."""
    code: npt.NDArray[np.intp] = np.searchsorted(np.asarray(PRECISIONS), bits)
    return np.minimum(code, len(PRECISIONS) - 1)
