"""Power meters: what the board draws, in milliwatts, where it can tell; otherwise there is none.

    INA3221 (every Jetson), through sysfs: JetPack 4 has an iio device with in_powerN_input, JetPack
        5 and later a hwmon device with inN_input (mV) and currN_input (mA)
    tegrastats, where the sysfs files cannot be read
    RAPL, on hosts with /sys/class/powercap: the processor packages, without memory and board

`VDD_IN` and `POM_5V_IN` are the module's total already; adding the other rails would count twice.
The AGX Xavier has no total rail: there the six rails are added. Any other set of rails is no total
and gives no meter. Rail names and paths are listed with their sources in NVIDIA's device trees
(tegra186-p3310, tegra194-p3668) and in the projects that read them (dwofk/fast-depth,
zzzDavid/xavier-power-profiling, rbonghi/jetson_stats).
"""

import contextlib
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
AGX_XAVIER_RAILS = frozenset(("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"))

SAMPLE_PERIOD_S = 0.05
"""The INA3221 averages over some ten milliseconds; reading more often gives the same numbers."""

TEGRASTATS_PERIOD_MS = 100
RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")

Rail = Callable[[], float]
"""Reads one rail: milliwatts now."""


class Meter:
    """Something that says what the board draws now."""

    source = ""

    def power_mw(self) -> Optional[float]:
        """Milliwatts now; None if there is no reading yet."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop what the meter runs."""


def total_rails(names: Sequence[str]) -> Tuple[str, ...]:
    """The rails whose sum is all the module draws; none if they cannot tell."""
    for total in TOTAL_RAILS:
        if total in names:
            return (total,)
    if set(names) >= AGX_XAVIER_RAILS:
        return tuple(sorted(AGX_XAVIER_RAILS))
    return ()


class Ina3221(Meter):
    """The INA3221 monitors of a Jetson, through sysfs."""

    source = "ina3221"

    def __init__(self, rails: Mapping[str, Rail]) -> None:
        self._rails = [rails[name] for name in total_rails(list(rails))]

    def power_mw(self) -> Optional[float]:
        """See Meter."""
        return sum(rail() for rail in self._rails)


def ina3221_rails(sysfs: Path) -> Dict[str, Rail]:
    """Find the rails of all INA3221 monitors.

    Args:
        sysfs: /sys, or a folder that looks like it.
    """
    rails: Dict[str, Rail] = {}
    drivers = sysfs / "bus/i2c/drivers"
    for device in sorted(drivers.glob("ina3221x/*-00*")):
        for folder in [*sorted(device.glob("iio:device*")), device / "iio_device"]:
            rails.update(_iio_rails(folder))
    for folder in sorted(drivers.glob("ina3221/*-00*/hwmon/hwmon*")):
        rails.update(_hwmon_rails(folder))
    return rails


def _iio_rails(folder: Path) -> Dict[str, Rail]:
    """JetPack 4: rail_name_0..2 beside in_power0..2_input, in milliwatts."""
    rails: Dict[str, Rail] = {}
    for label in sorted(folder.glob("rail_name_*")):
        power = folder / "in_power{}_input".format(label.name[len("rail_name_") :])
        if power.exists():
            rails[label.read_text().strip()] = _product(power)
    return rails


def _hwmon_rails(folder: Path) -> Dict[str, Rail]:
    """JetPack 5: in1..3_label beside inN_input (mV) and currN_input (mA).

    Unconnected channels are labelled NC; further ports are sums of shunt voltages, no rails.
    """
    rails: Dict[str, Rail] = {}
    for label in sorted(folder.glob("in[1-3]_label")):
        number = label.name[2]
        name = label.read_text().strip()
        volts, amperes = (
            folder / "in{}_input".format(number),
            folder / "curr{}_input".format(number),
        )
        if "NC" not in name.split() and volts.exists() and amperes.exists():
            rails[name] = _product(volts, amperes)
    return rails


def _product(*files: Path) -> Rail:
    """MW of one file in mW, or of two in mV and mA."""
    scale = 1e-3 if len(files) == 2 else 1.0

    def read() -> float:
        value = scale
        for path in files:
            value *= float(path.read_text())
        return value

    return read


