"""What a report shows, as one value: `report.json` in the run folder, and all that the page needs.

Arrays that run along the network have one entry a step (convolutions and other ops) in execution
order. Absent figures are None: nothing is invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluators.score import Box, Details


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of the dense network.

    Attributes:
        name: As in the model.
        kind: `conv`, or the kind of another op.
        channels: Output channels of the dense model.
    """

    name: str
    kind: str
    channels: int


@dataclass(frozen=True, slots=True)
class Along:
    """What a point is along the network, one entry a step.

    Attributes:
        channels: Output channels left; 0 of what was dropped, as are all numbers.
        weight_bits: Of a convolution; 0 for other ops.
        act_bits: Of what a step reads.
        patterns: Sparsity pattern, `dense` for most.
        latency_ms: Predicted share of the latency.
        energy_mj: Predicted share of the energy; None where the device has no energy model.
    """

    channels: tuple[int, ...]
    weight_bits: tuple[int, ...]
    act_bits: tuple[int, ...]
    patterns: tuple[str, ...]
    latency_ms: tuple[float, ...]
    energy_mj: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A latency that a device measured.

    Attributes:
        latency_ms: Median.
        spread_ms: Median absolute deviation of the samples.
        device: Which.
    """

    latency_ms: float
    spread_ms: float
    device: str


@dataclass(frozen=True, slots=True)
class Gap:
    """How much more accurate a point is than something else.

    Attributes:
        name: Than what.
        map50_95: Difference; above 0 the point is better.
        error: Standard error of the difference on these images (bootstrap), if known.
    """

    name: str
    map50_95: float
    error: float | None


@dataclass(frozen=True, slots=True)
class Move:
    """One variable moved by one level, everything else as it is.

    Attributes:
        variable: Index into `Report.variables`.
        level: Where to.
        latency_ms: Predicted change.
        energy_mj: Predicted change, if the device has an energy model.
        size_mb: Change.
        map50_95: Estimated change, from moving each variable alone; None without such a sweep.
    """

    variable: int
    level: int
    latency_ms: float
    energy_mj: float | None
    size_mb: float
    map50_95: float | None


@dataclass(frozen=True, slots=True)
class PointView:
    """A point of the front, or the dense model at one input size.

    Attributes:
        id: As in front.csv; `dense@416` for the dense model at smaller sizes.
        method: What proposed it.
        digest: Of the candidate.
        imgsz: Input size in pixels.
        map50_95: On the validation images.
        map50: Likewise.
        rung: `full` for all validation images, `subset` for a part of them.
        error: Standard error of map50_95 on these images, if known.
        exported: mAP50-95 of the exported file.
        latency_ms: Predicted.
        low_ms: Lower end of the 90 % interval.
        high_ms: Upper end.
        measured: By a device, if it was.
        energy_mj: Predicted, if the device has an energy model.
        size_mb: Stored weights.
        macs_g: 10^9 multiply-accumulates.
        params_m: Million weights and biases.
        meets: The latency budgets it keeps, as written.
        to_dense: Against the dense model at its largest size.
        to_stock: Against the best uncompressed model that is as fast; None if nothing is.
        level: Of each variable, or empty if the point lies outside the space.
        along: Layer by layer.
        moves: What one more step would bring.
        details: What lies behind the mAP, if it was kept.
    """

    id: str
    method: str
    digest: str
    imgsz: int
    map50_95: float
    map50: float
    rung: str
    error: float | None
    exported: float | None
    latency_ms: float
    low_ms: float
    high_ms: float
    measured: Measured | None
    energy_mj: float | None
    size_mb: float
    macs_g: float
    params_m: float
    meets: tuple[str, ...]
    to_dense: Gap | None
    to_stock: Gap | None
    level: tuple[int, ...]
    along: Along
    moves: tuple[Move, ...]
    details: Details | None


@dataclass(frozen=True, slots=True)
class Stock:
    """A published uncompressed model.

    Attributes:
        name: Such as `YOLOv5s`.
        latency_ms: Predicted on the same device.
        map50_95: Published, scaled by how the dense model does here.
    """

    name: str
    latency_ms: float
    map50_95: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one latency budget.

    Attributes:
        budget: In the user's words.
        budget_ms: The same in ms.
        pick: Id of the best point within all budgets; None if there is none.
        met_by_dense: Whether the dense model is within the budget already.
        level_with: Id of a faster point that is hardly less accurate.
        sentence: The same as on the terminal.
    """

    budget: str
    budget_ms: float
    pick: str | None
    met_by_dense: bool
    level_with: str | None
    sentence: str


