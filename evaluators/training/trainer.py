"""The training of a compressed detector: steps, epochs, checkpoints, and what comes out.

AdamW with linear warm-up and half a cosine, gradients clipped, mosaics until the last part of the
training, batch-norm statistics frozen at its very end (they must be those of the pictures that the
network will see, with the rounding it will have), and a moving average of the weights, which is
what is evaluated and kept. A training is a function of its plan: an epoch's randomness comes from
(seed, epoch), so that one that goes on from a checkpoint ends as if it had not been stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.dataset import Dataset
from evaluators.device import default_device
from evaluators.training.averaging import Average
from evaluators.training.classic_objective import ClassicObjective
from evaluators.training.distillation import Distillation
from evaluators.training.images import Batch, TrainingImages
from evaluators.training.method import Grids, Method
from evaluators.training.objective import Objective, Raw, UObjective
from hw_models.errors import InputError
from spaces.model import Detector
from spaces.quantization.simulate import quantize

WARMUP = 0.05  # share of all steps
LAST_RATE = 0.02  # of the peak
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 10.0  # norm
MOSAIC_UNTIL = 0.7  # share of the epochs
NORMS_FROZEN_FROM = 0.9


class DivergedError(Exception):
    """A training left the finite numbers; it cannot go on and its weights are of no use."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides a training, beside the networks and the data.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: Peak of AdamW's rate.
        distillation: Weight of the distance from the dense model; 0 for none.
        labels: Weight of the detection loss; 0 learns from the dense model alone.
        batch: Images a step.
        seed: Of the order, the augmentations and fresh parameters.
        mosaic_until: Share of the epochs in which four images are put together to one.
        norms_frozen_from: Share of the epochs after which batch-norm statistics stay.
    """

    epochs: int
    learning_rate: float = 1e-3
    distillation: float = 1.0
    labels: float = 1.0
    batch: int = 16
    seed: int = 0
    mosaic_until: float = MOSAIC_UNTIL
    norms_frozen_from: float = NORMS_FROZEN_FROM


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What an epoch did.

    Attributes:
        epoch: Its number; the first is 1.
        loss: Mean of the total loss.
        parts: Means of the detection loss's parts, and `distillation`, by name.
        seconds: Wall time.
    """

    epoch: int
    loss: float
    parts: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training ends with.

    Attributes:
        detector: Float weights, on their grids where the bits say so; nothing of the training left.
        grids: Bits and scales of its layers, for `quantize` and `export_onnx`.
    """

    detector: Detector
    grids: Grids

    def simulated(self) -> Detector:
        """Return the detector with its activations rounded, too: what an exported file computes."""
        net = copy.deepcopy(self.detector.net)
        quantize(net, self.grids.bits, self.grids.scales)
        return replace(self.detector, net=net)


class Training:
    """A training that can be stopped and continued after any epoch.

    Args:
        student: What is trained, dense or really sliced; it is not changed.
        teacher: The dense model.
        data: Images with truth.
        plan: What decides the training.
        methods: Applied in this order at each moment, and in the reverse one at the end.
        device: Where it runs; None = CUDA where there is one.

    Attributes:
        last: What the last complete epoch did; None before the first.

    Raises:
        InputError: If there are no images.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        data: Dataset,
        plan: Plan,
        methods: Sequence[Method] = (),
        device: torch.device | None = None,
    ) -> None:
        torch.manual_seed(plan.seed)
        self._device = device or default_device()
        self._plan = plan
        self._methods = tuple(methods)
        self._images = TrainingImages(data, student.imgsz)
        batches = len(data) // min(plan.batch, len(data))
        self._steps = batches * plan.epochs
        self._student = student
        self._net = _trainable(student.net)
        for method in self._methods:
            method.install(self._net)
        self._net.to(self._device)
        self._teacher = copy.deepcopy(teacher.net).eval().to(self._device)
        self._objective = _objective_of(student.kind, self._net)
        self._distillation = self._make_distillation() if plan.distillation > 0 else None
        self._average = Average(self._net, self._steps)
        self._optimizer = torch.optim.AdamW(self._groups(), weight_decay=WEIGHT_DECAY)
        self.last: EpochReport | None = None

    def _make_distillation(self) -> Distillation:
        probe = torch.zeros(1, 3, self._student.imgsz, self._student.imgsz, device=self._device)
        with torch.no_grad():
            channels = [
                [x.shape[1] for x in self._objective.raw(net.eval(), probe).maps]
                for net in (self._net, self._teacher)
            ]
        return Distillation(self._objective, *channels).to(self._device)

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [p for p in self._net.parameters() if p.requires_grad]
        if self._distillation is not None:
            parameters += self._distillation.parameters()
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]  # biases, batch norms, steps of grids
        return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]

    def run_epoch(self) -> EpochReport:
        """Train for one more epoch.

        Raises:
            DivergedError: If the loss is not finite; nothing can be done with this training then.
        """
        start = time.perf_counter()
        share = self.epoch / self._plan.epochs
        self._set_mode(norms_frozen=share >= self._plan.norms_frozen_from)
        totals: dict[str, float] = {}
        steps = 0
        seed = (self._plan.seed, self.epoch)
        torch.manual_seed(1000 * self._plan.seed + self.epoch)
        for batch in self._images.batches(
            self._plan.batch, seed, mosaic=share < self._plan.mosaic_until
        ):
            for name, value in self._step(batch, steps).items():
                totals[name] = totals.get(name, 0.0) + value
            steps += 1
        means = {name: value / steps for name, value in totals.items()}
        loss = means.pop("loss")
        self.last = EpochReport(self.epoch + 1, loss, means, time.perf_counter() - start)
        return self.last

    def _set_mode(self, norms_frozen: bool) -> None:
        self._net.train()
        for module in self._net.modules():
            if isinstance(module, nn.BatchNorm2d) and norms_frozen:
                module.eval()

    def _step(self, batch: Batch, number: int) -> dict[str, float]:
        """Take one optimiser step; return the loss and its parts."""
        done = self.epoch * self._steps // self._plan.epochs + number
        progress = done / self._steps
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate * rate(progress)
        batch = {name: value.to(self._device) for name, value in batch.items()}
        loss, parts = self._loss(batch, progress)
        if not math.isfinite(parts["loss"]):
            raise DivergedError(
                f"the loss became {parts['loss']} in epoch {self.epoch + 1}, step {number + 1}"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._net.parameters(), LARGEST_GRADIENT)
        for method in self._methods:
            method.shape_gradients(self._net, progress)
        self._optimizer.step()
        for method in self._methods:
            method.after_step(self._net, progress)
        self._average.update(self._net, done + 1)
        return parts

    def _loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, float]]:
        raw = self._objective.raw(self._net, batch["img"])
        loss, parts = raw.maps[0].new_zeros(()), dict[str, float]()
        if self._plan.labels > 0:
            loss, parts = self._objective.loss(raw, batch)
            loss = self._plan.labels * loss
        if self._distillation is not None:
            distance = self._distillation(raw, self._teach(batch["img"]))
            parts["distillation"] = float(distance.detach())
            loss = loss + self._plan.distillation * distance
        for method in self._methods:
            penalty = method.penalty(self._net, progress)
            if penalty is not None:
                parts["penalty"] = parts.get("penalty", 0.0) + float(penalty.detach())
                loss = loss + penalty
        return loss, {**parts, "loss": float(loss.detach())}

    @torch.no_grad()
    def _teach(self, images: Tensor) -> Raw:
        return self._objective.raw(self._teacher, images)

    @property
    def epoch(self) -> int:
        """So many epochs are complete."""
        return 0 if self.last is None else self.last.epoch

    @property
    def averaged(self) -> nn.Module:
        """The averaged network in eval mode, with everything a method put into it."""
        return self._average.net

    def result(self) -> Trained:
        """Return the averaged network as it is now, on the CPU and free of the training.

        Raises:
            DivergedError: If it holds numbers that are not finite.
        """
        net = copy.deepcopy(self._average.net).cpu().to(memory_format=torch.contiguous_format)
        grids = Grids({})
        for method in reversed(self._methods):
            grids = method.finish(net, grids)
        for name, tensor in net.state_dict().items():
            if not tensor.isfinite().all():
                raise DivergedError(f"{name} is not finite after epoch {self.epoch}")
        return Trained(replace(self._student, net=net.requires_grad_(False).eval()), grids)

    def save(self, path: Path) -> None:
        """Write the state, in one rename."""
        distillation = None if self._distillation is None else self._distillation.state_dict()
        state = {
            "last": None if self.last is None else asdict(self.last),
            "net": self._net.state_dict(),
            "average": self._average.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "distillation": distillation,
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote for the same plan.

        Raises:
            InputError: If the file is of another training or cannot be read.
        """
        try:
            state = torch.load(path, weights_only=True, map_location=self._device)
            self._net.load_state_dict(state["net"])
            self._average.net.load_state_dict(state["average"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._distillation is not None:
                self._distillation.load_state_dict(state["distillation"])
            self.last = None if state["last"] is None else EpochReport(**state["last"])
        except Exception as error:  # torch raises a dozen unrelated classes
            raise InputError(
                f"The checkpoint {path} cannot be continued: expected one of the same training,"
                f" got {type(error).__name__}: {str(error).splitlines()[0]}.",
                "Remove it to train from the beginning.",
            ) from error


def rate(progress: float) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then half a cosine."""
    if progress < WARMUP:
        return LAST_RATE + (1 - LAST_RATE) * progress / WARMUP
    falling = 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
    return LAST_RATE + (1 - LAST_RATE) * falling


def _objective_of(kind: str, net: nn.Module) -> Objective:
    return UObjective(net) if kind == "u" else ClassicObjective(net)


def _trainable(net: nn.Module) -> nn.Module:
    """Copy a network to the CPU, and let all but the fixed ramp of a u-model's DFL be trained."""
    net = copy.deepcopy(net).cpu().to(memory_format=torch.channels_last)
    net.requires_grad_(True)
    for module in net.modules():
        if type(module).__name__ == "DFL":
            module.requires_grad_(False)
    return net
