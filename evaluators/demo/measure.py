"""Measure the demo detector: COCO mAP on generated images, overall, by size and by class.

Run as ``python -m evaluators.demo.measure --split test --count 1000``. Settings are those of
`evaluators.detection`: ultralytics' val, square input at the size the images have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict

import torch

from evaluators.dataset import Dataset
from evaluators.demo import demo_dataset, demo_detector
from evaluators.demo.generator import IMAGE_SIZE, SPLITS
from evaluators.detection import Accuracy, detect, score_detections

_BATCH = 16


@torch.inference_mode()
def measure(net: Callable[[torch.Tensor], torch.Tensor], data: Dataset) -> Accuracy:
    """Measure a network on a demo data set.

    Args:
        net: Maps images [B, 3, H, W] in 0..1 to boxes and scores [B, 4 + C, A].
        data: What `demo_dataset` returns.
    """
    detections: list[torch.Tensor] = []
    for batch in data.squares(IMAGE_SIZE).split(_BATCH):
        detections += detect(net(batch.float() / 255))
    return score_detections(detections, data, IMAGE_SIZE, by_area=True)


def main() -> None:
    """Read the command line, measure the committed weights and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=sorted(SPLITS), default="test")
    parser.add_argument("--count", type=int, default=1000, help="number of images")
    options = parser.parse_args()
    data = demo_dataset(options.split, options.count)
    found = measure(demo_detector().net, data)
    print(json.dumps({"images": len(data), "objects": len(data.annotations), **asdict(found)}))


if __name__ == "__main__":
    main()
