"""Model dictionaries: what passes, what is refused, what is built."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hw_models.errors import InputError
from spaces.architecture import build, checked, read_yaml

# yolov5 v5.0's yolov5s.yaml in small: Focus, SPP and anchors.
CLASSIC_V5_0: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.125,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [
        [-1, 1, "Focus", [64, 3]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C3", [128]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 1, "SPP", [256, [5, 9, 13]]],
        [-1, 3, "C3", [256, False]],
    ],
    "head": [
        [-1, 1, "Conv", [128, 1, 1]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 3, "C3", [128, False]],
        [[9, 6], 1, "Detect", ["nc", "anchors"]],
    ],
}


def changed(**changes: object) -> dict[str, Any]:
    return {**copy.deepcopy(CLASSIC_V5_0), **changes}


def with_row(row: list[Any]) -> dict[str, Any]:
    architecture = changed()
    architecture["backbone"][0] = row
    return architecture


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "no model dictionary"),
        ({"nc": 1}, "no model dictionary"),
        (changed(nc="__import__('os')"), "nc: "),
        (changed(nc=0), "nc: 0"),
        (changed(activation="__import__('os').system('exit')"), 'the activation "__import__'),
        (changed(activation="nn.SiLU(print('x'))"), "the activation"),
        (changed(end2end=True), "a head without NMS"),
        (changed(ch=1), "other than 3 input channels"),
        (with_row([-1, 1, "nn.LSTM", [1]]), r"the module 'nn\.LSTM'"),
        (with_row([-1, 1, "C2f", [64]]), "the module 'C2f'"),
        (with_row([-1, 1, "Conv", ["__import__('os')"]]), "the argument"),
        (with_row([-1, 1, "Conv"]), "not \\[from, number, module, arguments\\]"),
        (with_row(["-1", 1, "Conv", [64]]), "whose numbers are no integers"),
        (changed(head=[[-1, 1, "Conv", [8, 1]]]), "Conv as its last module"),
    ],
)
def test_what_is_no_yolov5_detector_is_refused(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        checked(raw, "The file x.yaml")
    assert caught.value.message.startswith("The file x.yaml does not describe a YOLOv5 detector")
    assert "\n" not in str(caught.value)


def test_segmentation_heads_are_refused() -> None:
    architecture = changed()
    architecture["head"][-1][2] = "Segment"
    with pytest.raises(InputError, match="the module 'Segment'"):
        checked(architecture, "The file x.yaml")


def test_rows_that_do_not_fit_are_an_input_error() -> None:
    architecture = checked(changed(head=[[[99], 1, "Detect", ["nc", "anchors"]]]), "It")
    with pytest.raises(InputError, match="rows that do not fit"):
        build(architecture, "It")


def test_checking_copies_and_drops_what_does_not_matter() -> None:
    raw = changed(yaml_file="secret/path.yaml")
    architecture = checked(raw, "It")
    assert "yaml_file" not in architecture
    architecture["head"].clear()
    assert raw["head"]


@pytest.mark.parametrize("imgsz", [64, 96, 320])
def test_focus_and_spp_of_v5_0_are_built(imgsz: int) -> None:
    net = build(checked(CLASSIC_V5_0, "It"), "It")
    with torch.no_grad():
        output = net(torch.rand(1, 3, imgsz, imgsz))
    assert output.shape == (1, 6, 3 * ((imgsz // 4) ** 2 + (imgsz // 8) ** 2))
    assert net.yaml == checked(CLASSIC_V5_0, "It")


def test_building_is_reproducible_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, second = (build(checked(CLASSIC_V5_0, "It"), "It").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "width"), [("yolov5n.yaml", 16), ("yolov5s.yaml", 32), ("yolov5n6.yaml", 16)]
)
def test_stock_names_choose_the_scale(name: str, width: int) -> None:
    net = build(read_yaml(Path(name)), name)
    assert net.model[0].conv.out_channels == width


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(CLASSIC_V5_0), encoding="utf-8")
    assert read_yaml(path) == checked(CLASSIC_V5_0, "It")


@pytest.mark.parametrize("text", [None, "a: [", "!!python/object/apply:os.system ['exit 1']"])
def test_unreadable_yaml_is_an_input_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(path)
