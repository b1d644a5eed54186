from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluators.annotations import read_coco, read_yolo_labels
from hw_models.errors import InputError

NAMES = ("square", "disc")


def test_reads_boxes_outlines_and_drops_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1 0.5 0.5 0.2 0.4\n\n1 0.5 0.5 0.2 0.4\n0 0.1 0.2 0.3 0.2 0.2 0.6\n")
    box, outline = read_yolo_labels(file, 3, (100, 200), NAMES)
    assert (box.image_id, box.class_index, box.crowd) == (3, 1, False)
    assert box.box_xywh == pytest.approx((80, 30, 40, 40))
    assert box.area == pytest.approx(1600)
    assert outline.box_xywh == pytest.approx((20, 20, 40, 40))


def test_a_missing_file_is_background(tmp_path: Path) -> None:
    assert read_yolo_labels(tmp_path / "none.txt", 0, (10, 10), NAMES) == ()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of the 2 classes"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "class nan"),
        ("0 0.5 0.5 0.1", "expected 5 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected 5 columns"),
        ("0 0.5 zero 0.1 0.1", "expected numbers"),
        ("0 50 40 10 10", "fractions of the image"),
        ("0 0.5 0.5 -0.005 0.1", "fractions of the image"),
        ("0 nan 0.5 0.1 0.1", "fractions of the image"),
    ],
)
def test_a_wrong_row_names_file_and_line(tmp_path: Path, row: str, what: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"0 0.5 0.5 0.1 0.1\n{row}\n")
    with pytest.raises(InputError, match=what) as caught:
        read_yolo_labels(file, 0, (100, 100), NAMES)
    assert f"{file}:2" in caught.value.message
    assert caught.value.hint


def coco(**changes: object) -> str:
    content: dict[str, object] = {
        "images": [{"id": 5, "file_name": "a.jpg"}],
        "categories": [{"id": 18, "name": "disc"}, {"id": 90, "name": "unused"}],
        "annotations": [
            {"image_id": 5, "category_id": 18, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 1}
        ],
    }
    return json.dumps(content | changes)


def test_reads_coco_by_category_name(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text(coco())
    read = read_coco(file, NAMES)
    assert read.image_files == {5: "a.jpg"}
    (annotation,) = read.annotations
    assert (annotation.class_index, annotation.area, annotation.crowd) == (1, 9.5, True)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not readable JSON"),
        ("[]", "not a COCO detection file"),
        (coco(images=[{"id": 5}]), "not a COCO detection file"),
        (coco(categories=[{"id": 18, "name": "cat"}]), "categories cat are not among the 2"),
        (coco(categories=[]), "id 18"),
        (
            coco(annotations=[{"image_id": 6, "category_id": 18, "bbox": [1, 2, 3, 4]}]),
            r"annotations\[0\]",
        ),
        (
            coco(annotations=[{"image_id": 5, "category_id": 18, "bbox": [1, 2, 3]}]),
            r"annotations\[0\]",
        ),
    ],
)
def test_a_wrong_coco_file_is_explained(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(InputError, match=what) as caught:
        read_coco(file, NAMES)
    assert str(file) in caught.value.message
