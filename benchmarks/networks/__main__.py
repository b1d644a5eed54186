"""Write hw_models/measurements/networks.csv."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.networks import darknet, heads, slim, yolo
from hw_models.networks import MEASUREMENTS, write_networks
from hw_models.workload import Workload

YOLOV5_DEPTHS = {"33": 1 / 3, "67": 2 / 3, "1": 1.0}
YOLOV5_WIDTHS = {"25": 0.25, "5": 0.5, "75": 0.75, "1": 1.0}


def written_down() -> Iterator[tuple[str, Workload]]:
    """Yield the networks that are noted by hand."""
    yield "inception_v1", slim.inception_v1(224, 224)
    yield "inception_v2", slim.inception_v2(224, 224)
    yield "inception_v4", slim.inception_v4(299, 299)
    yield "inception_resnet_v2", slim.inception_resnet_v2(299, 299)
    for depth, units in (("50", (3, 4, 6, 3)), ("101", (3, 4, 23, 3)), ("152", (3, 8, 36, 3))):
        yield f"resnet_v1_{depth}", slim.resnet(224, 224, units, 1)
        yield f"resnet_v2_{depth}", slim.resnet(299, 299, units, 2)
    for width, size in ((0.25, 128), (0.5, 160), (1.0, 224)):
        name = f"mobilenet_v1_{width}_{size}".replace(".", "p")
        yield name, slim.mobilenet_v1(size, size, width)
    yield "googlenet", slim.googlenet(224, 224)
    for percent in (100, 50, 25, 12.5):
        yield f"cnv_{percent:g}", slim.cnv(percent / 100)
        yield f"mlp_{percent:g}", slim.mlp(percent / 100)
    yield "yolov3", darknet.yolov3(608, 608)
    yield "yolov3_spp", darknet.yolov3_spp(608, 608)
    yield "yolov3_tiny", darknet.yolov3_tiny(416, 416)
    yield "yolov4", darknet.yolov4(512, 512)
    yield "yolov4_tiny", darknet.yolov4_tiny(416, 416)
    yield "yolov4_csp", darknet.yolov4_csp(512, 512)
    yield "yolov4x_mish", darknet.yolov4x_mish(640, 640)
    yield "ssd_mobilenet_v1", heads.ssd_mobilenet_v1(300, 300)
    yield "ssd_resnet34", heads.ssd_resnet34(1200, 1200)
    yield "fcn_resnet18", heads.fcn_resnet18(1024, 2048)
    yield "pose_resnet18", heads.pose_resnet18(224, 224)
    yield "pose_densenet121", heads.pose_densenet121(256, 256)
    for depth, deep in YOLOV5_DEPTHS.items():
        for width, wide in YOLOV5_WIDTHS.items():
            yield f"yolov5_d{depth}w{width}", yolo.yolov5(640, 640, deep, wide)
    yield "yolov7", yolo.yolov7(640, 640)
    yield "yolov7_tiny", yolo.yolov7_tiny(640, 640)
    yield "yolox_nano", yolo.yolox(640, 640, 0.33, 0.25, separable=True)
    yield "yolox_tiny", yolo.yolox(640, 640, 0.33, 0.375)
    yield "yolox_s", yolo.yolox(640, 640, 0.33, 0.5)
    yield "yolox_m", yolo.yolox(640, 640, 0.67, 0.75)


if __name__ == "__main__":
    # torch and ultralytics: only where the table is made anew
    from benchmarks.networks.traced import traced

    write_networks(MEASUREMENTS / "networks.csv", [*written_down(), *traced()])