def parse_tegrastats(line: str) -> Dict[str, float]:
    """The rails of one line of tegrastats, milliwatts now (the number before the slash).

    RAM and SWAP look alike but carry a unit of their own; the pattern leaves them out.
    """
    return {name: float(now) for name, now in RAIL.findall(line)}


class Tegrastats(Meter):
    """Reads the lines of a running tegrastats."""

    source = "tegrastats"

    def __init__(self, command: Sequence[str]) -> None:
        self._latest: Optional[float] = None
        self._process = subprocess.Popen(
            [*command, "--interval", str(TEGRASTATS_PERIOD_MS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def power_mw(self) -> Optional[float]:
        """See Meter."""
        return self._latest

    def close(self) -> None:
        """See Meter."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            rails = parse_tegrastats(line)
            names = total_rails(list(rails))
            self._latest = sum(rails[name] for name in names) if names else None
        self._latest = None  # it ended: an old reading is no reading


class Rapl(Meter):
    """Energy counters of the host's processor packages; power is what they gain over time."""

    source = "rapl"

    def __init__(
        self, packages: Sequence[Path], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._packages = packages
        self._ranges_uj = [_number(path / "max_energy_range_uj") for path in packages]
        self._clock = clock
        self._last_s, self._last_uj = clock(), self._read()

    def power_mw(self) -> Optional[float]:
        """See Meter."""
        now_s, now_uj = self._clock(), self._read()
        gained_uj = sum(
            (now - last) % (span + 1)  # the counter starts again at its range
            for now, last, span in zip(now_uj, self._last_uj, self._ranges_uj)
        )
        elapsed_s = now_s - self._last_s
        self._last_s, self._last_uj = now_s, now_uj
        return gained_uj * 1e-3 / elapsed_s if elapsed_s > 0 else None

    def _read(self) -> List[float]:
        return [_number(path / "energy_uj") for path in self._packages]


def rapl_packages(sysfs: Path) -> List[Path]:
    """The zones of whole packages.

    Their sub-zones (core, dram) are named otherwise, and so is psys: the platform, in which the
    packages are counted already.
    """
    zones = sorted((sysfs / "class/powercap").glob("intel-rapl:*"))
    return [zone for zone in zones if (zone / "name").read_text().startswith("package-")]


def _number(path: Path) -> float:
    return float(path.read_text())


def find_meter(sysfs: Path = Path("/sys")) -> Optional[Meter]:
    """The board's meter; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        rails = ina3221_rails(sysfs)
        if total_rails(list(rails)):
            meter = Ina3221(rails)
            meter.power_mw()
            return meter
    tegrastats = shutil.which("tegrastats")
    if tegrastats:
        return Tegrastats([tegrastats])
    with contextlib.suppress(OSError, ValueError):
        packages = rapl_packages(sysfs)
        if packages:
            return Rapl(packages)
    return None


class Reading(NamedTuple):
    """One reading of a meter: when, on the monotonic clock, and how much."""

    at_s: float
    power_mw: float


class Recorder:
    """Reads a meter again and again in a thread of its own while a context lasts."""

    def __init__(self, meter: Meter, period_s: float = SAMPLE_PERIOD_S) -> None:
        self._meter = meter
        self._period_s = period_s
        self._readings: List[Reading] = []
        self._stop = threading.Event()
        self.source = meter.source

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the context lasts."""
        self._readings = []
        self._stop.clear()
        self._read()  # a counter tells what it gained since the last reading: not part of this
        thread = threading.Thread(target=self._record, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def mean_mw(self, start_s: float, end_s: float) -> Tuple[Optional[float], int]:
        """Mean power between two times of the monotonic clock, and of how many readings."""
        inside = [r.power_mw for r in list(self._readings) if start_s <= r.at_s <= end_s]
        return (sum(inside) / len(inside) if inside else None), len(inside)

    def _record(self) -> None:
        while not self._stop.wait(self._period_s):
            power_mw = self._read()
            if power_mw is not None:
                self._readings.append(Reading(time.monotonic(), power_mw))

    def _read(self) -> Optional[float]:
        with contextlib.suppress(OSError, ValueError):  # a rail that is away for a moment
            return self._meter.power_mw()
        return None
