"""A data set as one value that travels: encoded images and their truth, independent of any path.

`load_dataset` reads what ultralytics users have: a data YAML with YOLO txt labels, or with a COCO
json. Images stay encoded (JPEG, PNG) until they are used: small in Ray's object store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from evaluators.annotations import Annotation, read_coco, read_yolo_labels
from evaluators.letterbox import letterbox
from hw_models.errors import InputError

GOLDEN_RATIO = (1 + 5**0.5) / 2
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images with the objects in them.

    Attributes:
        names: Class names; a class index is a position in them.
        images: N encoded images, the bytes of their files.
        image_ids: N distinct ids that the annotations refer to.
        sizes: N pairs (height, width) in pixels, after EXIF rotation.
        annotations: The objects, in any order. Images without any are background.
        digest: SHA-256 over all of the above, computed if not given.
    """

    names: tuple[str, ...]
    images: tuple[bytes, ...] = field(repr=False)
    image_ids: tuple[int, ...] = field(repr=False)
    sizes: tuple[tuple[int, int], ...] = field(repr=False)
    annotations: tuple[Annotation, ...] = field(repr=False)
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.images or not len(self.images) == len(self.image_ids) == len(self.sizes):
            raise ValueError(
                "a Dataset needs as many images as ids and sizes, at least one; got"
                f" {len(self.images)}, {len(self.image_ids)}, {len(self.sizes)}"
            )
        known = set(self.image_ids)
        if len(known) != len(self.image_ids):
            raise ValueError("image ids must be distinct")
        for a in self.annotations:
            if a.image_id not in known or not 0 <= a.class_index < len(self.names):
                raise ValueError(f"{a} refers to no image or class of this data set")
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self))

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, count: int) -> Dataset:
        """Return `count` images spread evenly over the set, or all of them if there are fewer.

        Subsets are nested: a smaller one is the beginning of a larger one. The order is that of the
        fractional parts of the golden ratio's multiples.
        """
        if count < 1:
            raise ValueError(f"a subset needs at least 1 image, got {count}")
        position = np.arange(len(self)) * GOLDEN_RATIO % 1
        chosen = np.argsort(position, kind="stable")[:count]
        ids = tuple(self.image_ids[i] for i in chosen)
        kept = set(ids)
        return Dataset(
            self.names,
            tuple(self.images[i] for i in chosen),
            ids,
            tuple(self.sizes[i] for i in chosen),
            tuple(a for a in self.annotations if a.image_id in kept),
        )

    def squares(self, imgsz: int, part: slice = slice(None)) -> torch.Tensor:
        """Decode and letterbox images.

        Returns:
            uint8 [N, 3, S, S], RGB, channels last in memory; divide by 255 for the model.
        """
        stacked_BGR = np.stack([letterbox(decode(image), imgsz) for image in self.images[part]])
        stacked_RGB = np.ascontiguousarray(stacked_BGR[..., ::-1])
        return torch.from_numpy(stacked_RGB).permute(0, 3, 1, 2)


def _digest(data: Dataset) -> str:
    sha = hashlib.sha256(repr((data.names, data.image_ids, data.sizes)).encode())
    for image in data.images:
        sha.update(hashlib.sha256(image).digest())
    for a in data.annotations:
        sha.update(repr((a.image_id, a.class_index, a.box_xywh, a.area, a.crowd)).encode())
    return sha.hexdigest()


def decode(image: bytes) -> NDArray[np.uint8]:
    """Decode an encoded image as ultralytics does: 8-bit BGR [H, W, 3], EXIF rotation applied.

    Raises:
        ValueError: If the bytes are no complete image.
    """
    if not image or _cut_short(image):
        raise ValueError("the file is empty or cut short")
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("not an image that OpenCV can decode")
    return np.asarray(pixels, dtype=np.uint8)


def _cut_short(image: bytes) -> bool:
    """Tell whether a JPEG or PNG ends early: decoders fill the rest with grey and say nothing."""
    if image.startswith(b"\xff\xd8"):  # end-of-image must follow the last start-of-scan
        return image.rfind(b"\xff\xd9") < image.rfind(b"\xff\xda") or b"\xff\xd9" not in image
    if image.startswith(b"\x89PNG"):
        return b"IEND" not in image[-64:]
    return False


