"""Times exported files on real devices, for the search. What is measured is journaled.

A candidate and the dense model take turns of a tenth of a second, and of each the fastest turns
that agree count: what disturbs a device (another program, a neighbour on the same processor) comes
and goes. Where the dense model has another speed than when it was timed first, nothing counts and
all is made again. That is a finer check than the pool's own, on the very network that relative
budgets refer to.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evaluators.evaluator import Evaluator
from hw_models.client import Credentials, DeviceClient
from hw_models.errors import InputError
from hw_models.measurement import (
    DeviceCallError,
    Measurement,
    MeasureProtocol,
    Retry,
    precision_of,
)
from hw_models.member import Health, Rules, relative_noise
from hw_models.pool import DevicePool
from search.ledger import Ledger
from search.settings import Settings
from spaces.candidate import Candidate
from spaces.formats.interface import Format

log = logging.getLogger(__name__)

PROTOCOL = MeasureProtocol(warm_up=1, number=1, repeat=5, min_time_s=0.1, idle_s=0.0)
"""Of one turn: short, because what disturbs a device often comes and goes within seconds."""
METERED_S = 0.5
"""Least time of a turn where there is a power meter: it is read twenty times a second."""
RULES = Rules(acquire_s=150.0, drift=math.inf, noise=math.inf)
"""The dense model's turns show what is disturbed."""
STEADY = 0.05
"""Relative change of the dense model's time that is still the same speed."""
NOISY = 0.1
"""Spread of the samples (`relative_noise`) above which a measurement is marked in the journal."""
TURNS = 5
"""Of a candidate on one lease; so many must agree."""
FIRST_TURNS = 20
"""Of the dense model at first."""
TRIES = 60
PRINTED = 1e-4
"""Relative error of a latency in front.csv."""
WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Timed:
    """A measured latency.

    Attributes:
        latency_ms: Median of the samples of the fastest turns that agree; on a device that nothing
            disturbs these are all.
        spread_ms: Their median absolute deviation.
        speed: Time of the dense model beside it over its time at first; 1 for the same speed.
        device: Which device, by its key.
        model_digest: SHA-256 of the measured file.
    """

    latency_ms: float
    spread_ms: float
    speed: float
    device: str
    model_digest: str

    @property
    def at_first_speed_ms(self) -> float:
        """The latency had the device been as fast as when the dense model was timed first."""
        return self.latency_ms / self.speed

    def within(self, budget_ms: float) -> bool:
        """Whether a budget is met, as measured and at the dense model's speed."""
        return max(self.latency_ms, self.at_first_speed_ms) <= budget_ms


