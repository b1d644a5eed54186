"""The classic, anchor-based YOLOv5 (v5.0 to v7.0 of the yolov5 project).

Backbone and neck are ultralytics' own modules, which kept the names and the arithmetic of the
yolov5 project; only the head is another one. Letters: B images, L levels, a anchors a cell,
A predictions an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import BaseModel, parse_model
from ultralytics.utils.torch_utils import initialize_weights

PROBE_PX = 256  # the strides are measured on an input of this size, as yolov5 does


class ClassicDetect(nn.Module):
    """Anchor-based head: a 1x1 convolution a level, then the decoding of yolov5's `Detect`.

    Args:
        classes: Number of classes.
        anchors: Per level the widths and heights in input pixels, [L][2a]; or a, unknown anchors.
        channels: Input channels of each level.
    """

    anchors: Tensor  # [L, a, 2] in cells

    def __init__(self, classes: int, anchors: list[list[float]] | int, channels: list[int]) -> None:
        super().__init__()
        if isinstance(anchors, int):
            anchors = [[1.0] * (2 * anchors)] * len(channels)
        sizes = torch.tensor(anchors, dtype=torch.float32).view(len(channels), -1, 2)
        self.nc = classes
        self.stride = torch.ones(len(channels))
        self.register_buffer("anchors", sizes)  # pixels until the strides are known
        outputs = sizes.shape[1] * (5 + classes)
        self.m = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode the feature maps of all levels.

        Args:
            features: One map [B, C, h, w] a level.

        Returns:
            [B, 4 + nc, A]: centre x, centre y, width, height in input pixels, then objectness
            times class probability.
        """
        levels = zip(self.m, features, self.anchors, self.stride.tolist(), strict=True)
        return torch.cat([self._decode(conv(x), *rest) for conv, x, *rest in levels], 2)

    def _decode(self, logits: Tensor, anchors: Tensor, stride: float) -> Tensor:
        """Decode one level [B, a (5 + nc), h, w] (yolov5 v7.0 models/yolo.py:57-78)."""
        batch, _, height, width = map(int, logits.shape)  # plain numbers in an exported graph
        per_anchor = logits.view(batch, len(anchors), 5 + self.nc, height * width)
        xy, wh, objectness, classes = per_anchor.sigmoid().split((2, 2, 1, self.nc), 2)
        y, x = torch.meshgrid(
            torch.arange(height, dtype=logits.dtype),
            torch.arange(width, dtype=logits.dtype),
            indexing="ij",
        )
        corner = torch.stack((x.flatten(), y.flatten())).to(logits.device) - 0.5
        xy = (xy * 2 + corner) * stride
        wh = (wh * 2) ** 2 * (anchors * stride).view(1, -1, 2, 1)
        rows = torch.cat((xy, wh, objectness * classes), 2)
        return rows.transpose(1, 2).reshape(batch, 4 + self.nc, -1)


class ClassicModel(BaseModel):
    """An anchor-based YOLOv5 built from its model dictionary.

    Args:
        architecture: A checked model dictionary with `anchors`, whose last row is `Detect`.
    """

    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.yaml = architecture
        *rows, (sources, _, _, _) = architecture["head"]
        self.model, self.save = parse_model({**architecture, "head": rows}, ch=3, verbose=False)
        self.save = sorted({*self.save, *(number % len(self.model) for number in sources)})
        self._append(nn.Identity(), sources)  # hands out what the head will read
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, PROBE_PX, PROBE_PX))
        head = ClassicDetect(
            architecture["nc"], architecture["anchors"], [x.shape[1] for x in maps]
        )
        head.stride = torch.tensor([PROBE_PX / x.shape[-1] for x in maps])
        head.anchors /= head.stride.view(-1, 1, 1)
        self.model = self.model[:-1]
        self._append(head, sources)
        self.stride = head.stride
        initialize_weights(self)

    def _append(self, module: nn.Module, sources: list[int]) -> None:
        """Add a last layer that reads the outputs of the layers numbered `sources`."""
        module.i, module.f = len(self.model), sources  # type: ignore[assignment]
        self.model.append(module)
