"""Device profiles: what a board and its runtime can execute, its clocks and its fitted numbers.

A profile is a YAML file in `hw_models/devices` (or anywhere). The `coefficients` in it are fitted
by `paretrim calibrate`; everything else states facts with their source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from hw_models.errors import InputError
from hw_models.workload import ACTIVATIONS, OP_KINDS, PATTERNS

Execution: TypeAlias = Literal["executed", "stored only", "illegal"]

DEVICES = Path(__file__).parent / "devices"
PRECISIONS = (8, 16, 32)
"""Arithmetic a runtime may execute: INT8, FP16, FP32."""
STORABLE_BITS = range(2, 33)
NOTES = {"board", "plan", "residuals", "sources"}
"""Keys of a profile that only calibration and people read."""


@dataclass(frozen=True, slots=True)
class PowerMode:
    """The clocks of one power mode.

    Args:
        gpu_mhz: Clock of the compute units.
        emc_mhz: Clock of the external memory.
        cpu_mhz: Clock of the host, which feeds the compute units.
        idle_w: Power of the idle device in this mode, at the profile's measuring point.
    """

    gpu_mhz: float
    emc_mhz: float
    cpu_mhz: float
    idle_w: float


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The numbers of one executed precision at the profile's reference clocks.

    Args:
        launch_us: Time to start one convolution.
        op_launch_us: Time to start any other op.
        depth_ns: Time of one step of the serial sum over a convolution's reduction: input
            channels of a group times kernel area.
        dense_gmacs: Rate of convolutions with kernels above 1x1, 10^9 MAC/s.
        winograd_gain: Factor on `dense_gmacs` for 3x3 kernels of stride 1.
        pointwise_gmacs: Rate of 1x1 convolutions, 10^9 MAC/s.
        matrix_gmacs: Rate of matrix products on single pixels, 10^9 MAC/s.
        depthwise_gmacs: Rate of depthwise convolutions, 10^9 MAC/s.
        tile_channels: Output channels' worth of work that loading a tile of input costs.
        bandwidth_gbs: Effective memory bandwidth, 10^9 byte/s.
        channel_step: Channels are padded to multiples of this.
        pixel_step: Output pixels (of all images together) are padded to multiples of this.
    """

    launch_us: float
    op_launch_us: float
    depth_ns: float
    dense_gmacs: float
    winograd_gain: float
    pointwise_gmacs: float
    matrix_gmacs: float
    depthwise_gmacs: float
    tile_channels: float
    bandwidth_gbs: float
    channel_step: int
    pixel_step: int
    map_step: int = 1


RATES = ("dense_gmacs", "pointwise_gmacs", "matrix_gmacs", "depthwise_gmacs")
"""The coefficients that scale with the arithmetic of a precision."""


@dataclass(frozen=True, slots=True)
class EnergyCoefficients:
    """Energy beyond idle power x time, at the reference clocks.

    Args:
        measured_at: The measuring point all figures of the profile refer to.
        pj_per_mac: Energy of one MAC by executed precision.
        pj_per_byte: Energy of one byte that a layer reads or writes, weights or activations.
            That of activations cannot be told from the MACs' by the figures there are.
        busy_w: Power added while the compute units run, whatever they do.
        clock_exponent: Dynamic energy grows with (GPU clock)^this: higher clocks need more volts.
        host_us: Host time of one batch at the reference clock, during which the GPU idles.
        host_us_per_image: Host time of one image.
        host_ns_per_value: Host time of one input value, which is copied at the memory clock.
        host_w: Power added in the host's time, at its reference clock.
    """

    measured_at: str
    pj_per_mac: Mapping[int, float]
    pj_per_byte: float
    busy_w: float
    clock_exponent: float
    host_us: float
    host_us_per_image: float
    host_ns_per_value: float
    host_w: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """How far predictions of one precision may be off.

    Args:
        log_width: 90 % of |log(measured / predicted)| lie below this.
        calibrated: Whether measurements of this precision were fitted.
        gmacs: Smallest and largest network (10^9 MACs of a batch) that was fitted.
    """

    log_width: float
    calibrated: bool
    gmacs: tuple[float, float]