class Bench:
    """Measures candidates of one run on devices of one kind.

    Args:
        pool: The devices.
        ledger: Where measurements are looked up and recorded.
        evaluator: Builds candidates.
        form: What they are written as.
        folder: Where exported files are kept, named by candidate.
        dense: The candidate whose time is the reference.
        bits: What is not quantised is timed in these, 16 or 32, if the devices can.
        as_before: How a search measured; what is measured in another way is nothing beside it.
        sleep: Waits seconds.

    Raises:
        DeviceError: Here as in `measure`: the devices have trouble.
    """

    def __init__(
        self,
        pool: DevicePool,
        ledger: Ledger,
        evaluator: Evaluator,
        form: Format,
        folder: Path,
        dense: Candidate,
        bits: int = 32,
        as_before: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._evaluator = evaluator
        self._form = form
        self._folder = folder
        self._sleep = sleep
        (kind,) = pool.kinds
        self._protocol = replace(PROTOCOL, precision=_precision(pool, bits))
        if any(status.info is not None and status.info.power_source for status in pool.status()):
            self._protocol = replace(self._protocol, min_time_s=METERED_S)
        self.how = f"{kind} | {self._protocol.digest}"
        if as_before is not None and self.how != as_before:
            raise DeviceCallError(
                f"The device is not as it was when the search measured: then {as_before}, now "
                f"{self.how}.",
                "Have it measured anew first: search.py --resume RUN --measure-on HOST:PORT.",
                Retry.NEVER,
            )
        self._dense = self.file(dense)
        self.dense = self.measure(dense)

    def file(self, candidate: Candidate) -> Path:
        """Return the exported file of a candidate; it is written once."""
        path = self._folder / f"{candidate.digest}.onnx"
        if not path.is_file():
            self._folder.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=self._folder) as part:
                self._form.write(self._evaluator.compressed(candidate), Path(part)).replace(path)
        return path

    def measure(self, candidate: Candidate) -> Timed:
        """Return the latency of a candidate's exported file, from the journal if it is there.

        Raises:
            DeviceError: No device could measure it at a steady speed.
        """
        known = self._ledger.measured.get((candidate.digest, self.how))
        if known is None:
            known = self._measured(candidate.digest, self.file(candidate), candidate)
        return timed_from(known)

    def measure_file(self, path: Path, candidate: Candidate) -> Timed:
        """Return the latency of a file that was trained: a recovered point's.

        Args:
            path: The file.
            candidate: What it was trained from.

        Raises:
            DeviceError: See `measure`.
        """
        digest = file_digest(path)
        known = self._ledger.measured.get((digest, self.how))
        return timed_from(known or self._measured(digest, path, candidate))

    def _measured(self, digest: str, path: Path, candidate: Candidate) -> Mapping[str, Any]:
        if self._protocol.precision == "fp16" and _has_32_bits(candidate):
            log.warning(
                "%s: some layers have 32 bits, which the device is not told by layer: it is "
                "timed as if they had 16, and may be slower", candidate.digest[:12],
            )  # fmt: skip
        measurement, speed = self._steady(path)
        record = _record(measurement) | {"speed": speed}
        self._ledger.record_measurement(digest, self.how, record)
        return self._ledger.measured[digest, self.how]

    def _first(self) -> Measurement:
        """Measure the dense model until its fastest turns agree; these are merged.

        Raises:
            DeviceError: They never do.
        """
        turns: list[Measurement] = []
        for _ in range(TRIES):
            turns = _joined(turns, self._in_turn(*[self._dense] * FIRST_TURNS))
            alike = _alike(turns)
            if len(alike) >= TURNS:
                return _merged(alike)
            self._sleep(WAIT_S)
        raise DeviceCallError(
            f"The device is not steady: of {len(turns)} measurements of the dense model the "
            f"fastest {TURNS} do not agree within {STEADY:.0%}.",
            "Close other programs there and fix its clocks; then go on with --resume.",
            Retry.NEVER,
        )

    def _steady(self, file: Path) -> tuple[Measurement, float]:
        """Measure until enough turns agree, while the device has its first speed.

        Returns:
            The file's fastest turns, merged, and the dense model's time in its own fastest
            turns among them over its first.

        Raises:
            DeviceError: They never do, or it never has.
        """
        if file == self._dense:
            return self._first(), 1.0
        ours: list[Measurement] = []
        dense: list[Measurement] = []
        for attempt in range(1, TRIES + 1):
            turns = self._in_turn(*[self._dense, file] * TURNS)
            dense, ours = _joined(dense, turns[::2]), _joined(ours, turns[1::2])
            reference, fastest = _alike(dense), _alike(ours)
            now_ms = _merged(reference).latency_ms
            speed = now_ms / self.dense.latency_ms
            if min(len(reference), len(fastest)) >= TURNS:
                if abs(speed - 1) <= STEADY:
                    return _merged(fastest), speed
                dense, ours = [], []
            log.info(
                "the device is not steady: the dense model took %.3f ms at first, now %.3f ms; of "
                "the turns %d and %d agree, expected %d (try %d of %d)",
                self.dense.latency_ms, now_ms, len(reference), len(fastest), TURNS, attempt, TRIES,
            )  # fmt: skip
            self._sleep(WAIT_S)
        raise DeviceCallError(
            f"The device is not steady: the dense model took {self.dense.latency_ms:.3f} ms at "
            f"first and {now_ms:.3f} ms in the last of {TRIES} tries.",
            "Close other programs there and fix its clocks; then go on with --resume. If it is "
            "another speed for good, start a new run.",
            Retry.NEVER,
        )

    def _in_turn(self, *files: Path) -> list[Measurement]:
        """Measure one after the other on one and the same device."""
        return self._pool.measure_in_turn([self._task(file) for file in files])

    def _task(self, file: Path) -> tuple[bytes, MeasureProtocol]:
        model = file.read_bytes()
        is_int8 = precision_of(model) == "int8"
        return model, replace(self._protocol, precision="int8") if is_int8 else self._protocol


def _joined(earlier: Sequence[Measurement], new: Sequence[Measurement]) -> list[Measurement]:
    """Return the turns of one device: another board of the kind starts anew."""
    return [*(turn for turn in earlier if turn.device == new[0].device), *new]


