"""The networks of the measured rows, layer by layer.

builder.py    a small notation for convolutional networks; makes `Workload`s without torch
slim.py       TF-slim classifiers, GoogLeNet (Caffe), the QuTiBench nets
darknet.py    YOLOv3, YOLOv4 and their tiny, SPP, CSP and x-mish variants
yolo.py       classic YOLOv5, YOLOv7, YOLOX
heads.py      SSD-MobileNet-v1, fcn-resnet18, the trt_pose nets
traced.py     nets traced from torchvision and ultralytics through ONNX
__main__.py   writes hw_models/measurements/networks.csv: `python -m benchmarks.networks`
"""
