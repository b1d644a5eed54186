"""Train the demo detector: a YOLOv5n u-model, from scratch, on generated images.

Run as ``python -m evaluators.demo.train --output WEIGHTS.safetensors``. The run is a budget of
minutes, not of epochs: learning rate and image size follow the share of it that has passed, so
that it ends in time on any machine. A checkpoint beside the output lets a stopped run go on where
it was.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss

from evaluators.demo import demo_dataset
from evaluators.demo.generator import IMAGE_SIZE, NAMES, render
from evaluators.demo.measure import measure
from evaluators.device import default_device

_LOSS_GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # ultralytics' defaults
_SIZES = ((0.40, 192), (0.62, 256), (1.00, 320))  # input pixels until this share of the run
_PEAK_LEARNING_RATE = 2e-3
_WARMUP = 0.02  # share of the run
_WEIGHT_DECAY = 0.01
_EMA_DECAY, _EMA_RAMP_STEPS = 0.9995, 1000
_SAVE_EVERY_S, _VAL_IMAGES = 240.0, 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is told."""

    output: Path
    minutes: float
    seed: int
    batch: int
    pool: int

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept."""
        return self.output.with_suffix(".ckpt")


@dataclass(slots=True)
class Run:
    """What a run carries from step to step."""

    net: DetectionModel
    ema: DetectionModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    images_seen: int = 0
    elapsed_s: float = 0.0

    def state(self) -> dict[str, object]:
        """The run as tensors and numbers."""
        return {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": [self.step, self.images_seen, self.elapsed_s],
        }

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.images_seen, self.elapsed_s = state["progress"]


class Pool:
    """Rendered training images in memory, handed out in augmented batches."""

    def __init__(self, count: int) -> None:
        rendered = [render("train", index) for index in range(count)]
        self.images = np.stack([image for image, _, _ in rendered])  # [N, H, W, 3]
        self.classes = [classes for _, classes, _ in rendered]
        self.boxes = [boxes for _, _, boxes in rendered]

    def batch(self, rng: np.random.Generator, count: int, size_px: int) -> dict[str, torch.Tensor]:
        """Draw a batch: each image turned, mirrored and with its colour channels permuted.

        Returns:
            ``img`` [B, 3, size, size] in 0..1 and, over all K objects of the batch, ``batch_idx``
            [K], ``cls`` [K, 1] and ``bboxes`` [K, 4] (centre and size as fractions of the image).
        """
        picks = rng.integers(0, len(self.images), count)
        images, boxes = zip(*(self._augmented(rng, pick, size_px) for pick in picks), strict=True)
        counts = torch.tensor([len(b) for b in boxes])
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # channels last in memory
        return {
            "img": pixels.float() / 255,
            "batch_idx": torch.arange(count).repeat_interleave(counts).float(),
            "cls": torch.from_numpy(np.concatenate([self.classes[p] for p in picks])).float()[
                :, None
            ],
            "bboxes": torch.from_numpy(np.concatenate(boxes)).float(),
        }

    def _augmented(
        self, rng: np.random.Generator, pick: int, size_px: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        image = self.images[pick]
        boxes = self.boxes[pick] / IMAGE_SIZE
        if size_px != IMAGE_SIZE:
            image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        image = image[:, :, rng.permutation(3)]
        if rng.random() < 0.5:  # mirror left and right
            image, boxes = (
                image[:, ::-1],
                np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1),
            )
        for _ in range(rng.integers(4)):  # quarter turns: (x, y) -> (y, 1 - x)
            image, boxes = (
                np.rot90(image),
                np.stack([boxes[:, 1], 1 - boxes[:, 2], boxes[:, 3], 1 - boxes[:, 0]], axis=1),
            )
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return np.ascontiguousarray(image), np.concatenate([centre, size], axis=1)


def train(plan: Plan) -> None:
    """Train, save a checkpoint and the weights every few minutes, and the weights at the end."""
    run = _start(plan)
    pool = Pool(plan.pool)
    loss_of = v8DetectionLoss(run.net)
    began_s = time.monotonic() - run.elapsed_s
    saved_s = run.elapsed_s
    while run.elapsed_s < 60 * plan.minutes:
        share = run.elapsed_s / (60 * plan.minutes)
        size_px = next(size for until, size in _SIZES if share < until)
        batch = pool.batch(np.random.default_rng([plan.seed, run.step]), plan.batch, size_px)
        losses = _step(run, loss_of, batch, _learning_rate(share))
        run.elapsed_s = time.monotonic() - began_s
        if run.elapsed_s - saved_s > _SAVE_EVERY_S:
            saved_s = run.elapsed_s
            _save(run, plan)
            _report(run, size_px, losses)
    _save(run, plan)


def _start(plan: Plan) -> Run:
    """A fresh run, or the one the checkpoint holds."""
    torch.manual_seed(plan.seed)
    net = DetectionModel("yolov5n.yaml", nc=len(NAMES), verbose=False)
    net.names = dict(enumerate(NAMES))
    net.args = _LOSS_GAINS
    net = net.to(default_device(), memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]  # biases and batch norm
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    run = Run(net, copy.deepcopy(net).requires_grad_(False), optimizer)
    if plan.checkpoint.exists():
        run.restore(plan.checkpoint)
    return run


def _learning_rate(share: float) -> float:
    """Linear warm-up, then a half cosine down to 1 % of the peak."""
    if share < _WARMUP:
        return _PEAK_LEARNING_RATE * (0.01 + 0.99 * share / _WARMUP)
    return _PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _step(
    run: Run, loss_of: v8DetectionLoss, batch: dict[str, torch.Tensor], learning_rate: float
) -> dict[str, torch.Tensor]:
    """One optimiser step in mixed bfloat16, then one step of the moving average."""
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    device = default_device()
    batch = {key: value.to(device) for key, value in batch.items()}
    run.net.train()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        outputs = run.net(batch["img"])
    outputs |= {key: outputs[key].float() for key in ("boxes", "scores")}
    losses, parts = loss_of(outputs, batch)
    run.optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    nn.utils.clip_grad_norm_(run.net.parameters(), 10.0 * len(batch["img"]))
    run.optimizer.step()
    run.step += 1
    run.images_seen += len(batch["img"])
    _average(run)
    return parts


@torch.no_grad()
def _average(run: Run) -> None:
    """Move the averaged model towards the trained one."""
    keep = _EMA_DECAY * (1 - math.exp(-run.step / _EMA_RAMP_STEPS))
    for kept, now in zip(_floats(run.ema), _floats(run.net), strict=True):
        kept.lerp_(now, 1 - keep)


def _floats(net: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and batch-norm statistics."""
    return (t for t in net.state_dict().values() if t.dtype.is_floating_point)