def _alike(turns: Sequence[Measurement]) -> list[Measurement]:
    """Return the fastest turns that agree with the second fastest: one may be luck."""
    turns = sorted(turns, key=lambda turn: turn.latency_ms)
    return [turn for turn in turns if turn.latency_ms <= (1 + STEADY) * turns[1].latency_ms]


def _merged(turns: Sequence[Measurement]) -> Measurement:
    """Return measurements of one model as one: all samples, the mean energy."""
    samples = tuple(itertools.chain.from_iterable(turn.samples for turn in turns))
    energies = [turn.energy_mj for turn in turns if turn.energy_mj is not None]
    return replace(
        turns[0],
        latency_ms=statistics.median(samples),
        samples=samples,
        energy_mj=statistics.mean(energies) if energies else None,
        idle_after_mw=turns[-1].idle_after_mw,
        after=turns[-1].after,
    )


def _has_32_bits(candidate: Candidate) -> bool:
    return any(max(weight, act) >= 32 for _, weight, act in candidate.bits)


def _precision(pool: DevicePool, bits: int) -> str:
    """Return the precision that files without quantised activations are timed in."""
    wanted = f"fp{bits}"
    infos = [status.info for status in pool.status() if status.info is not None]
    if all(wanted in info.precisions for info in infos):
        return wanted
    log.warning(
        "the target's dense model is %s, which %s does not execute: it is timed in fp32",
        wanted.upper(), infos[0].kind,
    )  # fmt: skip
    return "fp32"


@contextmanager
def devices(settings: Settings) -> Iterator[DevicePool | None]:
    """Give the pool of the devices that the settings name; None if they name none.

    Raises:
        InputError: They are of several kinds, or addresses or credentials are no good.
        DeviceError: One of them cannot be measured on.
    """
    if not settings.measure_on:
        yield None
        return
    names = {
        "ca": "tls_ca",
        "certificate": "tls_cert",
        "key": "tls_key",
        "token_file": "token_file",
    }
    given = {name: getattr(settings, option) for name, option in names.items()}
    files = {name: Path(path) for name, path in given.items() if path is not None}
    credentials = Credentials(**files, server_name=settings.server_name)
    clients = [DeviceClient(address, credentials) for address in settings.measure_on]
    pool = DevicePool(clients, RULES)
    try:
        _check(pool, settings.measure_on)
        yield pool
    finally:
        pool.close()


def _check(pool: DevicePool, addresses: Sequence[str]) -> None:
    for status in pool.status():
        if status.health is not Health.GOOD:
            raise DeviceCallError(
                f"{status.address} cannot be measured on: {status.trouble}",
                "`paretrim devices` shows how the devices are.",
                Retry.NEVER,
            )
    if len(pool.kinds) > 1:
        raise InputError(
            f"--measure-on {', '.join(addresses)}: expected devices of one kind, got "
            f"{'; '.join(pool.kinds)}.",
            "Name those of the target only.",
        )


def _record(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON; what the model computed is left out.

    `noisy` marks one whose samples do not agree: see `NOISY`.
    """
    record = asdict(measurement)
    del record["outputs"]
    samples = [round(sample, 5) for sample in measurement.samples]
    noisy = relative_noise(measurement) > NOISY
    return record | {"samples": samples, "spread_ms": measurement.spread_ms, "noisy": noisy}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def times_of(ledger: Ledger, how: str) -> dict[str, Timed]:
    """Return what was measured in one way, by digest of the candidate or the file."""
    known = ledger.measured.items()
    return {digest: timed_from(record) for (digest, other), record in known if other == how}


def how_measured(ledger: Ledger, dense: Candidate, dense_ms: float) -> str | None:
    """Return the way in which the dense model took so long: on which device, and how."""
    for (digest, how), record in ledger.measured.items():
        same = math.isclose(timed_from(record).latency_ms, dense_ms, rel_tol=PRINTED)
        if digest == dense.digest and same:
            return how
    return None


def timed_from(record: Any) -> Timed:
    """Read the record of a measurement."""
    return Timed(
        latency_ms=float(record["latency_ms"]),
        spread_ms=float(record["spread_ms"]),
        speed=float(record["speed"]),
        device=str(record["device"]),
        model_digest=str(record["model_digest"]),
    )
