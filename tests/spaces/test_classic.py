"""The anchor-based head and model against hand-computed values and the trained checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from spaces.classic import ClassicDetect
from spaces.model import Detector

ANCHORS = [[10.0, 13.0, 16.0, 30.0], [30.0, 61.0, 62.0, 45.0]]


def make_head(classes: int = 3) -> ClassicDetect:
    head = ClassicDetect(classes, ANCHORS, [4, 6])
    head.stride = torch.tensor([8.0, 16.0])
    head.anchors /= head.stride.view(-1, 1, 1)
    return head.eval()


def yolov5_reference(head: ClassicDetect, features: list[torch.Tensor]) -> torch.Tensor:
    """Decode in the layout of yolov5 v7.0 models/yolo.py:57-92, prediction by prediction."""
    outputs = []
    for conv, x, anchors, stride in zip(head.m, features, head.anchors, head.stride, strict=True):
        logits = conv(x)
        batch, _, height, width = logits.shape
        y = logits.view(batch, len(anchors), -1, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        decoded = y.clone()
        for row in range(height):
            for column in range(width):
                cell = torch.tensor([column, row], dtype=torch.float32)
                place = y[:, :, row, column, :2] * 2 - 0.5 + cell
                decoded[:, :, row, column, :2] = place * stride
                size = (y[:, :, row, column, 2:4] * 2) ** 2 * (anchors * stride)
                decoded[:, :, row, column, 2:4] = size
        outputs.append(decoded.reshape(batch, -1, y.shape[-1]))
    return torch.cat(outputs, 1)


def test_head_decodes_as_yolov5_does() -> None:
    torch.manual_seed(0)
    head = make_head()
    features = [torch.randn(2, 4, 6, 5), torch.randn(2, 6, 3, 2)]
    expected = yolov5_reference(head, features)
    found = head(features)
    assert found.shape == (2, 4 + 3, 2 * (30 + 6))
    torch.testing.assert_close(found[:, :4], expected[..., :4].transpose(1, 2))
    scores = expected[..., 4:5] * expected[..., 5:]
    torch.testing.assert_close(found[:, 4:], scores.transpose(1, 2))


def test_a_zero_logit_is_the_middle_of_its_cell_and_as_large_as_its_anchor() -> None:
    head = make_head(classes=1)
    for conv in head.m:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    found = head([torch.zeros(1, 4, 2, 2), torch.zeros(1, 6, 1, 1)])
    # Level 1: two anchors of four cells each, row by row; level 2: two anchors of one cell.
    centres = [[4, 4], [12, 4], [4, 12], [12, 12]]
    sizes = [[10, 13]] * 4 + [[16, 30]] * 4 + [[30, 61], [62, 45]]
    expected_xy = torch.tensor(centres * 2 + [[8, 8]] * 2, dtype=torch.float32)
    torch.testing.assert_close(found[0, :2].T, expected_xy)
    torch.testing.assert_close(found[0, 2:4].T, torch.tensor(sizes, dtype=torch.float32))
    torch.testing.assert_close(found[0, 4], torch.full((10,), 0.25))


def test_trained_model_keeps_its_strides_and_anchors(classic_detector: Detector) -> None:
    head = classic_detector.net.model[-1]
    assert head.stride.tolist() == [8, 16, 32]
    pixels = head.anchors * head.stride.view(-1, 1, 1)
    assert pixels[0].flatten().tolist() == [10, 13, 16, 30, 33, 23]


def test_state_names_are_those_of_yolov5(classic_detector: Detector) -> None:
    names = set(classic_detector.net.state_dict())
    assert {"model.0.conv.weight", "model.9.cv2.bn.running_var", "model.24.m.2.bias"} <= names
    assert "model.24.anchors" in names
