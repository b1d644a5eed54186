"""What board this is and how it is: name, power mode, clocks, temperatures, throttling.

All from files under /proc and /sys and from `nvpmodel -q`; what a board does not tell is left out.
"""

import contextlib
import hashlib
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

MODE = re.compile(r"NV Power Mode: *(\S+)")
MODE_BLOCK = re.compile(r"< *POWER_MODEL +ID=\d+ +NAME=(\S+) *>")
NVPMODEL_FILE = "etc/nvpmodel.conf"
FIXED = "fixed"
"""Power mode of a machine that tells none (a virtual host, say)."""

NO_COOLING = ("fan", "processor", "intel_powerclamp", "tcc")
"""Cooling devices whose state says nothing about throttling here: fans, and ACPI's."""


class Conditions(NamedTuple):
    """How the board is at one moment; `throttles` counts, None where the board does not tell."""

    clocks_mhz: Dict[str, float]
    temperatures_c: Dict[str, float]
    throttled: Optional[bool]
    throttle_events: int = 0


class Board:
    """Reads one board.

    Args:
        root: The file system's root, or a folder that looks like it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def name(self) -> str:
        """The board's name: the device tree's model, else the processor's."""
        model = _text(self._root / "proc/device-tree/model")
        if model:
            return model
        for line in (_text(self._root / "proc/cpuinfo") or "").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return platform.machine()

    def device_id(self) -> str:
        """The same string for this device whenever it is asked, another for another device."""
        for place in ("proc/device-tree/serial-number", "etc/machine-id"):
            secret = _text(self._root / place)
            if secret:
                return hashlib.sha256(secret.encode()).hexdigest()[:16]
        return platform.node()

    def power_mode(self) -> str:
        """Nvpmodel's mode, the frequency governor, or "fixed"."""
        tool = shutil.which("nvpmodel")
        if tool:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                found = MODE.search(_run([tool, "-q"]))
                if found:
                    return found.group(1)
            return ""  # a Jetson that does not tell: the client refuses to call it measured
        governor = self._root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
        return _text(governor) or FIXED

    def power_modes(self) -> List[str]:
        """The modes that nvpmodel offers; just the present one where there is no nvpmodel."""
        modes = MODE_BLOCK.findall(_text(self._root / NVPMODEL_FILE) or "")
        return modes or [self.power_mode()]

    def versions(self) -> Dict[str, str]:
        """Versions that decide about speed."""
        release = (_text(self._root / "etc/nv_tegra_release") or "").splitlines()
        versions = {"python": platform.python_version(), "kernel": platform.release()}
        if release:
            versions["l4t"] = release[0].lstrip("# ").strip()
        return versions

    def conditions(self) -> Conditions:
        """Clocks, temperatures and throttling now."""
        cooling = self._cooling()
        events = self._throttle_events()
        throttled = None
        if cooling or events is not None:
            throttled = any(cooling.values())
        return Conditions(self._clocks(), self._temperatures(), throttled, events or 0)

    def _clocks(self) -> Dict[str, float]:
        clocks = {}
        cpus = self._root / "sys/devices/system/cpu"
        for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
            clocks[path.parents[1].name] = _number(path) / 1e3
        for path in (self._root / "sys/class/devfreq").glob("*/cur_freq"):
            clocks[path.parent.name] = _number(path) / 1e6
        return {name: clock for name, clock in clocks.items() if clock > 0}

    def _temperatures(self) -> Dict[str, float]:
        temperatures = {}
        for zone in (self._root / "sys/class/thermal").glob("thermal_zone*"):
            name, value = _text(zone / "type"), _text(zone / "temp")
            # PMIC is the constant 100 on Jetsons: no sensor
            if name and value and not name.startswith("PMIC"):
                with contextlib.suppress(ValueError):
                    temperatures[name] = float(value) / 1e3
        return temperatures

    def _cooling(self) -> Dict[str, bool]:
        """Whether each cooling device slows something down now."""
        active = {}
        for device in (self._root / "sys/class/thermal").glob("cooling_device*"):
            kind = _text(device / "type")
            if kind and not any(word in kind.lower() for word in NO_COOLING):
                active[device.name] = _number(device / "cur_state") > 0
        return active

    def _throttle_events(self) -> Optional[int]:
        """Times that an x86 host has slowed its cores down since it started."""
        cpus = self._root / "sys/devices/system/cpu"
        files = list(cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
        return int(sum(_number(path) for path in files)) if files else None


def throttled_between(before: Conditions, after: Conditions) -> Optional[bool]:
    """Whether the board was slowed down in between; None where it does not tell."""
    if before.throttled is None or after.throttled is None:
        return None
    return before.throttled or after.throttled or after.throttle_events > before.throttle_events


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text(errors="replace").strip("\x00\n ") or None
    except OSError:
        return None


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0


def _run(arguments: List[str]) -> str:
    return subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=10,
        check=False,
    ).stdout
