"""`paretrim devices HOST:PORT ...`: how the workers are, as a pool of devices sees them.

A worker that is not busy is asked to measure the golden model, as at the start of a search. Who has
leased a device is known only to the program that did; others see that its worker is busy.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hw_models.cli_options import ServerName, TlsCa, TlsCert, TlsKey, TokenFile
from hw_models.client import Credentials, DeviceClient, Timeouts
from hw_models.measurement import DeviceCallError, DeviceInfo
from hw_models.member import Health, Rules
from hw_models.pool import DevicePool

TIMEOUTS = Timeouts(info_s=5.0)
RULES = Rules(busy_s=10.0)
ASKED_AT_ONCE = 16
"""Workers asked at the same time."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at one worker found.

    Attributes:
        address: Where it listens.
        info: Its answer; None if there is none.
        is_serving: Whether it says that it is well.
        health: Good if it measured the golden model as it must; unknown if it was busy.
        golden_ms: What the golden model took.
        trouble: Why it cannot be measured on; empty if it can.
    """

    address: str
    info: DeviceInfo | None = None
    is_serving: bool = False
    health: Health = Health.UNKNOWN
    golden_ms: float | None = None
    trouble: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether it may be measured on, now or when it is free."""
        return self.is_serving and not self.trouble


def look_at(address: str, credentials: Credentials | None = None) -> Look:
    """Ask one worker how it is, and let it measure the golden model if it is free.

    Raises:
        InputError: If the address or the credentials are no good.
    """
    with DeviceClient(address, credentials, TIMEOUTS) as client:
        try:
            info, is_serving = client.info(), client.is_serving()
        except DeviceCallError as error:
            return Look(address, trouble=str(error))
        if info.busy or not is_serving:
            return Look(address, info, is_serving)
        (status,) = DevicePool([client], RULES).status()
        return Look(
            address, status.info or info, is_serving, status.health, status.reference_ms,
            status.trouble,
        )  # fmt: skip


def devices(
    addresses: Annotated[list[str], typer.Argument(metavar="HOST:PORT...", help="of workers")],
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    server_name: ServerName = "",
) -> None:
    """Show health, capabilities and queue of device workers; exit code 4 if one is not usable."""
    credentials = Credentials(tls_ca, tls_cert, tls_key, token_file, server_name)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        looks = list(threads.map(lambda address: look_at(address, credentials), addresses))
    console = Console()
    console.print(device_table(looks))
    for look in looks:
        if look.trouble:
            console.print(look.trouble, markup=False, highlight=False)
    if any(not look.is_usable for look in looks):
        raise typer.Exit(DeviceCallError.exit_code)


def device_table(looks: list[Look]) -> Table:
    """One column a worker."""
    table = Table("device", *(look.address for look in looks))
    columns = [_column(look) for look in looks]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "-") for column in columns))
    return table


def _column(look: Look) -> dict[str, str]:
    """Return what is shown of a worker, by row."""
    info = look.info
    if info is None:
        return {"health": "no answer"}
    return {
        "health": f"serving, {look.health.value}" if look.is_serving else "not serving",
        "golden model": "not asked" if look.golden_ms is None else f"{look.golden_ms:.3f} ms",
        "now": _now(info),
        "board": info.board,
        "power mode": info.power_mode or "unknown",
        "clocks, MHz": _clocks(info),
        "runtime": f"{info.runtime} {info.runtime_version} {info.processor}",
        "precisions": " ".join(info.precisions),
        "power meter": info.power_source or "none",
    }


def _clocks(info: DeviceInfo) -> str:
    """The fastest core's clock as "cpu", and every other one by its name."""
    clocks: dict[str, float] = {}
    for name, mhz in sorted(info.clocks_mhz.items()):
        unit = "cpu" if name.startswith("cpu") else name
        clocks[unit] = max(mhz, clocks.get(unit, 0.0))
    return ", ".join(f"{unit} {mhz:.0f}" for unit, mhz in clocks.items()) or "unknown"


def _now(info: DeviceInfo) -> str:
    """What it does, and how warm it is."""
    parts = [f"busy, {info.queued} waiting" if info.busy else "idle"]
    if info.temperature is not None:
        parts.append(f"{info.temperature:.0f} °C")
    if info.throttled:
        parts.append("slowed down")
    return ", ".join(parts)