@dataclass(frozen=True, slots=True)
class PatternGain:
    """What a runtime that executes a sparsity pattern gains from it.

    Args:
        speedup: Time of the dense layer over time of the sparse one.
        energy_share: Energy of the sparse layer over energy of the dense one.
        source: Where the figures were published.
    """

    speedup: float
    energy_share: float
    source: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One device with one runtime.

    Args:
        name: Such as `jetson-tx2`.
        description: Board, runtime and origin of the figures, for people.
        default_power_mode: Key of `power_modes`.
        reference_mode: The mode whose clocks the coefficients refer to.
        power_modes: Clocks by name.
        baseline_bits: Precision that relative budgets refer to: 16 on Jetson, 32 on a CPU.
        granule: Channel multiple below which pruning gains nothing.
        patterns: Sparsity pattern -> how the runtime treats it.
        pattern_gains: Sparsity pattern -> gain, for the executed ones.
        coefficients: Executed precision in bits -> fitted numbers.
        plugins: Activations the runtime has no kernel for: they run in FP32 between two changes of
            format.
        traffic: Share of its bytes that an op of each kind moves; the rest is fused away. Without
            "convert" maps change their format while they are written, at no cost.
        fixed_us: Time of one inference beyond its layers, at the reference clocks.
        energy: Fitted energy numbers.
        intervals: Executed precision in bits -> expected error.
    """

    name: str
    description: str
    default_power_mode: str
    reference_mode: str
    power_modes: Mapping[str, PowerMode]
    baseline_bits: int
    granule: int
    patterns: Mapping[str, Execution]
    pattern_gains: Mapping[str, PatternGain]
    coefficients: Mapping[int, Coefficients]
    plugins: tuple[str, ...]
    traffic: Mapping[str, float]
    fixed_us: float
    energy: EnergyCoefficients
    intervals: Mapping[int, Interval]

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

    @property
    def converts(self) -> bool:
        """Whether a change of format costs time."""
        return "convert" in self.traffic

    def mode(self, name: str | None) -> PowerMode:
        """Return a power mode, the default one for None.

        nvpmodel's names (`MODE_15W_2CORE` for `15W`) and explicit clocks (`828.75@1600`, MHz of
        GPU and memory, with the host clock and idle power of the nearest mode) are understood.

        Raises:
            InputError: The device has no mode of that name.
        """
        wanted = (self.default_power_mode if name is None else name).upper()
        bare = wanted.removeprefix("MODE_")
        # The longest name wins: 10W_DESKTOP is a mode of its own, not 10W.
        for known in sorted(self.power_modes, key=len, reverse=True):
            if known in {wanted, bare} or bare.startswith(f"{known}_"):
                return self.power_modes[known]
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)@(\d+(?:\.\d+)?)", wanted):
            gpu, emc = float(match[1]), float(match[2])
            near = min(self.power_modes.values(), key=lambda mode: abs(mode.gpu_mhz - gpu))
            if 0 < gpu <= 10_000 and 0 < emc <= 10_000:
                return replace(near, gpu_mhz=gpu, emc_mhz=emc)
        raise InputError(
            f"{self.name} has no power mode {name!r}.",
            f"It has: {', '.join(self.power_modes)}.",
        )


def slowed(profile: DeviceProfile, factor: float) -> DeviceProfile:
    """Return a profile whose every predicted time is `factor` times as long."""
    longer = ("launch_us", "op_launch_us", "depth_ns")
    coefficients = {
        bits: replace(
            numbers,
            **{name: getattr(numbers, name) * factor for name in longer},
            **{name: getattr(numbers, name) / factor for name in (*RATES, "bandwidth_gbs")},
        )
        for bits, numbers in profile.coefficients.items()
    }
    return replace(profile, coefficients=coefficients, fixed_us=profile.fixed_us * factor)


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
    if text == "host-cpu" and not path.is_file():
        raise InputError(
            "No figures are shipped for host-cpu: every CPU is another.",
            "Start a worker on this machine (paretrim-worker --listen 127.0.0.1:50051 --runtime "
            "onnxruntime --threads 1 --insecure), then: paretrim calibrate --measure-on "
            "127.0.0.1:50051 --output host-cpu.yaml, and give --target host-cpu.yaml.",
        )
    if not path.is_file():
        raise InputError(
            f"No device profile {text!r}.",
            f"Give one of {', '.join(shipped_profiles())}, or the path of a profile YAML.",
        )
    return profile_from_dict(read_profile_yaml(path), str(path))


def read_profile_yaml(path: Path) -> dict[str, Any]:
    """Read a profile's YAML; a profile `based_on` a shipped one overrides its entries.

    Raises:
        InputError: The file is not a readable YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a device profile: a YAML mapping was expected.")
    base = content.pop("based_on", None)
    if base is None:
        return content
    if base not in shipped_profiles() or base == path.stem:
        raise InputError(f"{path} is based on {base!r}, which is no shipped profile.")
    inherited = read_profile_yaml(DEVICES / f"{base}.yaml")
    return {key: value for key, value in inherited.items() if key not in NOTES} | content


