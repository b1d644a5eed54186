from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from evaluators.annotations import Annotation
from evaluators.dataset import Dataset, check_names, decode, load_dataset
from hw_models.errors import InputError

from .conftest import encoded, painted


def write_yaml(folder: Path, text: str) -> Path:
    file = folder / "other.yaml"
    file.write_text(text)
    return file


def test_loads_yolo_labels(yolo_folder: Path) -> None:
    data = load_dataset(yolo_folder / "data.yaml", "val")
    assert data.names == ("square", "disc")
    assert len(data) == 4
    assert data.sizes == ((60, 80),) * 4
    assert {a.image_id for a in data.annotations} == {0, 1, 2}
    assert data.annotations[0].box_xywh == pytest.approx((20, 10, 20, 20), abs=0.01)


@pytest.mark.parametrize(
    "text",
    [
        "val: [images/val]\nnames: {0: square, 1: disc}\n",
        "val: val.txt\nnames: [square, disc]\nnc: 2\n",
        "path: images\nval: val\nnames: [square, disc]\n",
    ],
)
def test_every_way_to_name_a_split_gives_the_same_data(yolo_folder: Path, text: str) -> None:
    (yolo_folder / "val.txt").write_text("".join(f"./images/val/{seed}.jpg\n" for seed in range(4)))
    expected = load_dataset(yolo_folder / "data.yaml", "val")
    assert load_dataset(write_yaml(yolo_folder, text), "val").digest == expected.digest


def write_coco(folder: Path) -> Path:
    file = folder / "images" / "instances.json"
    content = {
        "images": [{"id": 10 + s, "file_name": f"{s}.jpg"} for s in range(4)],
        "categories": [{"id": 3, "name": "square"}],
        "annotations": [{"image_id": 11, "category_id": 3, "bbox": [20, 10, 20, 20], "area": 300}],
    }
    file.write_text(json.dumps(content))
    return file


def test_coco_json_beside_the_folder_and_as_the_split(yolo_folder: Path) -> None:
    file = write_coco(yolo_folder)
    beside = load_dataset(yolo_folder / "data.yaml", "val")
    assert beside.image_ids == (10, 11, 12, 13)
    assert beside.annotations == (Annotation(11, 0, (20, 10, 20, 20), 300.0),)
    for image in (yolo_folder / "images" / "val").iterdir():
        image.rename(file.parent / image.name)
    text = "val: images/instances.json\nnames: [square, disc]\n"
    assert load_dataset(write_yaml(yolo_folder, text), "val").digest == beside.digest


def test_an_image_that_the_json_does_not_list(yolo_folder: Path) -> None:
    write_coco(yolo_folder)
    (yolo_folder / "images" / "val" / "9.jpg").write_bytes(encoded(painted(9), ".jpg"))
    with pytest.raises(InputError, match=r"does not list the image .*9\.jpg"):
        load_dataset(yolo_folder / "data.yaml", "val")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("val: images/val\nnames: [a\n", "not readable YAML"),
        ("just text", "no mapping"),
        ("val: images/val\n", "`names` must be a list"),
        ("val: images/val\nnames: {1: a, 2: b}\n", "`names` must be a list"),
        ("val: images/val\nnames: [a, b]\nnc: 3\n", "nc is 3"),
        ("train: images/val\nnames: [a, b]\n", "no split `val`; it has train"),
        ("val: images/none\nnames: [a, b]\n", "images/none, which does not exist"),
        ("val: labels/val\nnames: [a, b]\n", "holds no images"),
        ("val: images/val\nnames: [a]\n", None),
    ],
)
def test_a_wrong_yaml_is_explained(yolo_folder: Path, text: str, what: str | None) -> None:
    file = write_yaml(yolo_folder, text)
    if what is None:  # fewer names is legal while no label uses the others
        assert load_dataset(file, "val").names == ("a",)
        return
    with pytest.raises(InputError, match=what) as caught:
        load_dataset(file, "val")
    assert str(file) in caught.value.message


