"""Ground truth from files: YOLO txt rows and COCO json. Every fault names its file and line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw_models.errors import InputError

TOLERANCE = 0.01  # ultralytics accepts coordinates this far outside 0..1 (verify_image_label)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object in one image, as COCO describes it.

    Attributes:
        image_id: The image it is in.
        class_index: Position in the data set's names.
        box_xywh: Left, top, width, height in pixels of the original image.
        area: In square pixels: of the object's outline where known, else of the box.
        crowd: A region of many objects: neither a hit nor a miss (COCO's `iscrowd`).
    """

    image_id: int
    class_index: int
    box_xywh: tuple[float, float, float, float]
    area: float
    crowd: bool = False


def read_yolo_labels(
    file: Path, image_id: int, size: tuple[int, int], names: tuple[str, ...]
) -> tuple[Annotation, ...]:
    """Read the label file of one image; rows are `class x_center y_center width height` in 0..1.

    Rows with more coordinates are outlines (`class x1 y1 x2 y2 ...`) and become their bounding box.
    Equal rows count once, as in ultralytics. A missing file means a background image.

    Args:
        file: The label file.
        image_id: The image it belongs to.
        size: Height and width of that image in pixels.
        names: Class names of the data set.

    Raises:
        InputError: If a row is malformed, names an unknown class or lies outside the image.
    """
    if not file.is_file():
        return ()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text: {error}.", "Replace the file.") from error
    rows = [
        _yolo_row(line, f"{file}:{number}", names)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return tuple(_from_center(row, image_id, size) for row in dict.fromkeys(rows))


Row = tuple[float, ...]
"""Class index, then x_center y_center width height in 0..1."""


def _yolo_row(line: str, place: str, names: tuple[str, ...]) -> Row:
    try:
        class_number, *coordinates = (float(word) for word in line.split())
    except ValueError:
        raise InputError(
            f"{place}: expected numbers `class x_center y_center width height`, got"
            f" `{line.strip()}`.",
            "Correct or remove the row.",
        ) from None
    if class_number not in range(len(names)):
        raise InputError(
            f"{place}: class {class_number:g} is not one of the {len(names)} classes"
            f" 0..{len(names) - 1}.",
            "Correct the row, or add the class to `names` in the data YAML.",
        )
    if len(coordinates) != 4 and (len(coordinates) < 6 or len(coordinates) % 2):
        raise InputError(
            f"{place}: expected 5 columns (or an outline of at least 3 points), got"
            f" {len(coordinates) + 1}.",
            "Correct or remove the row.",
        )
    values = np.asarray(coordinates)
    inside = np.isfinite(values).all() and (np.abs(values - 0.5) <= 0.5 + TOLERANCE).all()
    if not inside or (len(values) == 4 and values[2:].min() < 0):
        raise InputError(
            f"{place}: coordinates must be fractions of the image in 0..1, got `{line.strip()}`.",
            "YOLO rows are normalised: divide x and width by the image's width, y and height by"
            " its height.",
        )
    return (class_number, *(coordinates if len(values) == 4 else _bounding_box(values)))


def _bounding_box(outline: np.ndarray[Any, Any]) -> tuple[float, ...]:
    points = outline.reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return (*((low + high) / 2), *(high - low))


def _from_center(row: Row, image_id: int, size: tuple[int, int]) -> Annotation:
    class_number, x, y, w, h = row
    height, width = size
    box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    return Annotation(image_id, int(class_number), box, area=box[2] * box[3])


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The parts of a COCO json that detection needs.

    Attributes:
        image_files: Image id -> file name, in the file's order.
        annotations: All objects, class indices into the data set's names.
    """

    image_files: dict[int, str]
    annotations: tuple[Annotation, ...]


def read_coco(file: Path, names: tuple[str, ...]) -> CocoFile:
    """Read a COCO json; its categories are matched to `names` by name.

    Raises:
        InputError: If the file is no COCO json, or has a category that is not in `names`.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not readable JSON: {error}.", "Check the file.") from error
    try:
        classes = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        image_files = {int(i["id"]): str(i["file_name"]) for i in content["images"]}
        raw = [(int(a["image_id"]), int(a["category_id"]), a) for a in content["annotations"]]
        boxes = [tuple(float(v) for v in a["bbox"]) for _, _, a in raw]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not a COCO detection file: {type(error).__name__} {error}.",
            "It needs the lists images (id, file_name), categories (id, name) and annotations"
            " (image_id, category_id, bbox).",
        ) from error
    used = {category for _, category, _ in raw}
    unknown = sorted({classes.get(c, f"id {c}") for c in used} - set(names))
    if unknown:
        raise InputError(
            f"{file}: categories {', '.join(unknown[:5])} are not among the {len(names)} `names` of"
            " the data YAML.",
            "Add them to `names` or remove their annotations.",
        )
    index = {category: names.index(name) for category, name in classes.items() if name in names}
    annotations = []
    for number, ((image_id, category, entry), box) in enumerate(zip(raw, boxes, strict=True)):
        if image_id not in image_files or len(box) != 4 or not np.isfinite(box).all():
            raise InputError(
                f"{file}: annotations[{number}] needs an image_id of `images` and a bbox of four"
                f" numbers, got image_id {image_id}, bbox {entry['bbox']}.",
                "Correct or remove it.",
            )
        area = float(entry.get("area", box[2] * box[3]))
        annotations.append(
            Annotation(image_id, index[category], box, area, bool(entry.get("iscrowd", 0)))
        )
    return CocoFile(image_files, tuple(annotations))