def _save(run: Run, plan: Plan) -> None:
    """Write the checkpoint, then the weights, each in one rename."""
    partial = plan.checkpoint.with_suffix(".partial")
    torch.save(run.state(), partial)
    partial.replace(plan.checkpoint)
    provenance = {
        "made_by": "evaluators.demo.train",
        "seed": plan.seed,
        "pool": plan.pool,
        "batch": plan.batch,
        "steps": run.step,
        "images_seen": run.images_seen,
        "minutes": round(run.elapsed_s / 60, 1),
    }
    save_weights(run.ema, plan.output, provenance)


def save_weights(net: DetectionModel, path: Path, provenance: dict[str, object]) -> None:
    """Write the weights as float16, batch norm as float32, with what rebuilds the network."""
    narrow = {id(p) for p in net.parameters() if p.ndim > 1}
    tensors = {
        name: (t.detach().half() if id(t) in narrow else t.detach()).cpu().contiguous()
        for name, t in net.state_dict(keep_vars=True).items()
    }
    metadata = {
        "yaml": json.dumps(net.yaml),
        "names": json.dumps(NAMES),
        "imgsz": str(IMAGE_SIZE),
        "provenance": json.dumps(provenance),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    partial.replace(path)


def _report(run: Run, size_px: int, losses: dict[str, torch.Tensor]) -> None:
    """Print how far the run is and how good the averaged model is on a few images."""
    began_s = time.monotonic()
    net, device = run.ema.eval(), default_device()
    found = measure(
        lambda images: net(images.to(device))[0].cpu(), demo_dataset("val", _VAL_IMAGES)
    )
    parts = " ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
    print(
        f"{run.elapsed_s / 60:.1f} min, {run.images_seen} images, {size_px} px: {parts}; "
        f"mAP50-95 {found.map50_95:.3f}, mAP50 {found.map50:.3f}, s/m/l {found.small:.3f}/"
        f"{found.medium:.3f}/{found.large:.3f} ({time.monotonic() - began_s:.0f} s)",
        flush=True,
    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file")
    parser.add_argument("--minutes", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pool", type=int, default=6000, help="training images held in memory")
    options = parser.parse_args()
    train(Plan(**vars(options)))


if __name__ == "__main__":
    main()
