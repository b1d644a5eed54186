from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluators.dataset import Dataset, load_dataset
from evaluators.demo import demo_dataset, demo_detector
from evaluators.detection import detect, score_detections

SCALE = 2  # the tiny images are 100 pixels wide: at imgsz 200 every box doubles


def found(*rows: tuple[float, float, float, float, float, int]) -> torch.Tensor:
    """Rows of left, top, width, height in image pixels, score, class -> what `detect` returns."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    table[:, 2:4] += table[:, :2]
    table[:, :4] *= SCALE
    return table


def test_mean_average_precision_by_hand(tiny: Dataset) -> None:
    """Class 0: hit .9, miss .8, hit .7 of 3 objects. Class 1: one box, IoU 16*20/(2*400-320) = 2/3.

    Class 0: precision 1 up to recall 1/3 (34 of 101 levels), 2/3 up to recall 2/3 (33 levels).
    Class 1: 1 at the thresholds .5 .55 .6 .65, else 0.
    """
    detections = [
        found((10, 10, 40, 40, 0.9, 0), (64, 60, 20, 20, 0.6, 1)),
        found((0, 50, 50, 50, 0.8, 0), (50, 50, 50, 50, 0.7, 0)),
    ]
    accuracy = score_detections(detections, tiny, 100 * SCALE, by_area=True)
    class_0 = (34 + 33 * 2 / 3) / 101
    assert accuracy.map50 == pytest.approx((class_0 + 1.0) / 2)
    assert accuracy.map50_95 == pytest.approx((class_0 + 0.4) / 2)
    assert dict(accuracy.per_class) == pytest.approx({"square": class_0, "disc": 0.4})
    assert accuracy.small == pytest.approx(0.4)  # the disc's 400 square pixels
    assert accuracy.medium == pytest.approx(class_0)
    assert accuracy.large is None
    overall = score_detections(detections, tiny, 100 * SCALE)
    assert overall == replace(accuracy, small=None, medium=None)


def test_classes_that_the_data_lacks_and_data_without_objects_count_nothing(tiny: Dataset) -> None:
    wider = replace(tiny, names=("square", "disc", "cross"))
    seen = found((10, 10, 40, 40, 0.9, 0), (64, 60, 20, 20, 0.9, 2))
    accuracy = score_detections([seen, found()], wider, 200)
    assert [name for name, _ in accuracy.per_class] == ["square", "disc"]
    assert accuracy == score_detections([seen[:1], found()], tiny, 200)
    empty = replace(tiny, annotations=())
    assert score_detections([seen, found()], empty, 200).map50_95 == 0.0


def test_perfect_and_no_detections(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    rows: dict[int, list[tuple[float, float, float, float, float, int]]] = {7: [], 9: []}
    for a in tiny.annotations:
        rows[a.image_id].append((*a.box_xywh, 0.9, a.class_index))
    perfect = [found(*rows[image_id]) for image_id in tiny.image_ids]
    assert score_detections(perfect, tiny, 200).map50_95 == pytest.approx(1.0)
    nothing = score_detections([found(), found()], tiny, 200)
    assert (nothing.map50_95, nothing.map50) == (0.0, 0.0)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="expected detections of 2 images, got 1"):
        score_detections(perfect[:1], tiny, 200)


def random_outputs(seed: int, classes: int = 5, anchors: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(3, 4, anchors, generator=generator)
    boxes[:, :2] *= 320
    boxes[:, 2:] = boxes[:, 2:] * 80 + 1
    scores = torch.rand(3, classes, anchors, generator=generator) ** 6
    return torch.cat([boxes, scores], dim=1)


@pytest.mark.parametrize("anchors", [50, 400, 3000])
def test_suppression_equals_ultralytics(anchors: int) -> None:
    from ultralytics.utils.nms import non_max_suppression

    outputs = random_outputs(anchors, anchors=anchors)
    theirs = non_max_suppression(
        outputs.clone(), 0.001, 0.7, multi_label=True, max_det=300, max_time_img=1000
    )
    for ours, expected in zip(detect(outputs), theirs, strict=True):
        torch.testing.assert_close(ours, expected)


def test_few_boxes_under_many_candidates_equals_ultralytics() -> None:
    from ultralytics.utils.nms import non_max_suppression

    outputs = random_outputs(1, classes=1, anchors=4000)[:1]
    outputs[:, :4] = torch.tensor([50.0, 50, 20, 20])[None, :, None]  # all on one place
    outputs[:, :2, 3990:] = 200  # but the last ten
    theirs = non_max_suppression(outputs.clone(), 0.001, 0.7, max_det=300, max_time_img=1000)
    (ours,) = detect(outputs)
    assert len(ours) == 2
    torch.testing.assert_close(ours, theirs[0])


def test_no_candidates() -> None:
    assert [rows.shape for rows in detect(torch.zeros(2, 9, 30))] == [(0, 6), (0, 6)]


def outputs_of(net: torch.nn.Module, data: Dataset, imgsz: int) -> list[torch.Tensor]:
    detections = []
    with torch.inference_mode():
        for squares in data.squares(imgsz).split(8):
            output = net(squares.float() / 255)
            detections += detect(output[0] if isinstance(output, tuple) else output)
    return detections


def validate(model: object, folder: Path) -> object:
    return model.val(
        data=str(folder / "data.yaml"),
        imgsz=320,
        rect=False,
        batch=8,
        workers=0,
        plots=False,
        verbose=False,
        project=str(folder / "runs"),
    )


def test_agrees_with_ultralytics_val_on_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    monkeypatch.chdir(tmp_path)
    detector, drawn = demo_detector(), demo_dataset("val", 48)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for image_id, image, (height, width) in zip(
        drawn.image_ids, drawn.images, drawn.sizes, strict=True
    ):
        (tmp_path / "images" / f"{image_id:03}.png").write_bytes(image)
        rows = [
            f"{a.class_index} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            for a in drawn.annotations
            if a.image_id == image_id
            for x, y, w, h in [a.box_xywh]
        ]
        (tmp_path / "labels" / f"{image_id:03}.txt").write_text("\n".join(rows))
    (tmp_path / "data.yaml").write_text(f"train: images\nval: images\nnames: {list(drawn.names)}\n")
    theirs = YOLO("yolov5n.yaml")
    theirs.model = DetectionModel(detector.net.yaml, verbose=False)
    theirs.model.load_state_dict(detector.net.state_dict())
    theirs.model.names = dict(enumerate(detector.names))
    result = validate(theirs, tmp_path)
    data = load_dataset(tmp_path / "data.yaml", "val")
    ours = score_detections(outputs_of(detector.net, data, 320), data, 320)
    assert ours.map50_95 == pytest.approx(result.box.map, abs=0.005)
    assert ours.map50 == pytest.approx(result.box.map50, abs=0.005)
    as_drawn = score_detections(outputs_of(detector.net, drawn, 320), drawn, 320)
    assert as_drawn.map50_95 == pytest.approx(ours.map50_95, abs=1e-3)


def test_agrees_with_ultralytics_val_on_real_images(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO

    # a copy: ultralytics writes a cache beside the labels
    for folder in ("images/val", "labels/val"):
        shutil.copytree(shared / "bccd" / folder, tmp_path / folder)
    (tmp_path / "data.yaml").write_text(
        "train: images/val\nval: images/val\nnames: [RBC, WBC, Platelets]\n"
    )
    monkeypatch.chdir(tmp_path)
    model = YOLO(str(shared / "weights" / "bccd_yolov5nu_320.pt"))
    data = load_dataset(tmp_path / "data.yaml", "val")
    ours = score_detections(outputs_of(model.model.float().eval(), data, 320), data, 320)
    theirs = validate(model, tmp_path)
    assert ours.map50_95 == pytest.approx(theirs.box.map, abs=0.005)
    assert ours.map50 == pytest.approx(theirs.box.map50, abs=0.005)
    assert [ap for _, ap in ours.per_class] == pytest.approx(theirs.box.maps, abs=0.01)