def check_names(data: Dataset, model_names: tuple[str, ...]) -> None:
    """Refuse a data set whose number of classes is not the model's.

    Raises:
        InputError: If the counts differ.
    """
    if len(data.names) != len(model_names):
        raise InputError(
            f"The data set has {len(data.names)} classes ({_some(data.names)}), the model"
            f" {len(model_names)} ({_some(model_names)}).",
            "Give the data YAML the model was trained on, or a model trained on this data.",
        )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def load_dataset(data: str | Path, split: str) -> Dataset:
    """Load one split of an ultralytics data YAML.

    A split is a folder, a list of folders or a text file of image paths, with labels where
    `images/` in the path becomes `labels/`; or a COCO json, its images beside it or in `images/`
    beside it. A folder with a COCO `instances.json` beside it takes its truth from there: unlike
    YOLO rows it knows crowds and true areas.

    Args:
        data: The data YAML. Its `path` (default: its own folder) is the root of relative paths.
        split: "train", "val" or "test".

    Raises:
        InputError: If anything is missing, unreadable or inconsistent; the message names the file.
    """
    file = Path(data)
    content = _read_yaml(file)
    names = _class_names(content, file)
    entries = _split_entries(content, split, file)
    if entries[0].suffix == ".json":
        return _from_coco(entries[0], names, None)
    image_files = _image_files(entries, file, split)
    beside = entries[0].parent / "instances.json"
    if len(entries) == 1 and beside.is_file():
        return _from_coco(beside, names, image_files)
    return _from_yolo(image_files, names, f"{file}, split `{split}`")


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(
            f"No data YAML at {file}.", "Give the path of an ultralytics data YAML, or `demo`."
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not readable YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no mapping.", "It needs train, val and names.")
    return content


def _class_names(content: dict[str, Any], file: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(
            f"{file}: `names` must be a list of class names, or a mapping 0..n-1 -> name; got"
            f" {type(names).__name__}.",
            "Write e.g. `names: [person, car]`.",
        )
    if "nc" in content and content["nc"] != len(names):
        raise InputError(f"{file}: nc is {content['nc']} but `names` has {len(names)} entries.")
    return tuple(str(name) for name in names)


def _split_entries(content: dict[str, Any], split: str, file: Path) -> list[Path]:
    value = content.get(split)
    if not value:
        present = [key for key in ("train", "val", "test") if content.get(key)]
        raise InputError(
            f"{file} has no split `{split}`; it has {', '.join(present) or 'none'}.",
            f"Add `{split}: folder/of/images`.",
        )
    root = file.resolve().parent / str(content.get("path") or "")
    entries = [root / str(entry) for entry in (value if isinstance(value, list) else [value])]
    for entry in entries:
        if not entry.exists():
            raise InputError(
                f"{file}: split `{split}` points to {entry}, which does not exist.",
                f"Correct `{split}` or `path` in the YAML (paths are relative to {root}).",
            )
    return entries


def _image_files(entries: list[Path], file: Path, split: str) -> list[Path]:
    found: list[Path] = []
    for entry in entries:
        if entry.is_dir():
            found += [f for f in entry.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES]
        else:
            found += _listed(entry)
    if not found:
        raise InputError(
            f"{file}: split `{split}` holds no images in {', '.join(map(str, entries))}.",
            f"Supported are {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return sorted(set(found))


def _listed(text_file: Path) -> list[Path]:
    """Read a list of image paths; relative ones count from the list's folder."""
    try:
        lines = text_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{text_file} is neither a folder nor a list of images: {error}.",
            "A split is a folder, a .txt file of image paths, or a COCO .json.",
        ) from error
    return [text_file.parent / line.strip() for line in lines if line.strip()]


def _label_file(image: Path) -> Path:
    """Find an image's labels as ultralytics does: the last `images/` becomes `labels/`."""
    head, found, tail = str(image).rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if found else image).with_suffix(".txt")


def _read_image(file: Path) -> tuple[bytes, tuple[int, int]]:
    try:
        content = file.read_bytes()
        height, width = decode(content).shape[:2]
    except (OSError, ValueError) as error:
        raise InputError(
            f"Image {file} cannot be read: {error}.", "Replace it, or remove it and its labels."
        ) from error
    return content, (height, width)


def _from_yolo(image_files: list[Path], names: tuple[str, ...], where: str) -> Dataset:
    images, sizes = [], []
    annotations: list[Annotation] = []
    for image_id, file in enumerate(image_files):
        content, size = _read_image(file)
        images.append(content)
        sizes.append(size)
        annotations += read_yolo_labels(_label_file(file), image_id, size, names)
    if not annotations:
        raise InputError(
            f"{where}: none of the {len(images)} images has a labelled object; looked for files"
            f" such as {_label_file(image_files[0])}.",
            "Labels lie in `labels/` beside `images/`, one .txt of the same name an image.",
        )
    ids = tuple(range(len(images)))
    return Dataset(names, tuple(images), ids, tuple(sizes), tuple(annotations))


def _from_coco(file: Path, names: tuple[str, ...], image_files: list[Path] | None) -> Dataset:
    """Take the truth from a COCO json; the images it lists, or those given."""
    coco = read_coco(file, names)
    if image_files is None:
        folders = (file.parent / "images", file.parent)
        image_files = [
            next((f / name for f in folders if (f / name).is_file()), folders[0] / name)
            for name in coco.image_files.values()
        ]
    ids_by_name = {Path(name).name: image_id for image_id, name in coco.image_files.items()}
    for image_file in image_files:
        if image_file.name not in ids_by_name:
            raise InputError(
                f"{file} does not list the image {image_file}.",
                "Add it to `images` there, or remove the image.",
            )
    ids = tuple(ids_by_name[image_file.name] for image_file in image_files)
    annotations = tuple(a for a in coco.annotations if a.image_id in set(ids))
    if not annotations:
        raise InputError(f"{file} has no annotations of the {len(ids)} images.", "Check the file.")
    contents = [_read_image(image_file) for image_file in image_files]
    return Dataset(
        names,
        tuple(content for content, _ in contents),
        ids,
        tuple(size for _, size in contents),
        annotations,
    )
