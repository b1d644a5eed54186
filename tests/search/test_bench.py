"""The bench: dense, candidate, dense on one device, again until the device is steady."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hw_models.client import DeviceClient
from hw_models.errors import DeviceError
from hw_models.measurement import DeviceCallError, DeviceInfo, Measurement, MeasureProtocol
from hw_models.member import Health, Rules
from hw_models.pool import DevicePool, DeviceStatus, State
from hw_models.probes import probe
from search import measure
from search.ledger import Ledger
from search.measure import (
    FIRST_TURNS,
    STEADY,
    TRIES,
    TURNS,
    WAIT_S,
    Bench,
    how_measured,
    times_of,
)
from spaces.candidate import Candidate
from spaces.formats.onnx_tensorrt import OnnxTensorRT
from tests.search.toys import demo_problem

ROOT = Path(__file__).resolve().parents[2]
BOTH = 2 * TURNS  # turns of a candidate and of the dense model
DENSE = Candidate(320)
SMALL = Candidate(256)
QUANTIZED = Candidate(320, bits=(("conv", 8, 8),))


@dataclass
class Files:
    """An evaluator and a format in one: each candidate is a small ONNX file."""

    def compressed(self, candidate: Candidate) -> Candidate:
        return candidate

    def write(self, candidate: Candidate, folder: Path) -> Path:
        network = probe("conv1-16-16", candidate.imgsz // 8, int8=candidate == QUANTIZED)
        assert network is not None
        path = folder / "model.onnx"
        path.write_bytes(network.onnx())
        return path


@dataclass
class FormulaPool:
    """Devices by a formula: each turn is one device that nobody else gets in between.

    Args:
        speed: Time of everything over what it is at first, by the number of the turn.
        noise: Half the range of the samples, relative.
    """

    speed: Callable[[int], float] = lambda turn: 1.0
    noise: float = 0.0
    precisions: tuple[str, ...] = ("fp32", "int8")
    power_source: str = ""
    kinds: tuple[str, ...] = ("a kind",)
    turns: list[list[str]] = field(default_factory=list)

    def status(self) -> tuple[DeviceStatus, ...]:
        info = DeviceInfo(
            "a:1", "board", "a", "MAXN", ("MAXN",), "trtexec", "8", "tensorrt", self.precisions, 1,
            2**20, self.power_source, None, None, False, 0, "1",
        )  # fmt: skip
        return (DeviceStatus("a:1", info, State.IDLE, Health.GOOD, 1.0, 0, ""),)

    def measure_in_turn(self, tasks: Sequence[tuple[bytes, MeasureProtocol]]) -> list[Measurement]:
        speed = self.speed(len(self.turns))
        self.turns.append([protocol.precision for _, protocol in tasks])
        return [self._measurement(len(model) / 100 * speed, protocol) for model, protocol in tasks]

    def _measurement(self, latency_ms: float, protocol: MeasureProtocol) -> Measurement:
        middle = (protocol.repeat - 1) / 2
        samples = tuple(
            latency_ms * (1 + self.noise * (index - middle) / middle)
            for index in range(protocol.repeat)
        )
        return Measurement(
            statistics.median(samples), samples, None, "device a", "MAXN", protocol, None, "0" * 64
        )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "journal.jsonl", "study") as ledger:
        yield ledger


@pytest.fixture
def make(ledger: Ledger, tmp_path: Path) -> Callable[..., Bench]:
    def make(pool: Any, slept: list[float] | None = None, bits: int = 32, **other: Any) -> Bench:
        sleep = [].append if slept is None else slept.append
        parts = {"evaluator": Files(), "form": Files(), "dense": DENSE} | other
        return Bench(pool, ledger, folder=tmp_path / "measured", bits=bits, sleep=sleep, **parts)

    return make


class TestSteadiness:
    def test_the_dense_model_takes_turns_on_the_same_device(self, make: Any) -> None:
        pool = FormulaPool()
        timed = make(pool).measure(SMALL)
        assert [len(turn) for turn in pool.turns] == [FIRST_TURNS, BOTH]
        assert timed.speed == 1.0

    def test_what_was_measured_is_not_measured_again(self, make: Any) -> None:
        pool = FormulaPool()
        bench = make(pool)
        assert bench.measure(SMALL) == bench.measure(SMALL)
        assert make(pool).measure(SMALL) == bench.measure(SMALL)
        assert len(pool.turns) == 2

    def test_a_device_that_is_not_as_it_was_measures_nothing(
        self, make: Any, ledger: Ledger
    ) -> None:
        bench = make(FormulaPool())
        assert make(FormulaPool(), as_before=bench.how).measure(SMALL) == bench.measure(SMALL)
        known = dict(ledger.measured)
        with pytest.raises(DeviceError, match="not as it was when the search measured: then other"):
            make(FormulaPool(), as_before="other")
        assert ledger.measured == known

    def test_how_the_dense_model_was_measured_is_known_by_its_latency(
        self, make: Any, ledger: Ledger
    ) -> None:
        bench = make(FormulaPool())
        slow = make(FormulaPool(lambda turn: 2.0, kinds=("another kind",)))
        assert slow.how != bench.how
        printed_ms = float(f"{bench.dense.latency_ms:g}")
        assert how_measured(ledger, DENSE, printed_ms) == bench.how
        assert how_measured(ledger, DENSE, slow.dense.latency_ms) == slow.how
        assert how_measured(ledger, DENSE, 1.5 * printed_ms) is None
        assert times_of(ledger, bench.how) == {DENSE.digest: bench.dense}

    def test_a_file_is_measured_once_by_what_is_in_it(self, make: Any, tmp_path: Path) -> None:
        pool = FormulaPool()
        bench = make(pool)
        file = Files().write(SMALL, tmp_path)
        copy = tmp_path / "copy.onnx"
        copy.write_bytes(file.read_bytes())
        assert bench.measure_file(file, SMALL) == bench.measure_file(copy, SMALL)
        assert len(pool.turns) == 2

    def test_a_little_slower_counts_and_is_noted(self, make: Any) -> None:
        pool = FormulaPool(lambda turn: 1 + 0.8 * STEADY * (turn > 0))
        timed = make(pool).measure(SMALL)
        assert timed.speed == pytest.approx(1 + 0.8 * STEADY)
        assert timed.at_first_speed_ms == pytest.approx(timed.latency_ms / timed.speed)

    @pytest.mark.parametrize("speed", [1.2, 0.8])
    def test_a_drift_does_not_count_and_is_measured_again(self, make: Any, speed: float) -> None:
        slept: list[float] = []
        pool = FormulaPool(lambda turn: speed if turn in (1, 2) else 1.0)
        bench = make(pool, slept)
        timed = bench.measure(SMALL)
        assert [len(turn) for turn in pool.turns] == [FIRST_TURNS, BOTH, BOTH, BOTH]
        assert slept == [WAIT_S] * 2
        assert timed.speed == pytest.approx(1.0)
        assert timed.latency_ms == pytest.approx(bench.file(SMALL).stat().st_size / 100)

    def test_another_speed_for_good_is_an_error_that_records_nothing(
        self, make: Any, ledger: Ledger
    ) -> None:
        bench = make(FormulaPool(lambda turn: 1 + 1.2 * STEADY * (turn > 0)))
        with pytest.raises(DeviceCallError, match=rf"in the last of {TRIES} tries") as caught:
            bench.measure(SMALL)
        assert "start a new run" in caught.value.hint
        assert len(ledger.measured) == 1  # the dense model

    def test_a_neighbour_that_comes_and_goes_changes_nothing(
        self, make: Any, ledger: Ledger
    ) -> None:
        """It slows most turns down, those of a candidate by another factor than the dense ones."""
        draw = random.Random(5)  # noqa: S311 a neighbour, not a secret

        @dataclass
        class Neighbour(FormulaPool):
            def measure_in_turn(self, tasks: Any) -> list[Measurement]:
                slow, done = False, []
                for task in tasks:
                    slow = draw.random() < (0.8 if slow else 0.4)
                    factor = (1.4 if task[1].precision == "int8" else 1.2) if slow else 1.0
                    self.speed = lambda _, factor=factor: factor  # type: ignore[misc]
                    done += super().measure_in_turn([task])
                return done

        bench = make(Neighbour())
        for candidate in (SMALL, QUANTIZED):
            alone_ms = bench.file(candidate).stat().st_size / 100
            assert bench.measure(candidate).latency_ms == pytest.approx(alone_ms)
        dense, *candidates = ledger.measured.values()
        assert dense["latency_ms"] == pytest.approx(bench.file(DENSE).stat().st_size / 100)
        assert all(len(c["samples"]) >= TURNS * bench._protocol.repeat for c in candidates)

    def test_a_device_that_is_never_twice_as_fast_has_no_first_speed(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        @dataclass
        class Restless(FormulaPool):
            latency_ms: float = 1e9

            def measure_in_turn(self, tasks: Any) -> list[Measurement]:
                done = []
                for _, protocol in tasks:
                    self.latency_ms *= 0.97
                    done.append(self._measurement(self.latency_ms, protocol))
                return done

        slept: list[float] = []
        with pytest.raises(DeviceCallError, match=f"of {TRIES * FIRST_TURNS} measurements"):
            Bench(
                Restless(), ledger, Files(), Files(), tmp_path / "measured", DENSE,  # type: ignore[arg-type]
                sleep=slept.append,
            )  # fmt: skip
        assert slept == [WAIT_S] * TRIES
        assert not ledger.measured

    def test_turns_of_another_board_are_not_mixed_in(self, make: Any, ledger: Ledger) -> None:
        """The first lease of a candidate is on a restless board, the second on a steady one."""

        @dataclass
        class TwoBoards(FormulaPool):
            def measure_in_turn(self, tasks: Any) -> list[Measurement]:
                done = super().measure_in_turn(tasks)
                if len(self.turns) != 2:
                    return [replace(turn, device="steady") for turn in done]
                return [
                    replace(turn, device="restless", latency_ms=slowed, samples=(slowed,) * 5)
                    for number, turn in enumerate(done)
                    for slowed in [turn.latency_ms * (1 + 0.03 * number)]
                ]

        make(TwoBoards()).measure(SMALL)
        _, record = ledger.measured.values()
        assert record["device"] == "steady"
        assert len(record["samples"]) == TURNS * measure.PROTOCOL.repeat


@pytest.mark.parametrize(
    ("power_source", "seconds"), [("", measure.PROTOCOL.min_time_s), ("VDD_IN", measure.METERED_S)]
)
def test_a_power_meter_gets_longer_turns(
    make: Any, ledger: Ledger, power_source: str, seconds: float
) -> None:
    make(FormulaPool(power_source=power_source))
    (record,) = ledger.measured.values()
    assert record["protocol"]["min_time_s"] == seconds


@pytest.mark.parametrize(("noise", "noisy"), [(0.0, False), (0.5, True)])
def test_the_journal_tells_what_was_noisy(
    make: Any, ledger: Ledger, noise: float, noisy: bool
) -> None:
    make(FormulaPool(noise=noise))
    (record,) = ledger.measured.values()
    assert record["noisy"] is noisy


class TestPrecision:
    def test_a_cpu_is_timed_in_fp32_and_int8(self, make: Any) -> None:
        pool = FormulaPool()
        make(pool).measure(QUANTIZED)
        assert pool.turns == [["fp32"] * FIRST_TURNS, ["fp32", "int8"] * TURNS]

    def test_a_board_is_timed_in_its_baseline(self, make: Any) -> None:
        pool = FormulaPool(precisions=("fp32", "fp16", "int8"))
        make(pool, bits=16).measure(QUANTIZED)
        assert pool.turns == [["fp16"] * FIRST_TURNS, ["fp16", "int8"] * TURNS]

    def test_one_that_cannot_says_so(self, make: Any, caplog: pytest.LogCaptureFixture) -> None:
        pool = FormulaPool()
        with caplog.at_level(logging.WARNING, "search.measure"):
            make(pool, bits=16)
        assert pool.turns == [["fp32"] * FIRST_TURNS]
        assert "FP16" in caplog.text
        assert "timed in fp32" in caplog.text

    def test_times_in_another_precision_are_other_measurements(
        self, make: Any, ledger: Ledger
    ) -> None:
        for bits in (16, 32):
            make(FormulaPool(precisions=("fp32", "fp16", "int8")), bits=bits)
        assert len(ledger.measured) == 2

    def test_layers_of_32_bits_are_warned_of(
        self, make: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        bench = make(FormulaPool(precisions=("fp32", "fp16", "int8")), bits=16)
        with caplog.at_level(logging.WARNING, "search.measure"):
            bench.measure(QUANTIZED)
            assert not caplog.messages
            wide = Candidate(256, bits=(("conv", 32, 32),))
            bench.measure(wide)
            bench.measure_file(Files().write(DENSE, tmp_path), wide)
        assert len(caplog.messages) == 2
        assert all("timed as if they had 16" in message for message in caplog.messages)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a worker with a stand-in of trtexec, and what trtexec was called with."""
    calls = tmp_path / "calls"
    source = (ROOT / "tests" / "worker" / "trtexec_stand_in.py").read_text()
    noted = f"import json, sys\nopen({str(calls)!r}, 'a').write(json.dumps(sys.argv) + '\\n')\n"
    docstring_end = source.index('"""', 3) + 4
    tool = tmp_path / "trtexec"
    tool.write_text(f"#!{sys.executable}\n{source[:docstring_end]}{noted}{source[docstring_end:]}")
    tool.chmod(0o755)
    process = subprocess.Popen(  # noqa: S603
        [
            *(sys.executable, "-m", "paretrim_worker", "--listen", "127.0.0.1:0", "--insecure"),
            *("--runtime", "trtexec", "--trtexec", str(tool)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "hw_models" / "worker"),
            "TMPDIR": str(tmp_path),
        },
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[-1], calls
    process.terminate()
    process.communicate(timeout=60)


def test_a_board_builds_the_dense_file_in_fp16_and_quantised_ones_in_int8(
    board: tuple[str, Path], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gRPC, down to the flags of trtexec; the dense file is a real one."""
    monkeypatch.setattr("search.measure.STEADY", 1e3)
    address, calls = board
    problem = demo_problem()
    evaluator, form = problem.build(), OnnxTensorRT()

    class RealDense(Files):
        def compressed(self, candidate: Candidate) -> Any:
            return candidate if candidate == QUANTIZED else evaluator.compressed(candidate)

        def write(self, model: Any, folder: Path) -> Path:
            return super().write(model, folder) if model == QUANTIZED else form.write(model, folder)

    dense, files = problem.dense(128), RealDense()
    pool = DevicePool([DeviceClient(address)], Rules(drift=1e3, noise=1e3))
    try:
        bits = problem.model.profile.baseline_bits
        bench = make(pool, bits=bits, evaluator=files, form=files, dense=dense)
        bench.measure(QUANTIZED)
    finally:
        pool.close()
    starts = [json.loads(line) for line in calls.read_text().splitlines()]
    for candidate, flags in ((dense, {"--fp16"}), (QUANTIZED, {"--fp16", "--int8"})):
        digest = hashlib.sha256(bench.file(candidate).read_bytes()).hexdigest()
        builds = [start for start in starts if any(f"{digest}.onnx" in flag for flag in start)]
        assert builds
        assert all({"--fp16", "--int8"}.intersection(build) == flags for build in builds)