@dataclass(frozen=True, slots=True)
class VariableView:
    """One variable of the search space.

    Attributes:
        name: Family and group or layer.
        options: Its levels, the densest first.
        losses: Share of the agreement with the dense model that each level costs when moved alone,
            0..1; None without a sweep.
    """

    name: str
    options: tuple[str, ...]
    losses: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class History:
    """How the search went, from the journal.

    Attributes:
        minutes: Since the first evaluation, of each scored candidate.
        hypervolume: After it.
        best: For each budget, the best mAP50-95 on the subset within it so far.
        rungs: Evaluations by rung.
        promoted: Candidates scored at each rung that went on to the next, by rung.
        failures: By kind.
        seconds: Time spent evaluating, by rung.
        workers: Evaluations by actor.
        reused: Results taken over from other runs.
        elapsed_s: From the first evaluation to the last.
    """

    minutes: tuple[float, ...]
    hypervolume: tuple[float, ...]
    best: dict[str, tuple[float | None, ...]]
    rungs: dict[str, int]
    promoted: dict[str, int]
    failures: dict[str, int]
    seconds: dict[str, float]
    workers: dict[str, int]
    reused: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class FitRow:
    """How wrong the hardware model is at one precision.

    Attributes:
        precision: Such as `fp16`.
        rows: Measurements.
        networks: Networks among them.
        fitted: Mean absolute error on what was fitted, in per cent.
        left_out: The same, each network predicted by a fit without it.
        held_out: On networks that no choice was made by, if there are any.
    """

    precision: str
    rows: int
    networks: int | None
    fitted: float | None
    left_out: float | None
    held_out: float | None


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """The hardware model behind the predictions.

    Attributes:
        name: Of the profile.
        description: In its own words.
        power_mode: Name and clocks.
        measured_at: Where its energy was measured.
        rows: Errors by precision.
        networks: Predicted over measured, by network, of what was fitted.
        energy_error: Mean absolute error of energy on what was fitted, in per cent.
        intervals: By precision in bits, the half width of the 90 % interval as a factor.
        transferred: Precisions without a measurement behind them.
        sources: Where its facts come from.
    """

    name: str
    description: str
    power_mode: str
    measured_at: str
    rows: tuple[FitRow, ...]
    networks: dict[str, float]
    energy_error: float | None
    intervals: dict[str, float]
    transferred: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """An image to look at.

    Attributes:
        jpeg: Base64.
        width: In pixels, of the shown image.
        height: Likewise.
        truth: x1 y1 x2 y2 as fractions, 1, class.
    """

    jpeg: str
    width: int
    height: int
    truth: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Explored:
    """The candidates scored on the subset, column by column."""

    latency_ms: tuple[float, ...]
    energy_mj: tuple[float | None, ...]
    size_mb: tuple[float, ...]
    map50_95: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page. See the module's docstring.

    Attributes:
        title: What was compressed.
        created: Date and time, UTC.
        complete: False for the front of an interrupted search.
        target: Device profile.
        objectives: What was minimised beside latency: `energy`, `size`.
        images: Validation images.
        subset_images: Those on which candidates were compared.
        classes: Names.
        verdicts: One a latency budget, tightest first.
        points: The front, fastest first.
        dense: The uncompressed model, the largest size first.
        stock: Published models on the same device; empty unless the data are COCO's.
        explored: What else was scored.
        steps: The network.
        variables: What could vary.
        history: How the search went.
        device: The hardware model.
        examples: Images to look at.
        settings: As the user gave them.
        resolved: What they amounted to, with versions and digests.
    """

    title: str
    created: str
    complete: bool
    target: str
    objectives: tuple[str, ...]
    images: int
    subset_images: int
    classes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    points: tuple[PointView, ...]
    dense: tuple[PointView, ...]
    stock: tuple[Stock, ...]
    explored: Explored
    steps: tuple[Step, ...]
    variables: tuple[VariableView, ...]
    history: History
    device: DeviceFit
    examples: tuple[Example, ...]
    settings: dict[str, Any]
    resolved: dict[str, Any]
