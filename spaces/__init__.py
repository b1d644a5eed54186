"""What may be changed about a detector, and how the change is made.

| module | what it holds |
| --- | --- |
| `model` | a `Detector` and how it is loaded safely |
| `checkpoint` | reads `.pt` files without running anything in them |
| `architecture`, `classic` | model dictionaries, and the networks built from them |
| `trace`, `groups` | layers and shapes; channels that must be removed together |
| `ignore` | which layers a user wants left alone |
| `space`, `candidate` | the variables of a search, and one point of it |
| `axis`, `shapes` | variables of one kind; many candidates as workloads |
| `saliency` | which channels matter most |
| `compress` | a really smaller network of a candidate |
| `sparsity` | which weights of a layer are kept, and what those become |
| `quantization` | fewer bits for weights and activations |
| `export`, `onnx_detector` | the compressed network as an ONNX file, and running it |
| `cpu_form` | few-bit activations as ONNX Runtime's CPU kernels want them |
"""

import os

# ultralytics looks for updates on the network when it is imported, unless told otherwise.
os.environ.setdefault("YOLO_OFFLINE", "1")
