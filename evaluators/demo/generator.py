"""Render the demo data set: textured shapes on cluttered backgrounds, a pure function of an index.

Image ``index`` of a split depends on nothing but ``(split, index)``: any number of images can be
rendered, in any order, in any process. Drawing is integer arithmetic (fixed-point polygons,
integer textures and blending), so that every machine renders the same bytes.

What makes it hard enough that compression has something to lose: objects down to 20 pixels across,
objects that hide each other, classes that differ only in texture (the two discs, the two tiles),
unlabelled clutter that wears the same textures, colours that say nothing about the class.

Axis letters: H, W are image rows and columns, h, w those of an object's patch, K is the number of
objects in an image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # [H, W, 3]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

IMAGE_SIZE = 320
SPLITS: Mapping[str, int] = MappingProxyType({"train": 1, "val": 2, "test": 3})  # seeds

_SEED = 20_240_517
_OBJECTS = (4, 13)  # objects tried per image, upper end excluded
_CLUTTER = (6, 16)
_DIAMETER_PX = (20.0, 150.0)  # log-uniform
_MIN_VISIBLE = 0.4  # an object that would hide more than the rest of another one is not drawn
_NOISE = 6  # amplitude of the pixel noise, grey levels
_SHIFT = 4  # fractional bits of polygon vertices
_UNIT = 1 << 12  # fixed-point one of the texture coordinates


@dataclass(frozen=True, slots=True)
class _Kind:
    """One class: its outlines in the unit disc and the textures it may wear."""

    name: str
    contours: tuple[FloatArray, ...]  # each [vertices, 2]; a second contour cuts a hole
    textures: tuple[str, ...]


def _regular(vertices: int, radius: float = 1.0) -> FloatArray:
    """A regular polygon around the origin, [vertices, 2]."""
    angle = 2 * np.pi * np.arange(vertices) / vertices
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star(points: int, inner_radius: float) -> FloatArray:
    """A star whose tips lie on the unit circle, [2 * points, 2]."""
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner_radius)
    return _regular(2 * points) * radius[:, None]


def _cross(arm: float) -> FloatArray:
    """A plus sign with arms of half width ``arm``, [12, 2]."""
    corner = [(1, -arm), (1, arm), (arm, arm)]
    turns = [((x, y), (-y, x), (-x, -y), (y, -x)) for x, y in corner]
    return np.array([point for turn in zip(*turns, strict=True) for point in turn])


_ARROW = np.array([(1, 0), (0, 0.8), (0, 0.3), (-0.95, 0.3), (-0.95, -0.3), (0, -0.3), (0, -0.8)])
_ANY = ("striped", "checked", "dotted", "shaded")

_KINDS = (
    _Kind("striped disc", (_regular(40),), ("striped",)),
    _Kind("dotted disc", (_regular(40),), ("dotted",)),
    _Kind("ring", (_regular(40), _regular(40, 0.55)), _ANY),
    _Kind("striped tile", (_regular(4),), ("striped",)),
    _Kind("checked tile", (_regular(4),), ("checked",)),
    _Kind("triangle", (_regular(3),), _ANY),
    _Kind("star", (_star(5, 0.45),), _ANY),
    _Kind("cross", (_cross(0.33),), _ANY),
    _Kind("hexagon", (_regular(6),), _ANY),
    _Kind("arrow", (_ARROW,), _ANY),
)

NAMES: tuple[str, ...] = tuple(kind.name for kind in _KINDS)


def render(split: str, index: int) -> tuple[Image, IntArray, FloatArray]:
    """Render image ``index`` of a split.

    Args:
        split: "train", "val" or "test".
        index: 0 or more; there is no last image.

    Returns:
        The image [H, W, 3] (RGB, uint8), the classes [K] (indices into ``NAMES``) and the boxes
        [K, 4] (left, top, right, bottom in pixels; the tight extent of what is visible).

    Raises:
        ValueError: The split is unknown or the index negative.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(
            f"expected a split of {sorted(SPLITS)} and an index >= 0, got {split!r}, {index}"
        )
    rng = np.random.default_rng([_SEED, SPLITS[split], index])
    image = _background(rng)
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, np.int16)  # which object is on top
    classes: list[int] = []
    areas: list[int] = []  # pixels of each object, whole
    visible: list[int] = []  # pixels of each object that are still on top
    for _ in range(rng.integers(*_OBJECTS)):
        label = int(rng.integers(len(_KINDS)))
        kind = _KINDS[label]
        patch = _patch(rng, kind.contours, str(rng.choice(kind.textures)))
        if patch is None:
            continue
        inside = patch.alpha > 127
        below = patch.view(owner)
        left = visible - np.bincount(below[inside] + 1, minlength=len(areas) + 1)[1:]
        if np.any(left < _MIN_VISIBLE * np.array(areas)):
            continue
        below[inside] = len(classes)
        patch.blend_into(image)
        classes.append(label)
        areas.append(patch.full_area)
        visible = [*left.tolist(), int(np.count_nonzero(inside))]
    return _add_noise(rng, image), np.array(classes, np.int64), _visible_boxes(owner, len(classes))


