"""Device profiles: what a board and its runtime can execute, its clocks and its fitted numbers.

A profile is a YAML file in `hw_models/devices` (or anywhere). The `coefficients` in it are fitted
by `paretrim calibrate`; everything else states facts with their source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from hw_models.errors import InputError
from hw_models.workload import OP_KINDS, PATTERNS

Execution: TypeAlias = Literal["executed", "stored only", "illegal"]

DEVICES = Path(__file__).parent / "devices"
PRECISIONS = (8, 16, 32)
"""Arithmetic a runtime may execute: INT8, FP16, FP32."""
STORABLE_BITS = range(2, 33)


@dataclass(frozen=True, slots=True)
class PowerMode:
    """The clocks of one power mode.

    Args:
        gpu_mhz: Clock of the compute units.
        emc_mhz: Clock of the external memory.
        idle_w: Power of the idle device in this mode, at the profile's measuring point.
    """

    gpu_mhz: float
    emc_mhz: float
    idle_w: float


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The fitted numbers of one precision at the profile's reference clocks.

    Args:
        launch_us: Time to start one layer.
        depth_ns: Time of one step of the serial sum over a layer's reduction: input channels of
            a group times kernel area.
        dense_gmacs: Rate of convolutions with kernels above 1x1, 10^9 MAC/s.
        pointwise_gmacs: Rate of 1x1 convolutions and matrix products, 10^9 MAC/s.
        depthwise_gmacs: Rate of depthwise convolutions, 10^9 MAC/s.
        bandwidth_gbs: Effective memory bandwidth, 10^9 byte/s.
        channel_step: Channels are padded to multiples of this.
    """

    launch_us: float
    depth_ns: float
    dense_gmacs: float
    pointwise_gmacs: float
    depthwise_gmacs: float
    bandwidth_gbs: float
    channel_step: int


@dataclass(frozen=True, slots=True)
class EnergyCoefficients:
    """Dynamic energy on top of idle power x time.

    Args:
        pj_per_mac: Energy of one MAC by precision.
        pj_per_byte: Energy of one byte moved.
        busy_w: Power added while the GPU is busy at the reference clocks, whatever it does.
        offset_w: Power of what stands between the measuring point and the module.
        measured_at: The measuring point the figures refer to.
    """

    pj_per_mac: Mapping[int, float]
    pj_per_byte: float
    busy_w: float
    offset_w: float
    measured_at: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One device with one runtime.

    Args:
        name: Such as `jetson-tx2`.
        description: Board, runtime and origin of the figures, for people.
        default_power_mode: Key of `power_modes`.
        power_modes: Clocks by name.
        reference_mode: The mode whose clocks the coefficients refer to.
        baseline_bits: Precision that relative budgets refer to: 16 on Jetson, 32 on a CPU.
        granule: Channel multiple below which pruning gains nothing.
        patterns: Sparsity pattern -> how the runtime treats it.
        coefficients: Executed precision in bits -> fitted numbers.
        traffic: Share of its bytes that an op of each kind moves; the rest is fused away.
        fixed_us: Time of one inference beyond its layers, at the reference clocks.
        energy: Fitted energy numbers.
        residual_sigma: Spread of log(measured / predicted) over the calibration rows.
    """

    name: str
    description: str
    default_power_mode: str
    power_modes: Mapping[str, PowerMode]
    reference_mode: str
    baseline_bits: int
    granule: int
    patterns: Mapping[str, Execution]
    coefficients: Mapping[int, Coefficients]
    traffic: Mapping[str, float]
    fixed_us: float
    energy: EnergyCoefficients
    residual_sigma: float

    def execution(self, weight_bits: int, act_bits: int, pattern: str = "dense") -> Execution:
        """Say how the runtime treats a layer of these bits and this pattern.

        `stored only` layers keep their size advantage and run in the next wider precision.
        """
        treatment = self.patterns.get(pattern)
        if treatment is None:
            raise InputError(
                f"Unknown sparsity pattern {pattern!r}; expected one of {', '.join(PATTERNS)}."
            )
        if weight_bits not in STORABLE_BITS or act_bits not in STORABLE_BITS:
            return "illegal"
        if treatment != "executed":
            return treatment
        executed = self.executed_bits(max(weight_bits, act_bits))
        return "executed" if weight_bits == act_bits == executed else "stored only"

    def executed_bits(self, bits: int) -> int:
        """Return the narrowest executed precision that holds numbers of these bits."""
        able = [precision for precision in sorted(self.coefficients) if precision >= bits]
        return able[0] if able else max(self.coefficients)

    def mode(self, name: str | None) -> PowerMode:
        """Return a power mode, the default one for None.

        Raises:
            InputError: The device has no mode of that name.
        """
        wanted = self.default_power_mode if name is None else name
        if wanted not in self.power_modes:
            raise InputError(
                f"{self.name} has no power mode {wanted!r}.",
                f"It has: {', '.join(self.power_modes)}.",
            )
        return self.power_modes[wanted]


def shipped_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.yaml")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Load a shipped profile by name or any profile by path.

    Raises:
        InputError: No such profile, or the file is not a valid one.
    """
    text = str(name_or_path)
    path = Path(text) if text.endswith((".yaml", ".yml")) else DEVICES / f"{text}.yaml"
    if not path.is_file():
        raise InputError(
            f"No device profile {text!r}.",
            f"Give one of {', '.join(shipped_profiles())}, or the path of a profile YAML.",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML ({error}).") from error
    return profile_from_dict(content, str(path))


def profile_from_dict(content: Any, origin: str) -> DeviceProfile:
    """Build a profile from the content of its YAML file.

    Raises:
        InputError: A key is missing, unknown or of the wrong kind.
    """
    try:
        known = {field.name for field in fields(DeviceProfile)}
        if unknown := set(content) - known - {"sources", "fit"}:
            raise InputError(f"{origin}: unknown keys {', '.join(sorted(unknown))}.")
        values = {key: content[key] for key in known}
        values["power_modes"] = {
            str(key): PowerMode(**mode) for key, mode in content["power_modes"].items()
        }
        values["coefficients"] = {
            int(bits): Coefficients(**numbers) for bits, numbers in content["coefficients"].items()
        }
        values["energy"] = EnergyCoefficients(**content["energy"])
        profile = DeviceProfile(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{origin} is not a device profile: {type(error).__name__}: {error}.",
            "Compare with the files in hw_models/devices.",
        ) from error
    _check(profile, origin)
    return profile


def _check(profile: DeviceProfile, origin: str) -> None:
    if missing := {profile.default_power_mode, profile.reference_mode} - set(profile.power_modes):
        raise InputError(f"{origin}: power_modes lacks {', '.join(sorted(missing))}.")
    if set(profile.coefficients) - set(PRECISIONS) or not profile.coefficients:
        raise InputError(f"{origin}: coefficients must be given for some of {PRECISIONS} bits.")
    if set(profile.patterns) != set(PATTERNS):
        raise InputError(f"{origin}: patterns must name each of {', '.join(PATTERNS)}.")
    if set(profile.traffic) != set(OP_KINDS):
        raise InputError(f"{origin}: traffic must name each of {', '.join(OP_KINDS)}.")
