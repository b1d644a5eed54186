"""Channel pruning of YOLOv5n without fine-tuning: `python -m benchmarks.pruning`.

The model is the classic YOLOv5n of COCO. Images to rank, fit and choose on are training images of
../shared/coco, without their labels; its validation images are only scored on. Three sections:

* `uniform`: the same share of every group removed (416 px), for each criterion and restoration.
* `choice`: -10 % and -20 % MACs at 320 px, how much of which group chosen by a mixed-integer
  program on what removing it alone does to the detections, and by a search around its choice.
* `sizes`: the dense model at smaller input sizes, the curve that pruning has to beat.

Finished rows of `uniform` are kept in a file (`--rows`): a run that was stopped goes on, and a row
is measured again when its line is deleted.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from benchmarks.rows import Figures, kept_row
from evaluators.batchnorm import match_moments, measure_moments
from evaluators.dataset import Dataset, load_dataset
from evaluators.dense import BATCH, as_input, for_inference
from evaluators.detection import detect, score_detections
from evaluators.distortion import Reference, agreement, reference
from evaluators.influence import measure_outputs
from evaluators.reconstruct import DenseOutputs, reconstruct
from evaluators.refit import Inputs, measure_inputs, refit
from hw_models.workload import ConvShape
from spaces.candidate import Candidate
from spaces.compress import Ranking, compress, kept_channels
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.saliency import CRITERIA, rank, score

WEIGHTS = "yolov5n_v6.1_official.pt"
UNIFORM_IMGSZ = 416
CHOICE_IMGSZ = 320
SIZES = (416, 384, 352, 320, 288, 256, 224)
RANK_IMAGES = 64  # the first of the training images
QUICK_IMAGES = 64  # batch norms and the parallel refit
FIT_IMAGES = 128  # the sequential refit
JUDGE_IMAGES = 50  # the other training images: nothing was ranked or fitted on them
CUTS = (0.1, 0.2)  # of the MACs
LEVELS = 8  # a group may lose eighths of its channels ...
MOST_REMOVED = 4  # ... up to so many
MEASURED_LEVELS = (1, 2, 4)  # of them are measured, the others lie between
TRIES = 80  # choices searched around the program's
MOVED = 0.2  # of the groups have their losses scaled in a try ...
SPREAD = 0.7  # ... by a factor with this standard deviation of its logarithm
ROUNDS = 6  # of the choice: MACs are bilinear in the channels, the program is linear

Kept = NDArray[np.bool_]


@dataclass(eq=False)
class Bench:
    """The model at one input size; everything else is measured when it is first asked for."""

    detector: Detector
    network: Network
    imgsz: int
    train: Dataset
    validation: Dataset

    @cached_property
    def _train_squares(self) -> Tensor:
        return self.train.squares(self.imgsz)

    def pictures(self, first: int, count: int) -> Tensor:
        """Return some training images as inputs."""
        return as_input(self._train_squares[first : first + count])

    @cache  # noqa: B019 - there is one bench in a process
    def ranking(self, criterion: str) -> Ranking:
        """Rank the channels of all groups."""
        return rank(self.detector, self.network, criterion, self.pictures(0, RANK_IMAGES))

    @cached_property
    def inputs(self) -> dict[str, Inputs]:
        """What the dense convolutions read."""
        return measure_inputs(self.detector.net, self.network, self.pictures(0, QUICK_IMAGES))

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What the dense convolutions write, most of it where detections come from."""
        pictures = self.pictures(0, FIT_IMAGES)
        return measure_outputs(self.detector.net, self.network, pictures)

    @cached_property
    def judges(self) -> list[tuple[Tensor, Reference]]:
        """Training images to judge by, and what the dense model says about them."""
        net = for_inference(copy.deepcopy(self.detector.net))
        judged = []
        with torch.inference_mode():
            for batch in torch.split(self.pictures(FIT_IMAGES, JUDGE_IMAGES), BATCH):
                output = net(batch)
                judged.append((batch, reference(output, detect(output))))
        return judged

    @torch.inference_mode()
    def agreement(self, net: nn.Module) -> float:
        """Return the share of the dense detections on training images that a network finds."""
        net = for_inference(copy.deepcopy(net))
        shares = [agreement(detect(net(batch)), dense) for batch, dense in self.judges]
        return float(np.average(shares, weights=[len(batch) for batch, _ in self.judges]))

    @torch.inference_mode()
    def map50_95(self, net: nn.Module) -> float:
        """Measure mAP on the validation images."""
        net = for_inference(copy.deepcopy(net))
        found: list[Tensor] = []
        for batch in torch.split(self._validation_squares, BATCH):
            found += detect(net(as_input(batch)))
        return score_detections(found, self.validation, self.imgsz).map50_95

    @cached_property
    def _validation_squares(self) -> Tensor:
        return self.validation.squares(self.imgsz)

    @cached_property
    def dense_map(self) -> float:
        """The dense model's mAP at this size."""
        return self.map50_95(self.detector.net)

    def pruned(self, candidate: Candidate, ranking: Ranking, restoration: str) -> nn.Module:
        """Return the sliced network with its accuracy restored."""
        net = compress(self.detector, self.network, candidate, ranking).net
        RESTORATIONS[restoration](self, net, kept_channels(self.network, candidate, ranking))
        return net

    def macs(self, counts_NG: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the multiply-accumulates of candidates [N], given their channels [N, G].

        No convolution of this model is depthwise.
        """
        reads, writes = (widths(counts_NG) for widths in self.network.widths())
        each_S = [
            step.kernel[0] * step.kernel[1] * step.out_h * step.out_w
            if isinstance(step, ConvShape)
            else 0
            for step in self.network.steps_at(self.imgsz)
        ]
        return np.asarray(reads * writes @ np.array(each_S, dtype=np.float64))

    def candidate(self, counts_G: NDArray[np.int64]) -> Candidate:
        """Return the candidate that keeps so many channels of each group [G]."""
        names = (group.name for group in self.network.groups)
        return Candidate(self.imgsz, tuple(zip(names, counts_G.tolist(), strict=True)))


def _by_batchnorm(bench: Bench, net: nn.Module, kept: Kept) -> None:
    pictures = bench.pictures(0, QUICK_IMAGES)
    moments = measure_moments(bench.detector.net, pictures)
    norms = bench.network.norms.items()
    match_moments(
        net,
        pictures,
        {name: moments[name].of(torch.from_numpy(kept[channels])) for name, channels in norms},
    )


def _by_refit(bench: Bench, net: nn.Module, kept: Kept) -> None:
    refit(net, bench.detector.net, bench.network, kept, bench.inputs)


def _by_reconstruction(bench: Bench, net: nn.Module, kept: Kept) -> None:
    reconstruct(net, bench.outputs, bench.network, kept, {})


RESTORATIONS: Mapping[str, Callable[[Bench, nn.Module, Kept], None]] = {
    "none": lambda _bench, _net, _kept: None,
    "BN": _by_batchnorm,
    "refit": _by_refit,
    "sequential": _by_reconstruction,
}


def load(shared: Path, images: int, imgsz: int) -> Bench:
    """Load the model and the images; `images` of the validation images, 0 for all."""
    detector = load_detector(shared / "weights" / WEIGHTS)
    data = str(shared / "coco" / "coco.yaml")
    train, validation = load_dataset(data, "train"), load_dataset(data, "val")
    return Bench(
        detector=detector,
        network=analyse(detector, imgsz),
        imgsz=imgsz,
        train=train.subset(FIT_IMAGES + JUDGE_IMAGES),
        validation=validation.subset(images) if images else validation,
    )


def uniform(
    bench: Bench, criteria: Sequence[str], rates: Sequence[float], rows: Path
) -> Iterator[str]:
    """Remove the same share of every group; yield a line for each criterion and rate."""
    sizes = bench.network.sizes
    dense_macs = bench.macs(sizes[None])[0]
    yield (
        f"uniform, {bench.imgsz} px, {len(bench.validation)} validation images, dense mAP50-95 "
        f"{bench.dense_map:.4f}; retention in %"
    )
    for rate in rates:
        counts = sizes - np.rint(rate * sizes).astype(np.int64)
        yield (
            f"{rate:.0%} of each group: {int((sizes - counts).sum())} of {int(sizes.sum())} "
            f"channels, {1 - bench.macs(counts[None])[0] / dense_macs:.1%} of the MACs"
        )
    yield "criterion          rate  " + "  ".join(f"{name:>10}" for name in RESTORATIONS)
    images = f"{len(bench.validation)} images"
    for criterion, rate in itertools.product(criteria, rates):
        row = f"uniform | {criterion} | {rate:.0%} | {images}"
        figures = kept_row(rows, row, partial(_uniform_row, bench, criterion, rate))
        cells = "  ".join(f"{figures[name]:10.1%}" for name in RESTORATIONS)
        yield f"{criterion:18} {rate:4.0%}  {cells}"


def _uniform_row(bench: Bench, criterion: str, rate: float) -> Figures:
    """Return the retention with each restoration, and the seconds of ranking and of each."""
    sizes = bench.network.sizes
    candidate = bench.candidate(sizes - np.rint(rate * sizes).astype(np.int64))
    start = time.perf_counter()
    ranking = bench.ranking(criterion)
    figures: Figures = {"ranked in s": time.perf_counter() - start}
    for name in RESTORATIONS:
        start = time.perf_counter()
        net = bench.pruned(candidate, ranking, name)
        figures[f"{name} in s"] = time.perf_counter() - start
        figures[name] = bench.map50_95(net) / bench.dense_map
    return figures


def choice(bench: Bench, cuts: Sequence[float], rows: Path) -> Iterator[str]:
    """Choose how much of which group to remove; yield a line for each cut and table of losses."""
    yield (
        f"choice, {bench.imgsz} px, dense mAP50-95 {bench.dense_map:.4f}; groups lose eighths of "
        f"their channels; the line marked * has the best agreement on training images"
    )
    pictures = bench.pictures(0, RANK_IMAGES)
    scores = score(bench.detector, bench.network, "residual", pictures)
    ranking = {name: found.argsort(descending=True).numpy() for name, found in scores.items()}
    counts_GL = np.stack(
        [
            bench.network.sizes - np.rint(bench.network.sizes * removed / LEVELS).astype(np.int64)
            for removed in range(MOST_REMOVED + 1)
        ],
        axis=1,
    )
    start = time.perf_counter()
    tables = {
        "agreement": _disagreement(bench, ranking, counts_GL, rows),
        "residual": _residual_losses(bench, scores, counts_GL),
    }
    tables["both"] = _between(tables["agreement"], tables["residual"])
    yield f"losses of {counts_GL[:, 1:].size} single choices in {time.perf_counter() - start:.0f} s"
    for cut in cuts:
        solved = {name: _solve(bench, counts_GL, loss_GL, cut) for name, loss_GL in tables.items()}
        solved["searched"] = _searched(bench, ranking, counts_GL, tables["agreement"], cut)
        solved["uniform"] = _uniform_at(bench, cut)
        nets = {
            name: bench.pruned(bench.candidate(counts), ranking, "sequential")
            for name, counts in solved.items()
        }
        agreements = {name: bench.agreement(net) for name, net in nets.items()}
        best = max(agreements, key=agreements.__getitem__)
        dense_macs = bench.macs(bench.network.sizes[None])[0]
        for name, counts in solved.items():
            yield (
                f"-{cut:.0%} MACs {'*' if name == best else ' '} {name:10} "
                f"MACs -{1 - bench.macs(counts[None])[0] / dense_macs:.1%}, "
                f"{int((counts < bench.network.sizes).sum())} groups, agreement "
                f"{agreements[name]:.3f}, retention "
                f"{bench.map50_95(nets[name]) / bench.dense_map:.1%}"
            )


def _disagreement(
    bench: Bench, ranking: Ranking, counts_GL: NDArray[np.int64], rows: Path
) -> NDArray[np.float64]:
    """Measure -log(agreement) of each single choice [G, L] after the parallel refit.

    The logarithm adds up where shares multiply. More channels never cost more: what noise says
    otherwise is raised to the loss of the level before. Between measured levels it is linear.
    """
    loss_GL = np.zeros(counts_GL.shape)
    for group, counts_L in enumerate(counts_GL):
        name = bench.network.groups[group].name
        row = f"choice | {name} | {bench.imgsz} px | {JUDGE_IMAGES} judges"
        figures = kept_row(rows, row, partial(_group_losses, bench, ranking, group, counts_L))
        known_L = [0.0, *figures["losses"]]
        loss_GL[group] = np.interp(np.arange(len(counts_L)), [0, *MEASURED_LEVELS], known_L)
    return np.asarray(np.maximum.accumulate(loss_GL, axis=1))


def _group_losses(
    bench: Bench, ranking: Ranking, group: int, counts_L: NDArray[np.int64]
) -> Figures:
    losses = []
    for level in MEASURED_LEVELS:
        counts = bench.network.sizes.copy()
        counts[group] = counts_L[level]
        net = bench.pruned(bench.candidate(counts), ranking, "refit")
        losses.append(-float(np.log(max(bench.agreement(net), 1e-6))))
    return {"losses": losses}


def _residual_losses(
    bench: Bench, scores: Mapping[str, Tensor], counts_GL: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what the criterion `residual` itself predicts for each single choice [G, L]."""
    loss_GL = np.zeros(counts_GL.shape)
    for group, level in np.ndindex(*counts_GL.shape):
        removed = int(bench.network.sizes[group] - counts_GL[group, level])
        if removed:
            cheapest_first = scores[bench.network.groups[group].name].sort().values
            loss_GL[group, level] = float(cheapest_first[removed - 1])
    return loss_GL


def _between(first_GL: NDArray[np.float64], second_GL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of two tables of losses, each in units of its own mean."""
    return np.asarray(first_GL / first_GL.mean() + second_GL / second_GL.mean())


def _solve(
    bench: Bench, counts_GL: NDArray[np.int64], loss_GL: NDArray[np.float64], cut: float
) -> NDArray[np.int64]:
    """Choose a level of each group with the least sum of losses that cuts the MACs enough [G].

    A layer's MACs are the product of the channels it reads and writes. The program takes what each
    choice saves alone; where both ends of a layer shrink that counts some MACs twice. So it is
    solved again with the shortfall added to what it has to save.
    """
    groups, levels = counts_GL.shape
    dense = bench.network.sizes
    alone_NG = np.repeat(dense[None], groups * levels, axis=0)
    alone_NG[np.arange(groups * levels), np.repeat(np.arange(groups), levels)] = counts_GL.ravel()
    dense_macs = bench.macs(dense[None])[0]
    saving_N = dense_macs - bench.macs(alone_NG)
    one_each_GN = np.repeat(np.eye(groups), levels, axis=1)
    target, demand = cut * dense_macs, cut * dense_macs
    for _ in range(ROUNDS):
        solution = milp(
            loss_GL.ravel(),
            integrality=np.ones(groups * levels),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each_GN, 1, 1),
                LinearConstraint(saving_N[None], demand, np.inf),
            ],
        )
        assert solution.x is not None, "half of all channels are more than is asked for"
        chosen_G = solution.x.reshape(groups, levels).argmax(1)
        counts: NDArray[np.int64] = counts_GL[np.arange(groups), chosen_G]
        shortfall = target - (dense_macs - bench.macs(counts[None])[0])
        if shortfall <= 0:
            break
        demand += shortfall
    return counts


def _searched(
    bench: Bench,
    ranking: Ranking,
    counts_GL: NDArray[np.int64],
    loss_GL: NDArray[np.float64],
    cut: float,
) -> NDArray[np.int64]:
    """Search around the program's choice for one with more agreement on training images [G].

    The losses of some groups are scaled at random and the program solved again; the scales of the
    best choice so far are gone on from (SPDY, arXiv 2201.13096, section 3.3, on measured losses).
    """
    random = np.random.default_rng(0)
    scales_G = np.zeros(len(loss_GL))
    best, tried = (-1.0, scales_G, counts_GL[:, 0]), dict[tuple[int, ...], float]()
    for _ in range(TRIES):
        counts = _solve(bench, counts_GL, loss_GL * np.exp(scales_G[:, None]), cut)
        key = tuple(counts.tolist())
        if key not in tried:
            tried[key] = bench.agreement(bench.pruned(bench.candidate(counts), ranking, "refit"))
        best = max(best, (tried[key], scales_G, counts), key=lambda found: found[0])
        moved_G = random.random(len(loss_GL)) < MOVED
        scales_G = best[1] + moved_G * random.normal(0.0, SPREAD, len(loss_GL))
    return best[2]


def _uniform_at(bench: Bench, cut: float) -> NDArray[np.int64]:
    """Return the channels that the smallest uniform rate with enough MACs cut keeps [G]."""
    sizes = bench.network.sizes
    allowed = (1 - cut) * bench.macs(sizes[None])[0]
    candidates = (sizes - np.rint(rate * sizes).astype(np.int64) for rate in np.arange(0, 1, 0.005))
    return next(counts for counts in candidates if bench.macs(counts[None])[0] <= allowed)


def sizes(shared: Path, images: int) -> Iterator[str]:
    """Score the dense model at smaller input sizes; yield a line for each."""
    yield "input size alone; MACs and retention in % of those at 416 and at 320 px"
    scored: dict[int, tuple[float, float]] = {}
    for imgsz in SIZES:
        bench = load(shared, images, imgsz)
        scored[imgsz] = (float(bench.macs(bench.network.sizes[None])[0]), bench.dense_map)
    for imgsz, (macs, map50_95) in scored.items():
        shares = "   ".join(
            f"{macs / scored[whole][0]:7.1%} {map50_95 / scored[whole][1]:7.1%}"
            for whole in (UNIFORM_IMGSZ, CHOICE_IMGSZ)
        )
        yield f"{imgsz} px  mAP50-95 {map50_95:.4f}   {shares}"


def main(
    images: Annotated[int, typer.Option(help="validation images; 0: all")] = 0,
    criteria: Annotated[str, typer.Option(help="of the uniform section")] = ",".join(CRITERIA),
    rates: Annotated[str, typer.Option(help="of the uniform section")] = "0.05,0.1,0.2",
    only: Annotated[str, typer.Option(help="sections")] = "uniform,choice,sizes",
    shared: Annotated[Path, typer.Option(help="the folder of real data")] = Path("../shared"),
    rows: Annotated[Path, typer.Option(help="where finished rows are kept")] = Path(
        "runs/benchmarks/pruning.jsonl"
    ),
) -> None:
    """Measure and print."""
    if not (shared / "weights").is_dir():
        typer.echo(f"The real weights and images are not here: no folder {shared}. Skipped.")
        return
    sections: Mapping[str, Callable[[], Iterator[str]]] = {
        "uniform": lambda: uniform(
            load(shared, images, UNIFORM_IMGSZ),
            criteria.split(","),
            [float(rate) for rate in rates.split(",")],
            rows,
        ),
        "choice": lambda: choice(load(shared, images, CHOICE_IMGSZ), CUTS, rows),
        "sizes": lambda: sizes(shared, images),
    }
    for name, known in [(name, CRITERIA) for name in criteria.split(",")] + [
        (name, sections) for name in only.split(",")
    ]:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    for name in only.split(","):
        for line in sections[name]():
            typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