@dataclass(frozen=True, slots=True)
class _Patch:
    """A textured shape, cut at the image's border, ready to be blended in."""

    top: int
    left: int
    alpha: npt.NDArray[np.uint8]  # [h, w], 255 = opaque
    colour: Image  # [h, w, 3]
    full_area: int  # pixels of the shape, those beyond the border included

    def view(self, canvas: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """The part of a canvas [H, W, ...] that this patch covers."""
        height, width = self.alpha.shape
        return canvas[self.top : self.top + height, self.left : self.left + width]

    def blend_into(self, image: Image) -> None:
        """Blend the patch over the image, in place and in integers."""
        below = self.view(image)
        alpha = self.alpha[:, :, None].astype(np.uint16)
        below[:] = (alpha * self.colour + (255 - alpha) * below + 127) // 255


def _patch(
    rng: np.random.Generator, contours: tuple[FloatArray, ...], texture: str
) -> _Patch | None:
    """Place a shape at random: size, aspect, rotation, centre, colours. None: hardly inside."""
    low, high = np.log(_DIAMETER_PX)
    radius = np.exp(rng.uniform(low, high)) / 2
    squeeze = rng.uniform(0.7, 1.0)
    turn, texture_turn = rng.uniform(0, 2 * np.pi, 2)
    centre = rng.uniform(0, IMAGE_SIZE, 2)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine = radius * rotate @ np.diag([1.0, squeeze])
    points = [contour @ affine.T + centre for contour in contours]

    corner = np.floor(points[0].min(axis=0)).astype(int) - 1
    width, height = np.ceil(points[0].max(axis=0)).astype(int) + 2 - corner
    alpha = np.zeros((height, width), np.uint8)
    fixed = [np.rint((p - corner) * (1 << _SHIFT)).astype(np.int32) for p in points]
    cv2.fillPoly(alpha, fixed, 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    full_area = int(np.count_nonzero(alpha > 127))

    left, top = np.maximum(corner, 0)
    alpha = alpha[
        top - corner[1] : IMAGE_SIZE - corner[1], left - corner[0] : IMAGE_SIZE - corner[0]
    ]
    colour = _paint(rng, texture, alpha.shape, 2 * radius, texture_turn)
    if np.count_nonzero(alpha > 127) < _MIN_VISIBLE * full_area:
        return None
    return _Patch(int(top), int(left), alpha, colour, full_area)


def _paint(
    rng: np.random.Generator, texture: str, shape: tuple[int, ...], diameter_px: float, turn: float
) -> Image:
    """Fill a patch [h, w, 3] with a texture of two random, distinct colours."""
    first = rng.integers(0, 256, 3)
    second = (first + rng.integers(70, 187, 3)) % 256  # at least 70 grey levels apart
    height, width = shape
    cos, sin = np.rint(_UNIT * np.array([np.cos(turn), np.sin(turn)])).astype(np.int64)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    period = int(max(4.0, rng.uniform(0.18, 0.34) * diameter_px) * 16)  # 1/16 pixel
    u, v = (x * cos + y * sin) * 16 // _UNIT, (y * cos - x * sin) * 16 // _UNIT  # 1/16 pixel
    weight = _TEXTURES[texture](u, v, period)[:, :, None]
    return ((weight * first + (256 - weight) * second) // 256).astype(np.uint8)


# Textures: the weight [h, w] (0..256) of the first colour at rotated coordinates u, v.
def _striped(u: IntArray, _v: IntArray, period: int) -> IntArray:
    return np.where(u % period * 2 < period, 256, 0)


def _checked(u: IntArray, v: IntArray, period: int) -> IntArray:
    return np.where((u % period * 2 < period) ^ (v % period * 2 < period), 256, 0)


def _dotted(u: IntArray, v: IntArray, period: int) -> IntArray:
    du, dv = 2 * (u % period) - period, 2 * (v % period) - period
    return np.where((du * du + dv * dv) * 10 < 4 * period * period, 256, 0)


def _shaded(u: IntArray, _v: IntArray, _period: int) -> IntArray:
    low, high = int(u.min()), int(u.max())
    return (u - low) * 256 // max(high - low, 1)


_TEXTURES: Mapping[str, Callable[[IntArray, IntArray, int], IntArray]] = MappingProxyType(
    {"striped": _striped, "checked": _checked, "dotted": _dotted, "shaded": _shaded}
)


def _background(rng: np.random.Generator) -> Image:
    """A soft colour field under lines and irregular textured blobs that are no objects."""
    cells = int(rng.integers(2, 12))
    field = rng.integers(0, 256, (cells, cells, 3), np.uint8)
    image = cv2.resize(field, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR_EXACT)
    for _ in range(rng.integers(*_CLUTTER)):
        if rng.random() < 0.5:
            ends = rng.integers(0, IMAGE_SIZE, (2, 2)).tolist()
            colour = rng.integers(0, 256, 3).tolist()
            cv2.line(image, ends[0], ends[1], colour, int(rng.integers(1, 6)))
        else:
            corners = int(rng.integers(5, 9))
            blob = _regular(corners) * rng.uniform(0.3, 1.0, (corners, 1))
            patch = _patch(rng, (blob,), str(rng.choice(_ANY)))
            if patch is not None:
                patch.blend_into(image)
    return image


def _visible_boxes(owner: npt.NDArray[np.int16], count: int) -> FloatArray:
    """The tight box [K, 4] of each object's visible pixels."""
    boxes = np.zeros((count, 4))
    for k in range(count):
        on_top = owner == k
        rows, columns = np.flatnonzero(on_top.any(axis=1)), np.flatnonzero(on_top.any(axis=0))
        boxes[k] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _add_noise(rng: np.random.Generator, image: Image) -> Image:
    """Add uniform pixel noise, clipped to 0..255."""
    noise = rng.integers(-_NOISE, _NOISE + 1, image.shape, np.int16)
    return np.clip(image + noise, 0, 255).astype(np.uint8)
