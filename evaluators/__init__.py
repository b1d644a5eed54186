"""How good is it? Everything between a candidate and its score; runs inside actors, knows no ray.

score.py         Score or Failed: what an evaluation returns
dataset.py       images and truth as one value that travels; reads ultralytics data YAMLs
annotations.py   YOLO txt rows and COCO json, each fault named by file and line
letterbox.py     an image into its square, and boxes back
detection.py     raw outputs -> detections -> COCO mAP
bootstrap.py     mAP on resampled images: how much of it is luck
refit.py         the channels that are left stand in for those removed (least squares)
reconstruct.py   every layer in turn makes up for what all before it lost
bit_table.py     what few bits of one layer alone cost: what mixed bits are chosen from
batchnorm.py     each channel of a compressed network gets its dense distribution back
distortion.py    distance of outputs and agreement of detections, against the dense model
dense.py         what is measured once on the dense model for each input size
prefix.py        candidates start where they first differ from the dense model
evaluator.py     candidate -> compressed model -> Score or Failed
verify.py        whether a written file is what was promised
demo/            the embedded default: a small trained YOLOv5 and its generated data set
"""
