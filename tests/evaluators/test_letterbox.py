from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.letterbox import letterbox, place, to_image


@pytest.mark.parametrize("imgsz", [320, 416])
@pytest.mark.parametrize("shape", [(426, 640), (640, 427), (333, 500), (100, 100), (480, 77)])
def test_equals_ultralytics_val(shape: tuple[int, int], imgsz: int, tmp_path) -> None:  # noqa: ANN001
    import cv2
    from ultralytics.data.dataset import YOLODataset

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    theirs = YOLODataset(
        img_path=str(tmp_path / "images"),
        imgsz=imgsz,
        rect=False,
        augment=False,
        data={"names": {0: "a"}, "nc": 1, "channels": 3},
    )[0]
    ours = letterbox(image, imgsz)
    np.testing.assert_array_equal(ours[..., ::-1].transpose(2, 0, 1), theirs["img"].numpy())
    (height, width), (left, top) = theirs["ratio_pad"]
    at = place(*shape, imgsz)
    assert (at.resized_height / at.height, at.resized_width / at.width) == (height, width)
    assert (at.left, at.top) == (left, top)


@given(
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    imgsz=st.sampled_from([32, 320, 416, 640]),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=200, deadline=None)
def test_boxes_come_back(height: int, width: int, imgsz: int, corner: tuple[float, float]) -> None:
    at = place(height, width, imgsz)
    assert 0 <= at.top <= imgsz - at.resized_height
    assert 0 <= at.left <= imgsz - at.resized_width
    x, y = corner[0] * width, corner[1] * height
    inside = [
        x * at.resized_width / width + at.left,
        y * at.resized_height / height + at.top,
    ]
    back = to_image(np.array([inside * 2], dtype=np.float32), at)
    np.testing.assert_allclose(back, [[x, y, x, y]], atol=1e-3 * max(height, width))