def profile_from_dict(content: Mapping[str, Any], origin: str) -> DeviceProfile:
    """Build a profile from the content of its YAML file.

    Raises:
        InputError: A key is missing, unknown or of the wrong kind.
    """
    known = {field.name for field in fields(DeviceProfile)}
    if unknown := set(content) - known - NOTES:
        raise InputError(f"{origin}: unknown keys {', '.join(sorted(unknown))}.")
    try:
        values = {key: content[key] for key in known}
        values["power_modes"] = _each(content["power_modes"], str, PowerMode)
        values["coefficients"] = _each(content["coefficients"], int, Coefficients)
        values["pattern_gains"] = _each(content["pattern_gains"], str, PatternGain)
        values["intervals"] = _each(content["intervals"], int, Interval)
        values["plugins"] = tuple(content["plugins"])
        values["energy"] = EnergyCoefficients(**content["energy"])
        profile = DeviceProfile(**values)
        _check(profile, origin)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{origin} is not a device profile: {type(error).__name__}: {error}.",
            "Compare with the files in hw_models/devices.",
        ) from error
    return profile


def _each(content: Mapping[Any, Any], key: Callable[[Any], Any], value: Callable[..., Any]) -> Any:
    return {key(name): value(**numbers) for name, numbers in content.items()}


def _check(profile: DeviceProfile, origin: str) -> None:
    if missing := {profile.default_power_mode, profile.reference_mode} - set(profile.power_modes):
        raise InputError(f"{origin}: power_modes lacks {', '.join(sorted(missing))}.")
    if set(profile.coefficients) - set(PRECISIONS) or not profile.coefficients:
        raise InputError(f"{origin}: coefficients must be given for some of {PRECISIONS} bits.")
    if set(profile.intervals) != set(profile.coefficients):
        raise InputError(f"{origin}: intervals and coefficients must name the same precisions.")
    if set(profile.patterns) != set(PATTERNS):
        raise InputError(f"{origin}: patterns must name each of {', '.join(PATTERNS)}.")
    kinds = set(OP_KINDS) - {"leaky", "mish", "convert"}
    if set(profile.plugins) - set(ACTIVATIONS):
        raise InputError(f"{origin}: plugins may name {', '.join(ACTIVATIONS)}.")
    if set(profile.traffic) - {"convert"} != kinds:
        raise InputError(f"{origin}: traffic must name each of {', '.join(sorted(kinds))}.")
    positive: tuple[Coefficients | PowerMode, ...] = (
        *profile.coefficients.values(), *profile.power_modes.values()
    )  # fmt: skip
    for numbers in positive:
        if any(getattr(numbers, field.name) < 0 for field in fields(numbers)):
            raise InputError(f"{origin}: clocks, powers and coefficients must not be negative.")