def test_a_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No data YAML at .*none\.yaml"):
        load_dataset(tmp_path / "none.yaml", "val")


def test_no_labels_at_all(yolo_folder: Path) -> None:
    for file in (yolo_folder / "labels" / "val").iterdir():
        file.write_text("")
    with pytest.raises(InputError, match="none of the 4 images has a labelled object"):
        load_dataset(yolo_folder / "data.yaml", "val")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_an_unreadable_image_is_named(yolo_folder: Path, suffix: str, damage: str) -> None:
    whole = encoded(painted(1), suffix)
    bad = yolo_folder / "images" / "val" / f"bad{suffix}"
    bad.write_bytes(
        {"text": b"not an image", "empty": b"", "cut": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(InputError, match=rf"bad\{suffix} cannot be read"):
        load_dataset(yolo_folder / "data.yaml", "val")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_without_permission_is_named(yolo_folder: Path) -> None:
    (yolo_folder / "images" / "val" / "0.jpg").chmod(0)
    with pytest.raises(InputError, match=r"0\.jpg cannot be read"):
        load_dataset(yolo_folder / "data.yaml", "val")


def test_trailing_bytes_after_a_jpeg_are_fine() -> None:
    image = painted(0)
    np.testing.assert_array_equal(
        decode(encoded(image, ".jpg") + b"\0" * 99), decode(encoded(image, ".jpg"))
    )


def test_class_count_must_match_the_model(tiny: Dataset) -> None:
    check_names(tiny, ("a", "b"))
    with pytest.raises(InputError, match=r"2 classes \(square, disc\), the model 3 \(x, y, z\)"):
        check_names(tiny, ("x", "y", "z"))


def test_digest_changes_with_every_part(tiny: Dataset) -> None:
    images, first = tiny.images, tiny.annotations[0]
    moved = Annotation(first.image_id, 1, first.box_xywh, first.area)
    parts = (tiny.names, images, tiny.image_ids, tiny.sizes, tiny.annotations)
    others = [
        Dataset(("x", "y"), *parts[1:]),
        Dataset(tiny.names, images[::-1], *parts[2:]),
        Dataset(*parts[:4], (moved, *tiny.annotations[1:])),
    ]
    assert Dataset(*parts).digest == tiny.digest
    assert pickle.loads(pickle.dumps(tiny)) == tiny  # noqa: S301 - our own bytes
    assert len({tiny.digest, *(other.digest for other in others)}) == 4


def test_subsets_are_spread_nested_and_complete() -> None:
    image = encoded(painted(0))
    data = Dataset(
        ("a",),
        (image,) * 100,
        tuple(range(100)),
        ((60, 80),) * 100,
        tuple(Annotation(i, 0, (0, 0, 1, 1), 1.0) for i in range(100)),
    )
    few, more = data.subset(8), data.subset(32)
    assert more.image_ids[:8] == few.image_ids
    assert np.diff(sorted(few.image_ids)).max() <= 2 * 100 / 8
    assert [a.image_id for a in few.annotations] == sorted(few.image_ids)
    assert sorted(data.subset(999).image_ids) == list(range(100))
    with pytest.raises(ValueError, match="at least 1"):
        data.subset(0)


def test_squares_are_rgb(tiny: Dataset) -> None:
    squares = tiny.squares(64)
    assert squares.shape == (2, 3, 64, 64)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # BGR
    data = Dataset(("a",), (encoded(red),), (0,), ((8, 8),), ())
    assert data.squares(32)[0, :, 16, 16].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "annotation", [Annotation(3, 0, (0, 0, 1, 1), 1.0), Annotation(7, 2, (0, 0, 1, 1), 1.0)]
)
def test_annotations_must_fit(tiny: Dataset, annotation: Annotation) -> None:
    with pytest.raises(ValueError, match="refers to no image or class"):
        Dataset(tiny.names, tiny.images, tiny.image_ids, tiny.sizes, (annotation,))
